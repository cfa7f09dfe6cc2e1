"""What the exact projections share: row sums, the two scalar equations they come down to, and the landing on float32.

Rows never meet. A row sum is the same number alone and in company, and a search only ever moves rows that are not
settled, so the moment at which it ends changes no row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mohs.geometry.base import Number

SLACK = 5e-7  # relative: a point this far outside a ball counts as inside, so that projecting twice changes nothing
FAR = 1e18  # stands for the side of a box that has none
_INFINITY = 0x7F800000  # the bits of float32 infinity; non-negative floats order as their bits do


def _pair(t: Tensor) -> Tensor:
    """[rows, d]; a lone row comes twice, since torch would split it over threads and round its sum differently."""
    rows = t.flatten(1)
    return rows.expand(2, -1) if len(rows) == 1 else rows


def total(t: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Row sums [rows], in float64 unless said."""
    return _pair(t).sum(1, dtype=dtype)[: len(t)]


def length(t: Tensor) -> Tensor:
    """||row||_2 [rows], float64; its gradient at zero is zero."""
    norms: Tensor = torch.linalg.vector_norm(_pair(t), dim=1, dtype=torch.float64)
    return norms[: len(t)]


def clip_(x: Tensor, low: Number, high: Number) -> Tensor:
    """x into the box, in place; one side may be a number and the other a tensor."""
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return x.clamp_(low, high)
    return x.clamp_(min=low).clamp_(max=high)


def side(value: Number, like: Tensor) -> Number:
    """One side of the box, finite and laid out as like.flatten(1), or the number it is."""
    if isinstance(value, Tensor):
        return value.expand_as(like).flatten(1).clamp(-FAR, FAR)
    return min(max(value, -FAR), FAR)


def pick(value: Number, rows: Tensor, like: Tensor) -> Number:
    """The rows of what broadcasts over `like` [all, *input], or is one a row."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value[rows] if value.ndim == 1 and len(value) == len(like) else value.expand_as(like)[rows]


def room(v: Tensor, x0: Tensor, low: Number, high: Number) -> Tensor:
    """How far x0 may go along v before it meets the box: high - x0 where v >= 0, else x0 - low."""
    turned = torch.ones_like(v).copysign_(v)  # choosing by a mask costs twenty times as much on a CPU
    return torch.maximum((high - x0).mul_(turned), (low - x0).mul_(turned))


def fill(p: Tensor, q: Tensor, c: Tensor) -> Tensor:
    """The s >= 0 with sum_i min(s p_i, q_i) = c, a row; where q holds less than c, the largest float32.

    p, q [rows, d] >= 0, c [rows] float64; s [rows] float64, the sum within about 2**-21 of c. The sum is concave and
    piecewise linear in s, so Newton's steps from the left do not pass the root and end on its piece; since gap'/gap +
    slope'/slope <= 1, gap * slope falls to a quarter a step, and about six steps do. The first slope is that of all
    entries with room.
    Newton for the continuous quadratic knapsack: Cominetti, Mascarenhas, Silva, Math. Prog. Comp. 2014.
    """
    part, free = torch.empty_like(p), torch.empty_like(p)
    most = torch.finfo(p.dtype).max
    s = (c / total(torch.gt(q, 0, out=free).mul_(p))).nan_to_num(nan=0.0, posinf=most)
    for _ in range(64):
        torch.mul(p, s.to(p.dtype)[:, None], out=part)
        gap = c - total(torch.minimum(part, q, out=free), p.dtype)
        short = (gap > 2.0**-22 * c) & (s < most)
        if not short.any():
            break
        slope = total(torch.lt(part, q, out=free).mul_(p), p.dtype)
        s = torch.where(short, s + gap / slope, s).clamp_(max=most)
    return s


def least(mass: Callable[[Tensor], Tensor], c: Number, like: Tensor) -> Tensor:
    """The least float32 t >= 0 with mass(t) <= c, a row: bisection over the bits, 31 calls of the non-increasing
    mass([rows, 1]) -> [rows]. mass(inf) must be 0."""
    low = torch.zeros(len(like), dtype=torch.int32, device=like.device)
    high = torch.full_like(low, _INFINITY)
    for _ in range(31):
        middle = low + ((high - low) >> 1)
        fits = mass(middle.view(torch.float32)[:, None]) <= c
        high = torch.where(fits, middle, high)
        low = torch.where(fits, low, middle + 1)
    return high.view(torch.float32)


def land(x0: Tensor, w: Tensor, epsilon: Number, low: Number, high: Number, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """x0 + w in the box, in float32, with norm(. - x0) <= epsilon: a row that rounding carried out of the ball takes
    one float32 back towards x0, which undoes every rounding away from it."""
    point = clip_(x0 + w, low, high)
    out = norm(point - x0) > epsilon * (1 + SLACK)
    if out.any():
        point = torch.where(out.view(-1, *[1] * (x0.ndim - 1)), torch.nextafter(point, x0), point)
    return point


def crossing(x: Tensor, w: Tensor, gap: Tensor, low: Number, high: Number) -> tuple[Tensor, Tensor, Tensor]:
    """<w, . - x> = gap as a demand: d, q [rows, d], c [rows] float64, with w scaled to length 1 and turned towards gap.

    Moving coordinate i along sign(d_i) by r gains |d_i| r, up to q_i at the box; c >= 0 is the gain wanted.
    """
    rows, normal = x.flatten(1), w.flatten(1)
    scale = length(normal)
    scale = torch.where(scale > 0, scale, 1.0)
    c = gap / scale
    d = normal * torch.where(c < 0, -1 / scale, 1 / scale).to(normal.dtype)[:, None]
    q = torch.maximum((side(high, x) - rows).mul_(d), (side(low, x) - rows).mul_(d))
    return d, q.clamp_(min=0), c.abs_()
