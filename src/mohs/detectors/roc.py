"""How well scores part attacked inputs from clean ones, whatever the threshold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ROC(NamedTuple):
    """fpr, tpr [k], ascending from (0, 0) to (1, 1): shares of clean and attacked inputs with a score at or above each of the
    k - 1 different ones."""

    fpr: Tensor
    tpr: Tensor

    @staticmethod
    def of(clean: Tensor, attacked: Tensor) -> ROC:
        """From scores [n] and [m]."""
        scores, order = torch.cat([clean, attacked]).double().sort(descending=True)
        hit = (order >= len(clean)).double()
        last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])  # of those that are equal
        zero = torch.zeros(1, dtype=torch.float64)
        tpr, fpr = (torch.cat([zero, part.cumsum(0)[last] / part.sum()]) for part in (hit, 1 - hit))
        return ROC(fpr, tpr)

    @property
    def auroc(self) -> float:
        """The chance that an attacked input scores above a clean one, ties half."""
        return float(torch.trapezoid(self.tpr, self.fpr))

    def tpr_at(self, fpr: float) -> float:
        """The largest share of attacked inputs found at a share of false alarms of at most `fpr`."""
        return float(self.tpr[self.fpr <= fpr].max())
