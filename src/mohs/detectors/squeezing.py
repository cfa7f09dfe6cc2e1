"""Feature squeezing: an input whose squeezed versions are classified otherwise is suspicious."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.defend.base import back, straight_through, unit
from mohs.detectors.base import Method
from mohs.errors import ModelError, RequestError
from mohs.models import Model


@dataclass(frozen=True, kw_only=True)
class Squeezing(Method):
    """The score is max over squeezers of ||p(x) - p(squeezed x)||_1, in [0, 2]; nothing is fitted. The squeezers: every entry
    the nearest of 2^bits levels, whose derivative is taken for the identity, and the median of `window` x `window` pixels.
    The third of the paper, non-local means, which it adds for colour images, is not among them.

    bits: 0 takes the authors' choice, 1 where images have one channel (MNIST) and 5 elsewhere (CIFAR-10, ImageNet). window: 0
    goes without the median, as what is no image must.

    Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155.
    """

    bits: int = 0
    window: int = 2

    paper = "Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155"

    @property
    def differentiable(self) -> bool:
        return False

    def statistic(self, model: Model, x: Tensor, y: Tensor, attacked: Tensor, fooled: Tensor) -> nn.Module:
        if not 0 <= self.bits <= 16 or not 0 <= self.window <= 16:
            raise RequestError(f"bits and window run from 0 to 16, and are {self.bits} and {self.window}")
        if x.ndim != 4 and self.window:
            raise ModelError(
                f"the median is of images [n, channels, height, width], and inputs are {list(x.shape)}: say --window 0"
            )
        bits = self.bits or (1 if x.ndim == 4 and x.shape[1] == 1 else 5)
        return Statistic(bits, self.window)


class Statistic(nn.Module):
    def __init__(self, bits: int, window: int) -> None:
        super().__init__()
        self.squeezers: list[Callable[[Tensor], Tensor]] = [lambda u: levels(u, bits)]
        if window:
            self.squeezers.append(lambda u: median(u, window))

    def forward(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = model.logits(x)
        p, u = logits.softmax(1), unit(x, model.bounds)
        seen = [model.logits(back(squeeze(u), model.bounds)).softmax(1) for squeeze in self.squeezers]
        return logits, torch.stack([(p - q).abs().sum(1) for q in seen], 1).amax(1)


def levels(u: Tensor, bits: int) -> Tensor:
    """round(u (2^bits - 1)) / (2^bits - 1), of u in [0, 1], with the derivative of the identity."""
    most = 2**bits - 1
    return straight_through((u.detach() * most).round() / most, u)


def median(u: Tensor, window: int) -> Tensor:
    """The median of the window that ends, or for odd ones is centred, at each pixel of u [n, channels, height, width]; of an even
    number of values the larger of the two in the middle; edges are mirrored: scipy.ndimage.median_filter."""
    before, after = window // 2, (window - 1) // 2
    padded = _mirrored(_mirrored(u, 3, before, after), 2, before, after)
    parts = functional.unfold(padded, window).view(len(u), u.shape[1], window * window, *u.shape[2:])
    return parts.sort(2).values[:, :, window * window // 2]


def _mirrored(u: Tensor, dim: int, before: int, after: int) -> Tensor:
    """d c b a | a b c d | d c b a, along one dimension."""
    size = u.shape[dim]
    return torch.cat([u.narrow(dim, 0, before).flip(dim), u, u.narrow(dim, size - after, after).flip(dim)], dim)
