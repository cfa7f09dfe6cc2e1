"""Square attack: random search over windows of the input, by scores alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mohs.attacks.base import Attack
from mohs.geometry.solve import total
from mohs.losses import Loss, cross_entropy, logit_difference
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # p is halved after these steps of 10,000
BLOCK = 64  # steps whose randomness is drawn at once


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """A window at a random place is changed, and the change stays where it raises the loss.

    queries: scores asked of a row, the start included. p: the part of the image a window covers at first; it is halved
    after 10, 50, 200, 500, ... steps, taken as they are, or, with rescale_schedule, as if `queries` were 10,000.
    loss: climbed where no class is named; targeted_loss: where one is, as in the paper.

    Every row draws windows of its own, and they reach the last row and column, as printed; the authors' code shares one
    window a step and leaves those out. The last two dimensions of an input are height and width, and a flat vector has
    height 1. Windows are squares; where one does not fit, it fills the short side and keeps the part p along the other,
    so that those of a vector are segments.
    Andriushchenko, Croce, Flammarion, Hein, ECCV 2020, arXiv:1912.00049; in L1: Croce & Hein, ICML 2021,
    arXiv:2103.01208. Defaults are those of AutoAttack, arXiv:2003.01690.

    When to use: the first attack on a model that gives only scores, and a check of masking: where it finds what gradients did
    not, the gradients lie. Thousands of queries an example, none of them wasted on estimating a gradient. Some public code
    takes 100 queries for a default, which finds little; its failure there is no evidence.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.Square(queries=500)(model, x, y, threat="linf:0.3+knowledge:scores")
    >>> int(outcome.backwards.sum()), bool(outcome.broken.any())  # by scores alone
    (0, True)
    """

    queries: int = 5000
    p: float = 0.8
    rescale_schedule: bool = False
    loss: Loss = logit_difference
    targeted_loss: Loss = cross_entropy

    paper = "Andriushchenko et al., ECCV 2020, arXiv:1912.00049"
    knowledge = Knowledge.SCORES
    sets = ("linf", "l2", "l1")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        loss = self.loss if oracle.aim.wanted is None else self.targeted_loss
        search = SEARCHES[threat.name](threat, Grid.of(x0))
        low, high = search.bounds(x0)
        x, mass = search.start(x0, oracle.stream.at("start")) if oracle.begun is None else search.go_on(x0, oracle.begun)
        s = State(x0, x, mass, oracle.scores(x, loss).loss, low, high)
        u, window = x0, search.window(self.part(0), x0.device)
        for i in oracle.steps(self.queries - 1):
            if i % BLOCK == 0:
                u = oracle.stream.at("block", i // BLOCK).uniform(BLOCK, 5 + search.grid.channels)
            if self.part(i) != self.part(i - 1):
                window = search.window(self.part(i), x0.device)
            z, mass = search.move(s, window, u[:, i % BLOCK])
            value = oracle.scores(z, loss).loss
            better = (value > s.value).nonzero()[:, 0]
            for old, new in ((s.x, z), (s.mass, mass), (s.value, value)):
                old.index_copy_(0, better, new.index_select(0, better))
            u, *rows = oracle.compact(u, *s)
            s = State(*rows)
        return s.x

    def part(self, i: int) -> float:
        """The part of the image that the window of step i covers."""
        at = int(i / self.queries * 10000) if self.rescale_schedule else i
        return self.p / 2.0 ** sum(at > halving for halving in HALVINGS)


class State(NamedTuple):
    """A row each. x: the best point so far; mass: its sum |x - x0|^p in L2 and L1, float64, carried along since a move
    changes little of it; value: the loss there; low, high: the bounds of every entry."""

    x0: Tensor
    x: Tensor
    mass: Tensor
    value: Tensor
    low: Tensor
    high: Tensor


class Grid(NamedTuple):
    """An input as channels x height x width."""

    channels: int
    height: int
    width: int

    @staticmethod
    def of(x: Tensor) -> Grid:
        *channels, height, width = x.shape[1:] if x.ndim > 2 else (1, *x.shape[1:])
        return Grid(math.prod(channels), height, width)

    def flat(self, t: Tensor) -> Tensor:
        """[rows, channels, height * width], a view."""
        return t.view(len(t), self.channels, -1)

    def fit(self, side: int, area: float) -> tuple[int, int]:
        """Height and width of a square window; where it does not fit, of one that fills the short side."""
        short = min(self.height, self.width)
        long = side if side <= short else max(side, round(area / short))
        return min(self.height, long), min(self.width, long)


class Window(NamedTuple):
    """Windows of one size. offsets [h * w]: their entries in a channel, from their corner on; eta [2, h * w]: what L2
    and L1 add to them, in two orientations."""

    sides: tuple[int, int]
    offsets: Tensor
    eta: Tensor


@dataclass(frozen=True)
class Search(ABC):
    """The start and the moves of one norm. A draw u [rows, 5 + channels] is two places, an orientation and signs."""

    threat: Threat
    grid: Grid

    @abstractmethod
    def start(self, x0: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """The first point and its mass."""

    @abstractmethod
    def go_on(self, x0: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """A point of the set to begin at, and its mass."""

    @abstractmethod
    def move(self, s: State, window: Window, u: Tensor) -> tuple[Tensor, Tensor]:
        """A candidate near s.x and its mass."""

    @abstractmethod
    def sides(self, part: float) -> tuple[int, int]:
        """Height and width of a window that covers this part of the image."""

    def bounds(self, x0: Tensor, epsilon: float | None = None) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value of every entry within epsilon."""
        low, high = torch.full_like(x0, -math.inf), torch.full_like(x0, math.inf)
        return self.threat.project(low, x0, epsilon), self.threat.project(high, x0, epsilon)

    def eta(self, h: int, w: int) -> Tensor:
        return torch.zeros(2, h * w)

    def window(self, part: float, device: torch.device) -> Window:
        h, w = self.sides(part)
        offsets = torch.arange(h)[:, None] * self.grid.width + torch.arange(w)
        return Window((h, w), offsets.flatten().to(device), self.eta(h, w).to(device))

    def entries(self, window: Window, u: Tensor) -> Tensor:
        """[rows, channels, h * w]: those of a window at one of the places where it fits, drawn by u [rows, 2]."""
        row = (u[:, :1] * (self.grid.height - window.sides[0] + 1)).long()
        column = (u[:, 1:] * (self.grid.width - window.sides[1] + 1)).long()
        return (row * self.grid.width + column + window.offsets)[:, None].expand(-1, self.grid.channels, -1)


