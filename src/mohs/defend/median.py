"""Median smoothing."""

from __future__ import annotations

import torch
from torch import Tensor

from mohs.defend.base import Defence
from mohs.errors import ModelError
from mohs.models import Model
from mohs.rng import Stream


class Median(Defence):
    """Every pixel becomes the median of a window x window patch of its channel, mirrored at the edges.

    Of an even number of values the upper middle one; an even window reaches one further up and left (the authors' filter is
    scipy's, which does so). Its gradient is exact: it goes to the pixel that was taken. Inputs [n, ..., height, width].
    Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155.

    When to use: against noise, on images whose strokes are wider than the window: of 8 x 8 digits it takes the strokes along. It
    has a gradient, so that every attack goes through it.
    """

    def __init__(self, model: Model, *, window: int = 2) -> None:
        if not 2 <= window <= 9:
            raise ModelError(f"a median over a window of {window} should be over one from 2 to 9")
        super().__init__(model, f"median {window}")
        self.window = window

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        if x.ndim < 4:
            raise ModelError(f"a median takes images [n, channels, height, width], and the inputs are {list(x.shape)}")
        if min(x.shape[-2:]) < self.window:
            height, width = x.shape[-2:]
            raise ModelError(
                f"a median over {self.window} x {self.window} is wider than images of {height} x {width}: at most "
                f"{min(height, width)}"
            )
        before = self.window // 2
        for dim in (-2, -1):
            x = x.index_select(dim, _mirrored(x.shape[dim], before, self.window - 1 - before).to(x.device))
        patches = x.unfold(-2, self.window, 1).unfold(-2, self.window, 1).flatten(-2)
        return patches.sort(dim=-1, stable=True).values[..., self.window**2 // 2]


def _mirrored(size: int, before: int, after: int) -> Tensor:
    """The indices b a | a b ... y z | z y."""
    index = torch.arange(-before, size + after)
    index = torch.where(index < 0, -1 - index, index)
    return torch.minimum(index, 2 * size - 1 - index)
