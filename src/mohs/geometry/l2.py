"""L2: the Euclidean length of the whole change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.geometry.base import Number, per_row
from mohs.geometry.solve import SLACK, clip_, crossing, fill, land, length, pick, room
from mohs.rng import Stream


def unit(g: Tensor) -> Tensor:
    """g / ||g||_2, in place; a zero row stays zero. The length is float64: squares of tiny gradients vanish in
    float32."""
    size = length(g).to(g.dtype)
    return g.div_(per_row(torch.where(size > 0, size, 1.0), g))


@dataclass(frozen=True)
class L2Norm:
    """||delta||_2 = sqrt(sum_i delta_i^2); epsilon in the units of the input. It is its own dual."""

    name: str = "l2"

    def distance(self, delta: Tensor) -> Tensor:
        """||delta||_2 [rows], float64, differentiable (gradient zero at zero)."""
        return length(delta)

    def dual(self, g: Tensor) -> Tensor:
        """||g||_2 [rows]."""
        return length(g).to(g.dtype)

    def steepest(self, g: Tensor) -> Tensor:
        """g / ||g||_2, in place; zero rows stay zero."""
        return unit(g)

    def project(self, x: Tensor, x0: Tensor, epsilon: Number, low: Number, high: Number) -> Tensor:
        """x0 + clip(v / (1 + lam), low - x0, high - x0), v = x - x0, with the lam that gives it length epsilon.

        lam = 0 where the clipped x lies in the ball. Else, with s = (1 + lam)^-2, the squared length
        sum_i min(s v_i^2, cap_i^2) is concave in s; its first Newton step is the plain rescaling of v.
        """
        point = clip_(x.clone(), low, high)
        hard = (length(point - x0) > epsilon * (1 + SLACK)).nonzero()[:, 0]
        if len(hard):
            centre = x0[hard]
            bottom, top, radius = pick(low, hard, x), pick(high, hard, x), pick(epsilon, hard, x)
            v = x[hard].sub_(centre)
            cap = room(v, centre, bottom, top).flatten(1)
            size = length(v)
            per = (1 / size).to(v.dtype)[:, None]
            s = fill(v.flatten(1).mul(per).square_(), cap.mul_(per).square_(), (radius / size).square())
            v.mul_(per_row(s.sqrt_().clamp_(max=1).to(v.dtype), v))
            point[hard] = land(centre, v, radius, bottom, top, length)
        return point

    def prox(self, v: Tensor, scale: Tensor) -> Tensor:
        """v max(1 - scale / ||v||, 0), in place: block soft thresholding."""
        left = (1 - scale / length(v).clamp_(min=1e-30)).clamp_(min=0)
        return v.mul_(per_row(left.to(v.dtype), v))

    def between(self, v: Tensor, e: Tensor, s: Tensor, low: Number, high: Number) -> Tensor:
        """v + s e, clipped: what minimises ||d - e||^2 s + ||d - v / (1 - s)||^2 (1 - s)."""
        return clip_(torch.addcmul(v, e, s), low, high)

    def ball(self, x0: Tensor, stream: Stream) -> Tensor:
        """n / sqrt(||n||^2 + 2 e), n normal, e exponential: uniform in the ball.
        Barthe, Guedon, Mendelson, Naor, Ann. Probab. 2005, arXiv:math/0503650."""
        n = stream.at("direction").normal(*x0.shape[1:])
        beyond = stream.at("radius").exponential(1)[:, 0].double().mul_(2)
        return n.div_(per_row(length(n).square_().add_(beyond).sqrt_().to(n.dtype), n))

    def sphere(self, x0: Tensor, stream: Stream) -> Tensor:
        """n / ||n||, n normal: uniform on the sphere."""
        return unit(stream.normal(*x0.shape[1:]))

    def hyperplane(self, x: Tensor, w: Tensor, gap: Tensor, low: Number, high: Number) -> Tensor:
        """x_i + s w_i, clipped, with the s that puts sum_i min(s w_i^2, room_i |w_i|) at gap.
        Croce & Hein, ICML 2020, arXiv:1907.02044."""
        d, q, c = crossing(x, w, gap, low, high)
        s = fill(d.square(), q, c).to(d.dtype)
        return clip_(d.mul_(s[:, None]).view_as(x).add_(x), low, high)
