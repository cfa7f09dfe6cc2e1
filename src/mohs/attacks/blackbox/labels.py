"""What attacks by labels share: questions within a budget, starting points, bisection to the boundary, steps along a
direction, and low frequencies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs import geometry
from mohs.attacks.minimal.bisection import bisect
from mohs.geometry import per_row
from mohs.geometry.solve import clip_
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import NormThreat

DOUBLINGS = 4  # of the way to where an attack was begun, before random starts
CHUNK = 16  # probes of a row drawn and asked at once

Directions = Callable[[int, Stream], Tensor]  # so many unit vectors of l2 a row, [rows, n, *input]
Inputs = Callable[[Oracle, int, Tensor, Tensor], Tensor]  # the k-th random input of every row, from the box's ends [rows, *input]


class Probed(NamedTuple):
    """Over the probes of a row, with phi = 1 where one reaches the goal, else -1, and u what was added to x over delta.
    weighted: sum phi u [rows, *input]; plain: sum u; mean: of phi [rows]."""

    weighted: Tensor
    plain: Tensor
    mean: Tensor


def _blocks(oracle: Oracle, k: int, low: Tensor, high: Tensor) -> Tensor:
    """Noise of single entries, noise of blocks, and blocks blended half with the input, in turn."""
    drawn = torch.lerp(low, high, _noise(oracle, k))
    return (drawn + oracle.x0) / 2 if k % 3 == 2 else drawn


def _noise(oracle: Oracle, k: int) -> Tensor:
    """Uniform in [0, 1), [rows, *input]; of the last two dimensions, blocks of a seventh have one value where k % 3 > 0."""
    shape = oracle.x0.shape[1:]
    stream = oracle.stream.at("start", k)
    if k % 3 == 0:
        return stream.uniform(*shape)
    fewer = [*shape[:-2], *(min(7, side) for side in shape[-2:])]
    coarse = stream.uniform(*fewer)
    for dim, side in enumerate(shape[-2:], start=coarse.ndim - len(shape[-2:])):
        coarse = coarse.index_select(dim, torch.arange(side, device=coarse.device) * coarse.shape[dim] // side)
    return coarse


@dataclass(frozen=True)
class Labels:
    """An Oracle asked for labels alone. limit: by the ledger's rows, the queries after which no more are asked; the
    judge's confirmations count."""

    oracle: Oracle
    threat: NormThreat
    limit: Tensor

    @staticmethod
    def of(oracle: Oracle, queries: int) -> Labels:
        assert isinstance(oracle.threat, NormThreat)
        return Labels(oracle, oracle.threat, oracle.ledger.queries + queries)

    @property
    def left(self) -> Tensor:
        """[rows] int64: queries that a row may still spend, 0 where it is closed."""
        left = (self.limit - self.oracle.ledger.queries)[self.oracle.ids].clamp(min=0)
        return left * self.oracle.open

    def rows(self) -> Tensor:
        """Those that may still ask."""
        return self.left.nonzero()[:, 0]

    def steps(self) -> Iterator[int]:
        """0, 1, ..., for as long as a row may ask."""
        for step in self.oracle.steps(int(self.limit.max())):
            if not self.left.any():
                return
            yield step

    def reached(self, p: Tensor, rows: Tensor) -> Tensor:
        """[n] bool: whether the candidates p [n, *input] reach the goal; candidate i belongs to rows[i], ascending. What
        a row has no queries left for is not asked and counts as a miss."""
        place = torch.arange(len(rows), device=rows.device)
        covered = place - torch.searchsorted(rows, rows) < self.left[rows]
        if covered.all():
            return self.oracle.reached(p, rows)
        asked = covered.nonzero()[:, 0]
        return covered.index_copy(0, asked, self.oracle.reached(p[asked], rows[asked]))

    def start(self, tries: int, bisections: int, random_input: Inputs = _blocks) -> Tensor:
        """Points x [rows, *input] of the boundary: the best success known, else the first hit among `tries` random inputs, led
        toward x0 by so many bisections. An attack that has been begun looks along its way first, ever farther. Rows without a
        hit close as undecided, or are left alone where no input was to be tried; those whose input reaches the goal already
        have nothing left to do."""
        oracle, x0 = self.oracle, self.oracle.x0
        best = oracle.best
        x = best.point.clone()
        todo = (self.left.bool() & ~best.broken).nonzero()[:, 0]
        low, high = (torch.as_tensor(side).to(x0).expand_as(x0) for side in self.threat.constraints.box(x0, self.threat.bounds))
        ahead = 0 if oracle.begun is None else DOUBLINGS
        for k in oracle.steps(ahead + tries):
            if len(todo) == 0:
                break
            if oracle.begun is not None and k < ahead:
                drawn = (x0 + 2.0 ** (k + 1) * (oracle.begun - x0)).clamp(low, high)
            else:
                drawn = random_input(oracle, k - ahead, low, high)
            hit = self.reached(drawn[todo], todo)
            x[todo[hit]] = drawn[todo[hit]]
            todo = todo[~hit]
        if len(todo) and tries:
            oracle.ledger.close(oracle.ids[todo], f"undecided: none of {tries} starting points reaches the goal")
        self.skip(todo)
        self.skip(self.threat.distance(x, x0) == 0)
        return self.bisect(x, self.rows(), bisections) if bisections else x

    def skip(self, rows: Tensor) -> None:
        """Let rows ask no more: [rows] bool, or their places."""
        self.limit[self.oracle.ids[rows]] = 0

    def bisect(self, x: Tensor, rows: Tensor, steps: int) -> Tensor:
        """x [rows, *input] with that of the given rows led toward x0 to the boundary, along the threat's projections."""
        if len(rows) == 0:
            return x
        near = bisect(self.oracle, x[rows], self.threat, rows, steps, lambda p: self.reached(p, rows))
        return x.index_copy(0, rows, near)

    def probe(self, x: Tensor, delta: Tensor, most: Tensor, directions: Directions, stream: Stream) -> Probed:
        """Ask at x + delta u for random unit vectors u; delta [rows], most [rows] int64: how many of a row."""
        weighted, plain, hits = torch.zeros_like(x), torch.zeros_like(x), torch.zeros(len(x), device=x.device)
        low, high = self.threat.constraints.box(self.oracle.x0, self.threat.bounds)
        low, high = (side[:, None] if isinstance(side, Tensor) and side.ndim else side for side in (low, high))
        for first in range(0, int(most.amax()) if len(most) else 0, CHUNK):
            asked = torch.arange(first, first + CHUNK, device=x.device) < most[:, None]
            where = asked.flatten().nonzero()[:, 0]
            u = directions(CHUNK, stream.at(first))
            p = clip_(torch.addcmul(x[:, None], u, delta.view(-1, *[1] * x.ndim), out=u), low, high)
            candidates = p.flatten(0, 1) if len(where) == asked.numel() else p.flatten(0, 1).index_select(0, where)
            phi = torch.zeros(asked.shape, dtype=x.dtype, device=x.device)
            phi.view(-1)[where] = self.reached(candidates, where // CHUNK).to(x.dtype) * 2 - 1
            moved, several = p.sub_(x[:, None]), (*asked.shape, *[1] * (x.ndim - 1))
            plain += moved.mul_(asked.to(x.dtype).view(several)).sum(1)
            weighted += moved.mul_(phi.view(several)).sum(1)
            hits += phi.sum(1)
        scale = per_row(delta, x)
        return Probed(weighted.div_(scale), plain.div_(scale), hits / most.clamp(min=1))

    def boxed(self, p: Tensor, rows: Tensor) -> Tensor:
        """Candidates p [n, *input] of rows, clipped."""
        low, high = self.threat.constraints.box(self.oracle.x0[rows], self.threat.bounds)
        return clip_(p, low, high)


def units(drawn: Tensor) -> Tensor:
    """Draws [rows, n, ...] at length 1 in l2, in place."""
    return geometry.L2.steepest(drawn.flatten(0, 1)).view_as(drawn)
