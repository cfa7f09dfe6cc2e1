"""Standard training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Standard(Recipe):
    """Cross-entropy on clean examples. label_smoothing: of the labels' probability, spread over all classes."""

    label_smoothing: float = 0.0

    paper = "-"
    cost = "F+Bw"
    purpose = "the yardstick: accurate, and not robust"
    sets = ()

    def loss(self, batch: Batch) -> Tensor:
        return functional.cross_entropy(batch.network(batch.x0), batch.y, label_smoothing=self.label_smoothing)
