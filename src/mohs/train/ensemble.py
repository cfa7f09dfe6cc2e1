"""Ensemble adversarial training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import RequestError
from mohs.train.batch import Batch
from mohs.train.recipe import Adversarial, Trainer
from mohs.train.standard import Standard


@dataclass(frozen=True, kw_only=True)
class Ensemble(Adversarial):
    """CE(f(x), y) / 2 + CE(f(x'), y) / 2, where x' is made on a source drawn for every batch, uniformly, from static models and f
    itself: x~ = x + alpha epsilon sign(N(0, I)), and then (1 - alpha) epsilon along the sign of the source's gradient at x~
    (R+FGSM), of its loss at the label it predicts there, so that no true label leaks. In other norms the steepest steps.

    members: static models, trained first by `standard`; the paper takes other architectures too, here they are the same network
    from other first weights. decoupled: the static models alone are sources. alpha: 0 is FGSM.
    Tramer, Kurakin, Papernot, Goodfellow, Boneh, McDaniel, ICLR 2018, arXiv:1705.07204.
    """

    members: int = 3
    alpha: float = 0.5
    decoupled: bool = False

    paper = "Tramer et al., ICLR 2018, arXiv:1705.07204"
    cost = "3F+Bx+2Bw, after the members' trainings"
    purpose = "against attacks made on other models; those that follow its own gradients get through"
    sets = ("linf", "l2")
    hardens = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha >= 1:
            raise RequestError(f"ensemble: alpha should be below 1, the part of the budget that is drawn, not {self.alpha:g}")

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        names = [f"static-{k}" for k in range(self.members)]
        return {name: train.fit(name, Standard()) for name in names}

    def source(self, batch: Batch) -> nn.Module:
        """The network whose gradient this batch follows: the same in every process."""
        sources = list(batch.aids.values()) if self.decoupled else [*batch.aids.values(), batch.network]
        return sources[int(batch.joint.at("source").integers(len(sources)))]

    def attacked(self, batch: Batch) -> Tensor:
        noise = batch.stream.at("start").normal(*batch.x0.shape[1:])
        start = batch.threat.step(batch.x0, noise, batch.x0, self.alpha)
        asked = replace(batch, network=self.source(batch))
        return asked.ascend(predicted, start, steps=1, step_size=1 - self.alpha)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        clean, attacked = batch.network(batch.x0), batch.network(batch.shown(point))
        return (functional.cross_entropy(clean, batch.y) + functional.cross_entropy(attacked, batch.y)) / 2


def predicted(logits: Tensor) -> Tensor:
    """Cross-entropy [n] at the labels that the logits themselves predict."""
    return functional.cross_entropy(logits, logits.argmax(1), reduction="none")
