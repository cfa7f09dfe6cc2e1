"""L0: how many features, or pixels, change at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.errors import ThreatError
from mohs.geometry.base import Number
from mohs.geometry.l2 import unit
from mohs.geometry.solve import clip_, crossing, length
from mohs.rng import Stream


@dataclass(frozen=True)
class L0Norm:
    """The number of changed features; with `pixels`, of changed positions of [channels, ...], whatever the channels.

    Not a norm (it does not scale) and not convex; epsilon is a count and is rounded down.
    """

    pixels: bool = False
    name: str = "l0"

    def distance(self, delta: Tensor) -> Tensor:
        """The count [rows], float64; its derivative is zero, and none is given."""
        return self.units(delta.detach() != 0).any(2).sum(1, dtype=torch.float64)

    def dual(self, g: Tensor) -> Tensor:
        """||g||_2 [rows]: a counted ball has no dual norm, and this is only asked for as the scale of a gradient."""
        return length(g).to(g.dtype)

    def steepest(self, g: Tensor) -> Tensor:
        """g / ||g||_2, in place: dense, since the projection after it is what makes it sparse.
        PGD-L0: Croce & Hein, ICCV 2019, arXiv:1909.05040."""
        return unit(g)

    def project(self, x: Tensor, x0: Tensor, epsilon: Number, low: Number, high: Number) -> Tensor:
        """The floor(epsilon) features (pixels) whose keeping gains most stay, clipped to the box; the others go back to
        x0. The gain of a feature is v^2 - (v - c)^2, v = x - x0, c its clipped change; ties fall to the lower index."""
        if not isinstance(epsilon, Tensor) and math.isinf(epsilon):
            return clip_(x, low, high)
        v = (x - x0).double()  # squares of tiny changes must not vanish and make ties
        point = clip_(x, low, high)
        change = (point - x0).double()
        gain = self.units(v.mul_(2).sub_(change).mul_(change)).sum(2)
        return torch.where(self.spread(_largest(gain, epsilon), x), point, x0)

    def prox(self, v: Tensor, scale: Tensor) -> Tensor:
        """The units whose sum of squares is above 2 scale, in place; the others become 0: hard thresholding."""
        kept = self.units(v).double().square_().sum(2) > 2 * scale[:, None]
        shape = (len(v), 1, *v.shape[2:]) if self.pixels else v.shape
        return v.mul_(kept.view(shape))

    def between(self, v: Tensor, e: Tensor, s: Tensor, low: Number, high: Number) -> Tensor:
        """v, clipped, but e in the units in which that adds least to the distance from v."""
        d = clip_(v.clone(), low, high)
        added = self.units((e - d).mul_(e + d - 2 * v)).sum(2)
        worth = (2 * s / (1 - s)).flatten(1) * e.flatten(1).abs().amax(1, keepdim=True).square()
        return torch.where(self.spread(added <= worth, e), e, d)

    def ball(self, x0: Tensor, stream: Stream) -> Tensor:
        """Uniform in [-1, 1], every feature by itself: a dense start, since a unit of L0 is one feature and does not
        scale. The projection after it keeps epsilon of them."""
        return stream.uniform(*x0.shape[1:]).mul_(2).sub_(1)

    def sphere(self, x0: Tensor, stream: Stream) -> Tensor:
        """+1 or -1 at one random feature (in every channel of one random pixel), 0 elsewhere."""
        signs = self.units(stream.at("sign").signs(*x0.shape[1:]))
        place = stream.at("place").integers(signs.shape[1], 1)
        here = torch.arange(signs.shape[1], device=place.device) == place
        sparse = signs * here[:, :, None]
        return (sparse.transpose(1, 2) if self.pixels else sparse).reshape(x0.shape)

    def hyperplane(self, x: Tensor, w: Tensor, gap: Tensor, low: Number, high: Number) -> Tensor:
        """Units go to the box by falling gain, <w, change>, until gap is reached, the last one part of the way."""
        d, q, c = crossing(x, w, gap, low, high)
        gain, order = self.units(q.view_as(x)).sum(2).double().sort(dim=1, descending=True, stable=True)
        before = gain.cumsum(1) - gain
        part = ((c[:, None] - before) / gain).nan_to_num_(0.0, posinf=0.0, neginf=0.0).clamp_(0, 1)
        share = self.spread(torch.zeros_like(part).scatter_(1, order, part).to(x.dtype), x)
        way = q.div_(d.abs().clamp_(min=1e-30)).copysign_(d).view_as(x)
        return clip_(torch.addcmul(x, way, share), low, high)

    def units(self, t: Tensor) -> Tensor:
        """[rows, units, features a unit]."""
        if not self.pixels:
            return t.flatten(1)[:, :, None]
        if t.ndim < 3:
            raise ThreatError(f"l0 over pixels needs [channels, ...], got {list(t.shape[1:])}; use l0 over features")
        return t.flatten(2).transpose(1, 2)

    def spread(self, chosen: Tensor, like: Tensor) -> Tensor:
        """[rows, units] laid out to broadcast over like [rows, *input]."""
        return chosen.view((len(like), 1, *like.shape[2:]) if self.pixels else like.shape)


def _largest(gain: Tensor, epsilon: Number) -> Tensor:
    """bool [rows, units]: the floor(epsilon) largest gains a row, of equal ones the first."""
    units = gain.shape[1]
    if isinstance(epsilon, Tensor):
        count = epsilon.double().clamp(0, units).floor().long().expand(len(gain))[:, None]
        most = int(count.max())
    else:
        most = units if math.isinf(epsilon) else min(units, math.floor(epsilon))
        count = torch.full((len(gain), 1), most, device=gain.device)
    if most == 0:
        return torch.zeros_like(gain, dtype=torch.bool)
    edge = gain.topk(most, dim=1).values.gather(1, (count - 1).clamp_(min=0))
    above, at = gain > edge, gain == edge
    spare = count - above.sum(1, keepdim=True)
    return above | (at & (at.cumsum(1) <= spare))