@dataclass(frozen=True)
class Stripes(Search):
    """Linf: every entry is at an end of its interval, and each channel of a window moves to one end."""

    def start(self, x0: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """Vertical stripes: one sign a channel and column."""
        low, high = self.bounds(x0)
        signs = stream.signs(self.grid.channels, 1, self.grid.width).expand(-1, -1, self.grid.height, -1)
        return torch.where(signs.reshape(x0.shape) > 0, high, low), torch.zeros(len(x0), device=x0.device)

    def go_on(self, x0: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.clone(), torch.zeros(len(x0), device=x0.device)

    def move(self, s: State, window: Window, u: Tensor) -> tuple[Tensor, Tensor]:
        here = self.entries(window, u[:, :2])
        low, high = (self.grid.flat(end).gather(2, here) for end in (s.low, s.high))
        end = torch.lerp(low, high, u[:, 5:, None].round())
        return self.grid.flat(s.x).scatter(2, here, end).view_as(s.x), s.mass

    def sides(self, part: float) -> tuple[int, int]:
        area = part * self.grid.height * self.grid.width
        return self.grid.fit(max(round(math.sqrt(area)), 1), area)


@dataclass(frozen=True)
class Pyramids(Search):
    """L2 and L1 (power 2 and 1): one window takes over what another holds and what the budget has left, in the shape of
    its own change plus eta."""

    power: int

    def bounds(self, x0: Tensor, epsilon: float | None = None) -> tuple[Tensor, Tensor]:
        return super().bounds(x0, math.inf)

    def start(self, x0: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """Tiles of eta, five along the short side, in random orientations and signs."""
        channels, height, width = self.grid
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        lying, standing = self.eta(side, side).to(x0.device).view(2, side, 1, side)
        shape = torch.where(stream.at("orientation").uniform(1, rows, 1, columns, 1) < 0.5, lying, standing)
        tiles = shape * stream.at("sign").signs(channels, rows, 1, columns, 1)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        around = (left, width - columns * side - left, top, height - rows * side - top)
        delta = pad(tiles.reshape(len(x0), channels, rows * side, columns * side), around)
        if self.power == 2:
            delta *= self.threat.epsilon / self._norm(delta.view(len(x0), 1, -1))[..., None]
        x = self.threat.project(x0 + delta.view_as(x0), x0)
        return x, self._mass(x - x0)

    def go_on(self, x0: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.clone(), self._mass(x - x0)

    def move(self, s: State, window: Window, u: Tensor) -> tuple[Tensor, Tensor]:
        here, there = self.entries(window, u[:, :2]), self.entries(window, u[:, 2:4])
        x, x0 = self.grid.flat(s.x), self.grid.flat(s.x0)
        origin, source = x0.gather(2, here), x0.gather(2, there)
        delta = x.gather(2, here) - origin
        z = x.scatter(2, here, origin)
        taken = z.gather(2, there) - source  # zero where the windows meet: delta has that
        held = self._sum(delta) + self._sum(taken)
        eta = window.eta[(u[:, 4] < 0.5).long(), None] * torch.where(u[:, 5:, None] < 0.5, -1.0, 1.0)
        new = delta / self._norm(delta) + eta
        new *= self._size(held, s.mass) / self._norm(new)
        z.scatter_(2, there, source)
        if self.power == 1:
            point = self.threat.project(z.scatter_(2, here, origin + new).view_as(s.x), s.x0)
            return point, self._mass(point - s.x0)
        low, high = (self.grid.flat(end).gather(2, here) for end in (s.low, s.high))
        placed = (origin + new).clamp_(low, high)
        mass = s.mass - held.sum((1, 2)) + self._sum(placed - origin).sum((1, 2))
        return z.scatter_(2, here, placed).view_as(s.x), mass

    def sides(self, part: float) -> tuple[int, int]:
        """Odd, and at least 3."""
        area = part * self.grid.height * self.grid.width
        return self.grid.fit(max(round(math.sqrt(area)), 3) // 2 * 2 + 1, area)

    def eta(self, h: int, w: int) -> Tensor:
        """Two pyramids of opposite sign, of norm 1 together: one above the other and side by side, or in a window that
        is no square along its long side."""
        pair = self._pair(max(h, w), min(h, w))
        return torch.stack([pair if h >= w else pair.T, pair if h > w else pair.T]).flatten(1)

    def _pair(self, h: int, w: int) -> Tensor:
        pair = torch.cat([self._pyramid(h // 2, w), -self._pyramid(h - h // 2, w)])
        return pair / self._norm(pair.view(1, 1, -1)).view(())

    def _pyramid(self, h: int, w: int) -> Tensor:
        """sum_{k >= r} (k + 1)^-2 in L2, ^-4 in L1, r the distance from the centre in steps of a king; of norm 1."""
        r = torch.maximum((torch.arange(h) - h // 2).abs()[:, None], (torch.arange(w) - w // 2).abs())
        steps = torch.arange(1, max(h // 2, w // 2) + 2).float() ** (-2 if self.power == 2 else -4)
        pyramid = steps.flip(0).cumsum(0).flip(0)[r]
        return pyramid / self._norm(pyramid.view(1, 1, -1)).view(()) if h else pyramid

    def _size(self, held: Tensor, mass: Tensor) -> Tensor:
        """The norm a window may have in each channel. In L1 it is too much by a factor of the channels, as in
        AutoAttack: projecting shrinks every entry, and keeps the change sparse."""
        channels, spare = self.grid.channels, self.threat.epsilon**self.power - mass.view(-1, 1, 1)
        if self.power == 2:
            return (spare / channels + held).clamp_(min=0).sqrt_().float()
        return (spare.clamp(min=0) + channels * held).float()

    def _sum(self, delta: Tensor) -> Tensor:
        """sum |delta|^p of every row and channel, [rows, channels, 1] float64."""
        powers = delta.abs() if self.power == 1 else delta.square()
        return total(powers.flatten(0, 1)).view(*delta.shape[:2], 1)

    def _norm(self, delta: Tensor) -> Tensor:
        """||delta||_p likewise, float32, never quite 0."""
        return self._sum(delta).pow(1 / self.power).clamp_(min=1e-12).float()

    def _mass(self, delta: Tensor) -> Tensor:
        return self._sum(self.grid.flat(delta)).sum((1, 2))


SEARCHES: dict[str, Callable[[Threat, Grid], Search]] = {
    "linf": Stripes,
    "l2": partial(Pyramids, power=2),
    "l1": partial(Pyramids, power=1),
}
