"""Linf: every feature may move by epsilon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mohs.geometry.base import Number, per_row
from mohs.geometry.l1 import L1Norm
from mohs.geometry.solve import clip_, crossing, fill, total
from mohs.rng import Stream

_INTERVALS = WeakTensorKeyDictionary()  # x0 -> its last interval: an attack projects on the same one at every step


def _interval(x0: Tensor, epsilon: Number, low: Number, high: Number) -> tuple[Tensor, Tensor]:
    """The lowest and highest value of every entry; kept while x0 lives where the bounds are plain numbers."""
    if isinstance(epsilon, Tensor) or isinstance(low, Tensor) or isinstance(high, Tensor):
        reach = per_row(epsilon, x0)
        return clip_(x0 - reach, low, high), clip_(x0 + reach, low, high)
    key = (epsilon, low, high, x0._version)
    kept = _INTERVALS.get(x0)
    if kept is None or kept[0] != key:
        kept = (key, clip_(x0 - epsilon, low, high), clip_(x0 + epsilon, low, high))
        _INTERVALS[x0] = kept
    return kept[1], kept[2]


def _largest(e: Tensor) -> Tensor:
    return per_row(e.flatten(1).abs().amax(1).clamp_(min=1e-30), e)


@dataclass(frozen=True)
class LinfNorm:
    """||delta||_inf = max_i |delta_i|; epsilon in the units of the input. Its dual is L1."""

    name: str = "linf"

    def distance(self, delta: Tensor) -> Tensor:
        """max |delta_i| [rows], float64, differentiable."""
        return delta.flatten(1).abs().amax(1).double()

    def dual(self, g: Tensor) -> Tensor:
        """||g||_1 [rows]."""
        return total(g.abs()).to(g.dtype)

    def steepest(self, g: Tensor) -> Tensor:
        """sign(g), in place. Goodfellow, Shlens, Szegedy, ICLR 2015, arXiv:1412.6572."""
        return g.sign_()

    def project(self, x: Tensor, x0: Tensor, epsilon: Number, low: Number, high: Number) -> Tensor:
        """Clamped to [x0 - epsilon, x0 + epsilon] and the box, in place: both are boxes, so this is exact."""
        return torch.clamp(x, *_interval(x0, epsilon, low, high), out=x)

    def prox(self, v: Tensor, scale: Tensor) -> Tensor:
        """v less its projection onto the L1 ball of radius scale (Moreau), in place."""
        return v.sub_(L1Norm().project(v.clone(), torch.zeros_like(v), scale.double(), -math.inf, math.inf))

    def between(self, v: Tensor, e: Tensor, s: Tensor, low: Number, high: Number) -> Tensor:
        """v, no entry farther from e than (1 - s) / s of the largest of e, clipped."""
        reach = (1 - s) / s * _largest(e)
        return clip_(torch.minimum(torch.maximum(v, e - reach), e + reach), low, high)

    def ball(self, x0: Tensor, stream: Stream) -> Tensor:
        """Uniform in [-1, 1], every feature by itself."""
        return stream.uniform(*x0.shape[1:]).mul_(2).sub_(1)

    def sphere(self, x0: Tensor, stream: Stream) -> Tensor:
        """`ball` over its largest entry. Croce & Hein, ICML 2020, arXiv:2003.01690, section 4."""
        u = self.ball(x0, stream)
        return u.div_(per_row(u.flatten(1).abs().amax(1), u))

    def hyperplane(self, x: Tensor, w: Tensor, gap: Tensor, low: Number, high: Number) -> Tensor:
        """x_i + s sign(w_i), clipped, with the s that puts sum_i min(s |w_i|, room_i |w_i|) at gap.
        Croce & Hein, ICML 2020, arXiv:1907.02044."""
        d, q, c = crossing(x, w, gap, low, high)
        s = fill(d.abs(), q, c).to(d.dtype)
        return clip_(d.sign_().mul_(s[:, None]).view_as(x).add_(x), low, high)
