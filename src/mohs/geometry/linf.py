"""Linf: every feature may move by epsilon."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mohs.geometry.base import Number, per_row
from mohs.geometry.solve import clip_, crossing, fill, total
from mohs.rng import Stream


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
        """Clamped to [x0 - epsilon, x0 + epsilon], then to the box, in place: both are boxes, so this is exact."""
        reach = per_row(epsilon, x)
        return clip_(clip_(x, x0 - reach, x0 + reach), low, high)

    def ball(self, x0: Tensor, stream: Stream) -> Tensor:
        """Uniform in [-1, 1], every feature by itself."""
        return stream.uniform(*x0.shape[1:]).mul_(2).sub_(1)

    def sphere(self, x0: Tensor, stream: Stream) -> Tensor:
        """`ball` over its largest entry. Croce & Hein, ICML 2020, arXiv:2003.01690, section 4."""
        u = self.ball(x0, stream)
        return u.div_(per_row(u.flatten(1).abs().amax(1), u))

    def hyperplane(self, x: Tensor, w: Tensor, b: Tensor, low: Number, high: Number) -> Tensor:
        """x_i + s sign(w_i), clipped, with the s that puts sum_i min(s |w_i|, room_i |w_i|) at b - <w, x>.
        x lies in the box. Croce & Hein, ICML 2020, arXiv:1907.02044."""
        d, q, c = crossing(x, w, b, low, high)
        s = fill(d.abs(), q, c).to(d.dtype)
        return clip_(d.sign_().mul_(s[:, None]).view_as(x).add_(x), low, high)
