"""One-step adversarial training that adds more noise and does not clip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.recipe import Adversarial


@dataclass(frozen=True, kw_only=True)
class NFGSM(Adversarial):
    """One step of step_size epsilon along the sign of the gradient at x + U(-noise epsilon, noise epsilon), with no clipping to
    the ball, only to the bounds: what it trains on lies up to (noise + step_size) epsilon away.

    noise: k, 2 for CIFAR-10; more of it holds catastrophic overfitting off at larger budgets, which is what `calmer` does.
    de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez, Dokania, NeurIPS 2022, arXiv:2202.01181.
    """

    noise: float = 2.0
    step_size: float = 1.0

    paper = "de Jorge et al., NeurIPS 2022, arXiv:2202.01181"
    cost = "2F+2Bx+Bw"
    purpose = "as cheap as fast, and seldom overfits to its one step"
    sets = ("linf",)

    def attacked(self, batch: Batch) -> Tensor:
        start = batch.threat.random_point(batch.x0, batch.stream.at("start"), self.noise * batch.threat.epsilon)
        reach = self.noise + self.step_size
        wide = batch.against(replace(batch.threat, epsilon=reach * batch.threat.epsilon))
        return wide.ascend(batch.misled, start, steps=1, step_size=self.step_size / reach, evaluating=False)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        return functional.cross_entropy(batch.network(point), batch.y)

    def calmer(self) -> Self:
        return replace(self, noise=self.noise + 1)
