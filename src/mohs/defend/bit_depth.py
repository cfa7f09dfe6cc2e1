"""Bit depth reduction."""

from __future__ import annotations

from torch import Tensor

from mohs.defend.base import Defence, back, unit
from mohs.errors import ModelError
from mohs.models import Model
from mohs.rng import Stream


class BitDepth(Defence):
    """Every entry becomes the nearest of 2**bits levels of the range. No derivative: attacks pass it as the identity.

    Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155.

    When to use: as half of feature squeezing, or to see how a defence without a slope falls to an attack that knows it. A
    change of more than half a level passes as if the rounding were not there.
    """

    def __init__(self, model: Model, *, bits: int = 3) -> None:
        if not 1 <= bits <= 16:
            raise ModelError(f"a bit depth of {bits} should be from 1 to 16")
        super().__init__(model, f"bit depth {bits}", differentiable=False)
        self.bits = bits

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        levels = 2**self.bits - 1
        return back((unit(x, self.bounds).clamp(0, 1) * levels).round() / levels, self.bounds)
