"""Adversarial training with projected gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.recipe import Adversarial


@dataclass(frozen=True, kw_only=True)
class PGDTraining(Adversarial):
    """min E max CE(f(x'), y): every example is replaced by the point that PGD finds from a random start.

    steps, step_size: of the inner maximisation, the size in units of epsilon. evaluating: craft in evaluation mode (Pang et
    al., ICLR 2021, arXiv:2010.00467, sec. 3.7), not in training mode as the first code did.
    Madry, Makelov, Schmidt, Tsipras, Vladu, ICLR 2018, arXiv:1706.06083.
    """

    steps: int = 10
    step_size: float = 0.25
    evaluating: bool = True

    paper = "Madry et al., ICLR 2018, arXiv:1706.06083"
    cost = "(k+1)(F+Bx)+Bw"
    purpose = "the reference that every other recipe is measured against"

    def attacked(self, batch: Batch) -> Tensor:
        start = batch.random_point()
        return batch.ascend(batch.misled, start, steps=self.steps, step_size=self.step_size, evaluating=self.evaluating)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        return functional.cross_entropy(batch.network(batch.shown(point)), batch.y)
