"""The Wasserstein ball: the adversary moves brightness about, and pays for how far."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.errors import ThreatError
from mohs.geometry import Number, per_row
from mohs.geometry.l2 import unit
from mohs.geometry.solve import total
from mohs.rng import Stream
from mohs.threat.threat import Threat, unit_of

SEARCH = 24  # steps for the price of distance
REPAIRS = 8


@dataclass(frozen=True, kw_only=True)
class WassersteinThreat(Threat):
    """Images made of x0 by moving its brightness, within each channel and by up to kernel // 2 pixels each way, where the
    mean distance that a unit of it goes, in pixels, is at most epsilon.

    A point is the transport plan Pi [rows, kernel^2, channels, height, width] >= 0: plane k holds what every pixel sends
    to the place `offsets()[k]` from it, and the planes sum to x0. Its cost <Pi, C> / sum x0, C the Euclidean distance of
    pixels, is the distance: that of the image in W_1 or more, so that every point certifies itself. Local plans and the
    cost are those of Wong, Schmidt, Kolter, ICML 2019, arXiv:1902.07906. Projections are Euclidean, in the space of plans,
    after Wu, Wang, Yu, ICML 2020, arXiv:2008.02883, whose dual this solves: for a price lambda of distance each pixel's
    plan is the projection of p - lambda C onto its simplex, and the cost falls in lambda. The projected Sinkhorn of Wong
    et al. solves a problem with an entropy in it, so that its images lie inside the ball or, ended early, outside.

    What would carry a pixel out of the box is sent back, as much as is needed, which is feasible and not the nearest
    point. With quantise, the distance is that of the image before it is rounded.
    """

    epsilon: float
    kernel: int = 5
    name = "wasserstein"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ThreatError(f"the threat wasserstein has epsilon {self.epsilon}; it must be 0 or more")
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ThreatError(f"the threat wasserstein has a kernel of {self.kernel} pixels; it must be odd, 3 or more")

    def __str__(self) -> str:
        return f"wasserstein:{self.epsilon:g}{self.constraints}"

    def offsets(self) -> list[tuple[int, int]]:
        """Rows and columns that each plane moves by; the middle one stays."""
        reach = range(-(self.kernel // 2), self.kernel // 2 + 1)
        return [(i, j) for i in reach for j in reach]

    def cost(self, p: Tensor) -> Tensor:
        """[kernel^2, 1, 1, 1], in p's type: how far each plane moves, in pixels."""
        return p.new_tensor([math.hypot(i, j) for i, j in self.offsets()]).view(-1, 1, 1, 1)

    def origin(self, x0: Tensor) -> Tensor:
        plan = x0.new_zeros(len(x0), self.kernel**2, *x0.shape[1:])
        plan[:, self.kernel**2 // 2] = x0
        return plan

    def apply(self, p: Tensor, x0: Tensor, draw: Stream | None = None) -> Tensor:
        return self.shown(self.arrivals(p), x0)

    def arrivals(self, p: Tensor) -> Tensor:
        """What every pixel receives, from itself too: [rows, channels, height, width]."""
        x = p[:, self.kernel**2 // 2]
        for plane, (i, j) in zip(p.unbind(1), self.offsets(), strict=True):
            if (i, j) != (0, 0):
                x = x + shift(plane, i, j)
        return x

    def distance(self, p: Tensor, x0: Tensor) -> Tensor:
        sent = total(p.flatten(0, 1)).view(p.shape[:2])
        return total(sent * self.cost(sent).flatten()) / total(x0).clamp(min=1e-12)

    def contains(self, p: Tensor, x0: Tensor) -> Tensor:
        """In float64: a plan of x0, within the budget, that stays in the image and in the box."""
        exact, spare = p.double(), self._spare
        low, high = self.constraints.box(x0, self.bounds)
        x = self.arrivals(exact)
        good = ((exact.sum(1) - x0).abs() <= spare) & (exact >= 0).all(1) & (x >= low - spare) & (x <= high + spare)
        stays = ~((exact > 0) & ~self.open(x0)).any(1)
        return (good & stays).flatten(1).all(1) & (self.distance(p, x0) <= self.epsilon * (1 + 1e-6))

    @property
    def _spare(self) -> float:
        """What rounding may carry a pixel beyond its bounds; the model is shown it clipped."""
        return 1e-6 * max(map(abs, self.bounds))

    def open(self, x0: Tensor) -> Tensor:
        """[kernel^2, channels, height, width] bool: where a pixel may send to. Those outside the mask neither send nor
        receive."""
        free = x0.new_ones(x0.shape[1:], dtype=torch.bool)
        if self.constraints.mask is not None:
            free = self.constraints.mask.to(free.device).expand_as(free)
        there = [free & shift(free[None].to(x0), -i, -j)[0].bool() for i, j in self.offsets()]
        there[self.kernel**2 // 2] = torch.ones_like(free)
        return torch.stack(there)

    def project(self, p: Tensor, x0: Tensor, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        plan = self._affordable(p.masked_fill(~self.open(x0), -torch.inf), x0, budget)
        return self._into_box(plan, x0)

    def _affordable(self, p: Tensor, x0: Tensor, epsilon: Number) -> Tensor:
        """The nearest plan of x0 within the budget, by bisection on the price of distance."""
        cost, plan = self.cost(p), simplex(p, x0)
        most = torch.as_tensor(epsilon, dtype=torch.float64, device=p.device).expand(len(p))
        dear = self.distance(plan, x0) > most
        if not dear.any():
            return plan
        where = dear.nonzero()[:, 0]
        p, x, most = p[where], x0[where], most[where]
        stay = p[:, self.kernel**2 // 2, None]
        price = (p - stay + x[:, None]) / cost.clamp(min=1)
        high = price.flatten(1).amax(1)  # at which nothing moves
        low = torch.zeros_like(high)
        best = self.origin(x)
        for _ in range(SEARCH):
            middle = (low + high) / 2
            found = simplex(p - per_row(middle, p) * cost, x)
            fits = self.distance(found, x) <= most
            best = torch.where(per_row(fits, best), found, best)
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        plan[where] = best
        return plan

    def _into_box(self, plan: Tensor, x0: Tensor) -> Tensor:
        """What would overfill a pixel, or empty one that may not be, stays where it was; in the end all moves shrink alike.
        Rows that are in the box are left as they are."""
        for k in range(REPAIRS + 1):
            rows = self._outside(plan, x0).nonzero()[:, 0]
            if len(rows) == 0:
                break
            mend = self._send_back if k < REPAIRS else self._shrink
            plan[rows] = mend(plan[rows], x0[rows])
        return plan

    def _outside(self, plan: Tensor, x0: Tensor) -> Tensor:
        """[rows] bool, with half of what `contains` spares."""
        x, (low, high) = self.arrivals(plan), self.constraints.box(x0, self.bounds)
        return ((x > high + self._spare / 2) | (x < low - self._spare / 2)).flatten(1).any(1)

    def _send_back(self, plan: Tensor, x0: Tensor) -> Tensor:
        low, high = self.constraints.box(x0, self.bounds)
        x, stay = self.arrivals(plan), plan[:, self.kernel**2 // 2]
        over, under = (x - high).clamp(min=0), (low - x).clamp(min=0)
        takes = (1 - over / (x - stay).clamp(min=1e-12)).clamp(0, 1)
        gives = (1 - under / (x0 - stay).clamp(min=1e-12)).clamp(0, 1)
        return self._stay([plane * torch.minimum(gives, shift(takes, -i, -j)) for plane, i, j in self._moves(plan)], x0)

    def _shrink(self, plan: Tensor, x0: Tensor) -> Tensor:
        low, high = self.constraints.box(x0, self.bounds)
        moved = self.arrivals(plan) - x0
        room = torch.where(moved > 0, high - x0, x0 - low) + self._spare / 4
        part = torch.where(moved == 0, 1.0, room / moved.abs()).flatten(1).amin(1).clamp(0, 1)
        return self._stay([plane * per_row(part, plane) for plane, _, _ in self._moves(plan)], x0)

    def _moves(self, plan: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        for plane, (i, j) in zip(plan.unbind(1), self.offsets(), strict=True):
            if (i, j) != (0, 0):
                yield plane, i, j

    def _stay(self, planes: list[Tensor], x0: Tensor) -> Tensor:
        """The plan of these moves, in which all else stays."""
        rest = x0.clone()
        for plane in planes:
            rest = rest - plane
        middle = self.kernel**2 // 2
        return torch.stack([*planes[:middle], rest.clamp(min=0), *planes[middle:]], 1)

    def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Number, epsilon: Number | None = None) -> Tensor:
        """p + size epsilon (sum x0) g / ||g||_2, projected."""
        budget = self.epsilon if epsilon is None else epsilon
        far = size * unit_of(budget) * total(x0).to(x0.dtype)
        return self.project(unit(g).mul_(per_row(far, g)).add_(p), x0, budget)

    def random_point(self, x0: Tensor, stream: Stream, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        plan = self.origin(x0)
        noise = stream.uniform(*plan.shape[1:]) * x0[:, None]
        return self.project(plan + noise * per_row(unit_of(budget), plan), x0, budget)

    def check(self, x0: Tensor) -> None:
        self.constraints.check(x0, self.bounds)
        if x0.ndim != 4:
            raise ThreatError(
                f"the threat {self} moves brightness in images [channels, height, width], and the inputs have shape "
                f"{list(x0.shape[1:])}"
            )
        if self.bounds[0] != 0:
            raise ThreatError(
                f"the threat {self} moves what is above 0, and the model's bounds {list(self.bounds)} begin elsewhere"
            )

    def describe(self) -> str:
        return f"move the brightness of the image about, each unit of it by {self.epsilon:g} pixels on average"


def simplex(p: Tensor, mass: Tensor) -> Tensor:
    """The projection of p [n, planes, ...] onto {Pi >= 0, sum over planes = mass}; -inf is never used. Michelot's active
    sets, JOTA 1986: the threshold rises until no plane falls below it."""
    if len(p) == 1:  # a lone row comes twice: torch would sum it in another order than in company
        return simplex(p.expand(2, *p.shape[1:]), mass.expand(2, *mass.shape[1:]))[:1]
    kept, largest = p > -torch.inf, p == p.amax(1, keepdim=True)  # which stays, at a mass of 0 too
    spare = p.masked_fill(~kept, 0.0)
    for _ in range(p.shape[1]):
        tau = ((spare * kept).sum(1) - mass) / kept.sum(1)
        fewer = kept & ((p > tau[:, None]) | largest)
        if torch.equal(fewer, kept):
            break
        kept = fewer
    return (p - tau[:, None]).clamp(min=0)


def shift(x: Tensor, i: int, j: int, fill: float = 0.0) -> Tensor:
    """x moved down by i rows and to the right by j columns; what leaves is lost, `fill` comes in."""
    height, width = x.shape[-2:]
    rows, columns = max(0, height - abs(i)), max(0, width - abs(j))
    taken = x[..., max(0, -i) : max(0, -i) + rows, max(0, -j) : max(0, -j) + columns]
    top, left = min(max(0, i), height), min(max(0, j), width)
    return torch.nn.functional.pad(taken, (left, width - columns - left, top, height - rows - top), value=fill)
