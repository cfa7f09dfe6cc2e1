"""Fast adversarial training: one step from a random start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.recipe import Adversarial


@dataclass(frozen=True, kw_only=True)
class Fast(Adversarial):
    """One steepest step of 1.25 epsilon from a random point of the set, projected.

    gradalign: the weight of 1 - cos(gradient at x, gradient at a random point), which keeps the loss locally linear, so that one
    step stays a good maximiser; 0 leaves it out, 0.2 is the paper's at 8/255, more for larger budgets. Where training still
    overfits to the one step, the loop sees robust accuracy break down, goes back and goes on with `calmer`.
    Wong, Rice, Kolter, ICLR 2020, arXiv:2001.03994; Andriushchenko & Flammarion, NeurIPS 2020, arXiv:2007.02617.
    """

    step_size: float = 1.25
    gradalign: float = 0.0

    paper = "Wong et al., ICLR 2020, arXiv:2001.03994"
    cost = "2F+2Bx+Bw"
    purpose = "robustness for twice the price of standard training; watch for catastrophic overfitting"

    @property
    def shards(self) -> bool:
        return not self.gradalign

    def attacked(self, batch: Batch) -> Tensor:
        return batch.ascend(batch.misled, batch.random_point(), steps=1, step_size=self.step_size, evaluating=False)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        loss = functional.cross_entropy(batch.network(batch.shown(point)), batch.y)
        return loss + self.gradalign * self.misalignment(batch) if self.gradalign else loss

    def misalignment(self, batch: Batch) -> Tensor:
        """1 - cos between the gradients of the loss at x0 and at a random point, averaged over the rows; differentiable in the
        weights through both."""
        origin = batch.threat.origin(batch.x0)
        here, there = (
            self._gradient(batch, point).flatten(1)
            for point in (origin, batch.threat.random_point(batch.x0, batch.stream.at("gradalign")))
        )
        return 1 - functional.cosine_similarity(here, there, dim=1).mean()

    @staticmethod
    def _gradient(batch: Batch, point: Tensor) -> Tensor:
        point = point.requires_grad_()
        loss = functional.cross_entropy(batch.network(batch.shown(point)), batch.y, reduction="sum")
        return torch.autograd.grad(loss, point, create_graph=True)[0]

    def calmer(self) -> Self:
        return replace(self, gradalign=2 * self.gradalign or 0.2)
