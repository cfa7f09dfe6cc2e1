"""L1: the sum of all changes, which buys few large ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.geometry.base import Number, per_row
from mohs.geometry.solve import SLACK, clip_, crossing, land, least, pick, room, total
from mohs.rng import Stream


@dataclass(frozen=True)
class L1Norm:
    """||delta||_1 = sum_i |delta_i|; epsilon in the units of the input. Its dual is Linf.

    `quantile`: the step moves the features whose |g| is at or above this quantile.
    """

    quantile: float = 0.99
    name: str = "l1"

    def distance(self, delta: Tensor) -> Tensor:
        """sum |delta_i| [rows], float64, differentiable."""
        return total(delta.abs())

    def dual(self, g: Tensor) -> Tensor:
        """max |g_i| [rows]."""
        return g.flatten(1).abs().amax(1)

    def steepest(self, g: Tensor) -> Tensor:
        """sign(g) on the largest |g| (the top 1 - quantile of the features, at least one, ties included), over their
        number, in place; zero rows stay zero. SLIDE: Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000. The true argmax is
        quantile = 1, one feature, too narrow a step for few iterations."""
        size = g.flatten(1).abs()
        kept = max(1, size.shape[1] - math.floor(self.quantile * size.shape[1]))
        least_kept = size.topk(kept, dim=1, sorted=False).values.amin(1, keepdim=True)
        mask = torch.ge(size, least_kept, out=size).view_as(g)
        g.sign_().mul_(mask)
        return g.div_(per_row(total(g.abs()).clamp_(min=1).to(g.dtype), g))

    def project(self, x: Tensor, x0: Tensor, epsilon: Number, low: Number, high: Number) -> Tensor:
        """x0 + sign(v) min(max(|v| - lam, 0), cap), v = x - x0, cap the room to the box, with the lam that gives it
        norm epsilon; lam = 0 where the clipped x lies in the ball. lam is bisected to a float32 and then solved for on
        its linear piece. Without a box: Duchi et al., ICML 2008; with it: Croce & Hein, ICML 2021, arXiv:2103.01208."""
        point = clip_(x.clone(), low, high)
        hard = (total((point - x0).abs_()) > epsilon * (1 + SLACK)).nonzero()[:, 0]
        if len(hard):
            centre = x0[hard]
            bottom, top, radius = pick(low, hard, x), pick(high, hard, x), pick(epsilon, hard, x)
            v = x[hard].sub_(centre)
            cap = room(v, centre, bottom, top).flatten(1)
            w = _shrink(v.flatten(1), cap, radius).view_as(v)
            point[hard] = land(centre, w, radius, bottom, top, self.distance)
        return point

    def prox(self, v: Tensor, scale: Tensor) -> Tensor:
        """sign(v) max(|v| - scale, 0): soft thresholding."""
        return v.abs().sub_(per_row(scale.to(v.dtype), v)).clamp_(min=0).copysign_(v)

    def between(self, v: Tensor, e: Tensor, s: Tensor, low: Number, high: Number) -> Tensor:
        """e, no entry farther from v than s / (1 - s) of the largest of e, clipped."""
        reach = s / (1 - s) * per_row(e.flatten(1).abs().amax(1), e)
        return clip_(torch.minimum(torch.maximum(e, v - reach), v + reach), low, high)

    def ball(self, x0: Tensor, stream: Stream) -> Tensor:
        """l / (||l||_1 + e), l Laplace, e exponential: uniform in the ball.
        Barthe, Guedon, Mendelson, Naor, Ann. Probab. 2005, arXiv:math/0503650."""
        beyond = stream.at("radius").exponential(1)[:, 0]
        laplace = _laplace(x0, stream)
        return laplace.div_(per_row((self.distance(laplace) + beyond).to(laplace.dtype), laplace))

    def sphere(self, x0: Tensor, stream: Stream) -> Tensor:
        """l / ||l||_1, l Laplace: uniform on the sphere."""
        laplace = _laplace(x0, stream)
        return laplace.div_(per_row(self.distance(laplace).to(laplace.dtype), laplace))

    def hyperplane(self, x: Tensor, w: Tensor, gap: Tensor, low: Number, high: Number) -> Tensor:
        """Coordinates go to the box by falling |w_i| until gap is reached: those above a threshold go all the way, those
        at it the same part of theirs. Croce & Hein, ICML 2020, arXiv:1907.02044."""
        d, q, c = crossing(x, w, gap, low, high)
        u, gain = d.abs(), torch.empty_like(d)

        def above(t: Tensor) -> Tensor:
            return total(torch.gt(u, t, out=gain).mul_(q), gain.dtype)

        edge = least(above, c, u)[:, None]
        whole = torch.gt(u, edge, out=gain)
        missing = c - total(whole * q)
        at = (u == edge).to(u.dtype).mul_(q)
        part = (missing / total(at)).nan_to_num_(0.0).clamp_(0, 1).to(u.dtype)[:, None]
        move = whole.mul_(torch.finfo(u.dtype).max).add_(at.mul_(part).div_(u.clamp_(min=1e-30)))
        return clip_(d.sign_().mul_(move).view_as(x).add_(x), low, high)


def _laplace(x0: Tensor, stream: Stream) -> Tensor:
    shape = x0.shape[1:]
    return stream.at("size").exponential(*shape).mul_(stream.at("sign").signs(*shape))


def _shrink(v: Tensor, cap: Tensor, epsilon: Number) -> Tensor:
    """sign(v) max(|v| - lam, 0), whose part under cap has L1 norm epsilon; v, cap [rows, d], lam = 0 leaves more."""
    size, part = v.abs(), torch.empty_like(v)

    def left(t: Tensor) -> Tensor:
        return torch.minimum(torch.sub(size, t, out=part).clamp_(min=0), cap, out=part)

    t = least(lambda t: total(left(t), v.dtype), epsilon, v)
    excess = size - t[:, None]
    sloped = total(((excess >= 0) & (excess < cap)).to(v.dtype))
    spare = (epsilon - total(left(t[:, None]))).clamp_(min=0)
    lam = (t - spare / sloped.clamp_(min=1)).clamp_(min=0)
    return size.double().sub_(lam[:, None]).clamp_(min=0).to(v.dtype).copysign_(v)
