"""SimBA: one direction of an orthonormal basis after the other, by scores alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.square import Grid
from mohs.errors import Refused
from mohs.geometry import per_row
from mohs.losses import Loss, log_odds
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Goal, Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class Basis(Attack):
    """x + step q for the next direction q of an orthonormal basis, kept where it raises the loss; else x - step q.

    queries: scores asked of a row, the clean input included. step: the length of a move in the units of the input; k of
    them are sqrt(k) step long. No direction comes twice before every other one came.
    """

    queries: int = 5000
    step: float = 0.2
    loss: Loss = log_odds

    knowledge = Knowledge.SCORES
    sets = ("l2", "linf")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    @abstractmethod
    def order(self, stream: Stream, threat: Threat, x0: Tensor) -> Tensor:
        """[rows, n]: the numbers of the directions, in the order they are tried in."""

    @abstractmethod
    def direction(self, number: Tensor, x0: Tensor) -> Tensor:
        """The direction of each row's number [rows], of the shape of x0."""

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        zero = torch.zeros(len(x0), dtype=torch.long, device=x0.device)
        order = self.order(oracle.stream.at("order"), threat, x0)
        s = State(x0, threat.origin(x0), oracle.scores(x0, self.loss).loss, order, zero, torch.ones(len(x0), device=x0.device))
        for _ in oracle.steps(self.queries - 1):
            q = self.direction(s.order.gather(1, s.tried[:, None])[:, 0], s.x0)
            z = threat.project(s.x + per_row(self.step * s.sign, q) * q, s.x0)
            value = oracle.scores(z, self.loss).loss
            better = value > s.value
            x, value = torch.where(per_row(better, z), z, s.x), torch.where(better, value, s.value)
            done = better | (s.sign < 0)
            tried = (s.tried + done) % s.order.shape[1]
            s = State(*oracle.compact(s.x0, x, value, s.order, tried, torch.where(done, 1.0, -1.0)))
        return s.x


class State(NamedTuple):
    """A row each. x: the best point so far; value: the loss there; order [rows, n]; tried: how many directions were, less
    those of full rounds; sign: the side of the next one that is tried now."""

    x0: Tensor
    x: Tensor
    value: Tensor
    order: Tensor
    tried: Tensor
    sign: Tensor


@dataclass(frozen=True, kw_only=True)
class SimBA(Basis):
    """An entry is moved by `step`, and stays where that makes the label less likely; else it is moved the other way.

    Entries come in random order, each once before any comes again. queries: scores asked of a row, the clean input included;
    the other side of an entry is asked about only where the first fails. The paper has no budget and reports the length,
    step sqrt(k) after k moves; here a move that leaves the set is projected onto it, and in a ball of linf no larger than
    `step` an entry goes to its end. The loss rises as p_y falls, which is all that is needed.
    Guo, Gardner, You, Wilson, Weinberger, ICML 2019, arXiv:1905.07121.

    When to use: where an attack of ten lines that cannot go wrong is wanted. In a norm's budget `square` needs fewer queries.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 = 0.2 away in l2: x_1 and x_2 must grow
    >>> outcome = attacks.SimBA(queries=50)(model, x, y, threat="l2:0.25+knowledge:scores")
    >>> bool(outcome.broken), int(outcome.backwards)
    (True, 0)
    """

    paper = "Guo et al., ICML 2019, arXiv:1905.07121"

    def order(self, stream: Stream, threat: Threat, x0: Tensor) -> Tensor:
        """Entries that may change, in random order."""
        free = threat.constraints.mutable(torch.ones_like(x0[:1])).flatten().nonzero()[:, 0]
        return free[stream.permutation(len(free))]

    def direction(self, number: Tensor, x0: Tensor) -> Tensor:
        return torch.zeros_like(x0).flatten(1).scatter_(1, number[:, None], 1.0).view_as(x0)


@dataclass(frozen=True, kw_only=True)
class SimBADCT(Basis):
    """A cosine wave of one channel is added, and stays where that makes the label less likely; else it is taken away.

    Waves are those of the orthonormal discrete cosine transform, low ones first: in random order those of the lowest
    `frequencies` of each side (a share of it), then those of `stride` more, and so on, each once before any comes again. The
    paper's 28 and 7 of 224; for small images it takes all of them at once, frequencies=1. The last two dimensions of an input
    are height and width, and a flat vector has height 1. queries, and what is done at the edge of the set, are those of
    SimBA. Guo, Gardner, You, Wilson, Weinberger, ICML 2019, arXiv:1905.07121.

    When to use: SimBA for images of natural size, whose classifiers heed low frequencies. In linf, where a wave is cut to the
    budget, `square` or `simba`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.SimBADCT(queries=500)(model, x, y, threat="l2:1.5+knowledge:scores")
    >>> int(outcome.backwards.sum()), bool(outcome.broken.any())  # by scores alone
    (0, True)
    """

    frequencies: float = 0.125
    stride: float = 0.03125

    paper = "Guo et al., ICML 2019, arXiv:1905.07121"

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if not (0 < self.frequencies <= 1 and 0 < self.stride <= 1):
            raise Refused(f"SimBADCT takes shares of a side, above 0 and up to 1, not {self.frequencies} and {self.stride}")

    def order(self, stream: Stream, threat: Threat, x0: Tensor) -> Tensor:
        """By bands, within each at random."""
        channels, height, width = Grid.of(x0)
        band = torch.maximum(self._bands(height)[:, None], self._bands(width)).flatten().repeat(channels).to(x0.device)
        return (band + stream.uniform(len(band))).argsort(stable=True, dim=1)

    def _bands(self, side: int) -> Tensor:
        """[side] float64: 0 for the lowest frequencies, then 1 for the next, and so on."""
        at = torch.arange(side, dtype=torch.float64) / side
        return ((at - self.frequencies) / self.stride).floor().add(1).clamp(min=0)

    def direction(self, number: Tensor, x0: Tensor) -> Tensor:
        channels, height, width = Grid.of(x0)
        channel, row, column = number // (height * width), number // width % height, number % width
        wave = cosines(height).to(x0)[row][:, :, None] * cosines(width).to(x0)[column][:, None, :]
        q = x0.new_zeros(len(x0), channels, height, width)
        q[torch.arange(len(q), device=q.device), channel] = wave
        return q.view_as(x0)


@cache
def cosines(n: int) -> Tensor:
    """[n, n]: the orthonormal discrete cosine transform (DCT-II), a wave a row. Ahmed, Natarajan, Rao, 1974."""
    k, at = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64) + 0.5
    waves = math.sqrt(2 / n) * (math.pi / n * k * at).cos()
    waves[0] = math.sqrt(1 / n)
    return waves.float()
