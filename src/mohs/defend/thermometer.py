"""Thermometer encoding."""

from __future__ import annotations

import torch
from torch import Tensor

from mohs.defend.base import Defence, unit
from mohs.errors import ModelError
from mohs.models import Model
from mohs.rng import Stream


class Thermometer(Defence):
    """Every entry u of the range becomes `levels` zeros and ones, of which the k-th, k = 0 .. levels - 1, is 1 where
    u > k / levels. For a model that was trained on the code: inputs [n, channels, ...] are shown as [n, channels * levels, ...],
    the levels of a channel side by side.

    No derivative. Attacks pass it as they pass clamp(u - k / levels, 0, 1): a ramp that is open at every level below u.
    Buckman, Roy, Raffel, Goodfellow, ICLR 2018; substitute: Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420.

    When to use: to learn what a shattered gradient looks like: torch sees none, BPDA and labels do.
    """

    def __init__(self, model: Model, *, levels: int = 16) -> None:
        if not 2 <= levels <= 256:
            raise ModelError(f"a thermometer of {levels} levels should have from 2 to 256")
        super().__init__(model, f"thermometer {levels}", differentiable=False)
        self.levels = levels

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        return (self._above(x) > 0).to(x).flatten(1, 2)

    def substitute(self, x: Tensor, stream: Stream) -> Tensor:
        return self._above(x).clamp(0, 1).flatten(1, 2)

    def _above(self, x: Tensor) -> Tensor:
        """u - k / levels, [n, channels, levels, ...]."""
        floors = torch.arange(self.levels, device=x.device).to(x) / self.levels
        return unit(x, self.bounds).unsqueeze(2) - floors.view(-1, *[1] * (x.ndim - 2))
