"""The step of the Brendel-Bethge attack: nearest to x0 among what a linearised boundary and a trust region leave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mohs.geometry.base import Norm, Number, per_row
from mohs.geometry.l2 import L2Norm, unit
from mohs.geometry.solve import length, pick, total

HALVINGS = 12  # of the way from the hyperplane's point nearest to x to that nearest to x0
REACHED = 1e-3  # relative: a gap met to within it is met
TRIALS = 40  # of the multiple of w, at most; a dozen will do
AFAR = 1e15  # its square is still a float32

_L2 = L2Norm()


def boundary_step(norm: Norm, x: Tensor, x0: Tensor, w: Tensor, gap: Tensor, radius: float, low: Number, high: Number) -> Tensor:
    """The y of the box nearest to x0 in the norm with <w, y - x> = gap and ||y - x||_2 <= radius; where the ball does not
    reach that hyperplane, its point nearest to it. x, x0 lie in the box; gap [rows] float64.

    With e = x0 - x, the minimum's Lagrangian falls apart into entries, and its d = y - x is `norm.between(nu w, e, s)`:
    from nu w at s = 0, the shortest way to the hyperplane, to e at s = 1. nu is the root of <w, d> = gap at any s, and s
    the largest with ||d||_2 <= radius. Brendel, Rauber, Kuemmerer, Ustyuzhaninov, Bethge, NeurIPS 2019, arXiv:1907.01003,
    section 3, who solve for both multipliers by a quasi-Newton method.
    """
    b = unit(w.clone())
    scale = length(w)
    gap = gap / torch.where(scale > 0, scale, 1.0)
    b, gap = b * per_row(torch.where(gap < 0, -1.0, 1.0).to(b.dtype), b), gap.abs()
    reaches = _reaching(x, b, gap, radius)
    step = _L2.hyperplane(x, b, gap, low, high)
    short = reaches(step)
    rows = (~short).nonzero()[:, 0]
    if len(rows):
        way = b[rows] * (1e4 * radius)
        centre = x[rows]
        step[rows] = _L2.project(way.add_(centre), centre, radius, pick(low, rows, x), pick(high, rows, x))
    far = norm.hyperplane(x0, b, gap - total((x0 - x) * b), low, high)
    free = short & reaches(far)
    rows = free.nonzero()[:, 0]
    step[rows] = far[rows]
    rows = (short & ~free).nonzero()[:, 0]
    if len(rows):
        at, origin = x[rows], x0[rows]
        bottom, top = pick(low, rows, x) - at, pick(high, rows, x) - at
        step[rows] = _inside(norm, origin - at, b[rows], gap[rows], radius, bottom, top).add_(at)
    return step


def _reaching(x: Tensor, b: Tensor, gap: Tensor, radius: float) -> Callable[[Tensor], Tensor]:
    def reaches(y: Tensor) -> Tensor:
        d = y - x
        return ((total(d * b) - gap).abs() <= REACHED * gap) & (length(d) <= radius)

    return reaches


def _inside(norm: Norm, e: Tensor, b: Tensor, gap: Tensor, radius: float, low: Tensor, high: Tensor) -> Tensor:
    """The d of the largest s whose ball holds it, by halving; s = 0 does."""
    least = torch.zeros_like(gap)
    most = torch.ones_like(gap)
    nu = gap.clone()
    best, nu = _meet(norm, e, b, gap, radius, low, high, least, nu)
    for _ in range(HALVINGS):
        s = (least + most) / 2
        d, nu = _meet(norm, e, b, gap, radius, low, high, s, nu)
        fits = (length(d) <= radius) & (total(d * b) >= gap - REACHED * gap.clamp(min=1e-3 * radius))
        best = torch.lerp(best, d, per_row(fits.to(d.dtype), d))
        least, most = torch.where(fits, s, least), torch.where(fits, most, s)
    return best


def _meet(
    norm: Norm, e: Tensor, b: Tensor, gap: Tensor, radius: float, low: Tensor, high: Tensor, s: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """d = between(nu b, e, s) with <b, d> = gap, and nu [rows]: the root of a function that never falls and may jump, from
    a nu nearby; of a jump, its upper end. Where the gap is out of reach, d comes as near as it can."""
    ratio = per_row(s.to(e.dtype), e)

    def gained(nu: Tensor) -> tuple[Tensor, Tensor]:
        d = norm.between(b * per_row(nu.to(b.dtype), b), e, ratio, low, high)
        return total(d * b) - gap, d

    afar = torch.full_like(gap, AFAR)
    beneath, over = gained(-afar)[0] > 0, gained(afar)[0] < 0
    searched = ~(beneath | over)
    nu = torch.where(searched, start, torch.where(over, afar, -afar))
    stride = nu.abs().mul(0.1).clamp(min=1e-3 * radius)
    enough = 0.1 * REACHED * gap.clamp(min=1e-3 * radius)
    below, above = torch.full_like(gap, -torch.inf), torch.full_like(gap, torch.inf)
    at_below, at_above = torch.full_like(gap, -1.0), torch.full_like(gap, 1.0)
    going = searched
    for k in range(TRIALS):
        value, _ = gained(nu)
        less, more = going & (value < 0), going & (value >= 0)
        below, at_below = torch.where(less, nu, below), torch.where(less, value, at_below)
        above, at_above = torch.where(more, nu, above), torch.where(more, value, at_above)
        held = below.isfinite() & above.isfinite()
        tight = held & (above - below <= 1e-4 * torch.maximum(above.abs(), below.abs()))
        going = going & (value.abs() > enough) & ~tight
        if not going.any():
            break
        inner = (below + above) / 2
        if k % 3 < 2:
            secant = below + (above - below) * (-at_below / (at_above - at_below))
            inner = torch.where((secant > below) & (secant < above), secant, inner)
        outer = torch.where(less, nu + stride, nu - stride)
        stride = stride * 4
        nu = torch.where(going, torch.where(held, inner, outer), nu)
    value, d = gained(nu)
    jumped = searched & (value < -enough) & above.isfinite()
    if jumped.any():
        nu = torch.where(jumped, above, nu)
        d = gained(nu)[1]
    return d, torch.where(searched, nu, start)
