"""Batch: what a recipe sees of one step of the loop, and the inner maximisation of adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import RequestError
from mohs.models.frozen import crafting as crafting
from mohs.rng import Stream
from mohs.threat import Threat

Climbed = Callable[[Tensor], Tensor]  # logits [n, classes] -> what the inner maximisation climbs [n]


@dataclass
class Batch:
    """n examples on their way through one step.

    network: in training mode; network(x) are logits. x0 [n, *input]; y [n] int64, or [n, classes] where augmentation mixed
    labels. rows [n]: their positions in the training data. stream: a key a row, of this epoch. joint: one key, the same in every
    process. progress: of the whole training, 0 to 1. memory: tensors that a recipe carries from batch to batch; they are in every
    checkpoint. aids: other networks that the recipe asked for, frozen, in evaluation mode.
    """

    network: nn.Module
    x0: Tensor
    y: Tensor
    rows: Tensor
    stream: Stream
    joint: Stream = field(default_factory=lambda: Stream.of(0, torch.arange(1)))
    given: Threat | None = None
    progress: float = 0.0
    memory: dict[str, Tensor] = field(default_factory=dict)
    aids: dict[str, nn.Module] = field(default_factory=dict)
    done: list[Callable[[], None]] = field(default_factory=list)

    @property
    def threat(self) -> Threat:
        """What the network is hardened against."""
        if self.given is None:
            raise RequestError("this recipe trains against a threat: give --threat, such as linf:8/255")
        return self.given

    def against(self, threat: Threat) -> Batch:
        """The same step under another threat."""
        return replace(self, given=threat)

    def after_backward(self, what: Callable[[], None]) -> None:
        """Call this once the gradients of the loss are there, before the optimiser uses them."""
        self.done.append(what)

    def shown(self, point: Tensor) -> Tensor:
        """The inputs of points of the threat."""
        return self.threat.apply(point, self.x0, self.stream)

    def random_point(self) -> Tensor:
        return self.threat.random_point(self.x0, self.stream.at("start"))

    def ascend(self, loss: Climbed, start: Tensor, *, steps: int, step_size: float, evaluating: bool = True) -> Tensor:
        """The point that `steps` steepest steps of `step_size` epsilons along the gradient of the loss lead to from `start`.

        evaluating: with the network in evaluation mode, so that attacked inputs leave no trace in running averages.
        Madry et al., ICLR 2018, arXiv:1706.06083."""
        point = start
        with crafting(self.network, evaluating):
            for _ in range(steps):
                point = self.threat.step(point, self.gradient(loss, point), self.x0, step_size)
        return point

    def misled(self, logits: Tensor) -> Tensor:
        """Cross-entropy of each row: what most recipes climb."""
        return functional.cross_entropy(logits, self.y, reduction="none")

    def gradient(self, loss: Climbed, point: Tensor) -> Tensor:
        """Of the loss in the point; the network's own parameters gather none."""
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(self.network(self.shown(point))).sum(), point)
        return gradient
