"""Adversarial logit pairing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.pgd import PGDTraining


@dataclass(frozen=True, kw_only=True)
class ALP(PGDTraining):
    """Cross-entropy on clean and on attacked examples, half each, and weight * mean ||z(x) - z(x')||^2.

    Kept as a warning: it bends the loss so that attacks of few steps fail; Engstrom, Ilyas, Athalye, 2018, arXiv:1807.10272,
    broke it with more. weight: lambda.
    Kannan, Kurakin, Goodfellow, 2018, arXiv:1803.06373.
    """

    weight: float = 0.5

    paper = "Kannan et al., 2018, arXiv:1803.06373"
    cost = "(k+2)F+(k+2)Bx+2Bw"
    purpose = "a lesson: pairing logits masks gradients"

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        clean, attacked = batch.network(batch.x0), batch.network(batch.shown(point))
        both = functional.cross_entropy(clean, batch.y) + functional.cross_entropy(attacked, batch.y)
        loss: Tensor = both / 2 + self.weight * (clean - attacked).square().sum(1).mean()
        return loss
