"""The parsimonious attack: every entry at an end of its interval, and a local search over which, by scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.square import Grid
from mohs.losses import Loss, logit_difference
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class Parsimonious(Attack):
    """Every block of the input is at the lower or the upper end of its interval, all at the lower first. Local search: the
    blocks whose move to the upper end raises the loss are moved, the one that raises it most first, then those whose move
    back does; at a local optimum blocks are split in four, down to single entries.

    The search is lazily greedy: a gain once seen bounds a later one from above (as it would of a submodular loss), so that
    the block of the largest is asked about again and moved where its gain is still the largest. queries: scores asked of a
    row. start: side of the first blocks as a part of the image's short side, to the nearest power of two, the authors' 4 of
    32. batch: blocks, in random order, that are searched together before the next, as in the authors' code, which visits
    every block once before it splits. Their code moves the first block of a batch whatever its gain; here it must raise the loss,
    as printed. A row whose single entries are at a local optimum rests. A flat vector has height 1.
    Moon, An, Song, ICML 2019, arXiv:1905.06635.

    When to use: in linf by scores, beside `square`: on an adversarially trained network of CIFAR-10 at 8/255 it broke 108 of
    128 images within 5,000 queries, at 1,325 each on average, where `square` broke 99 at 1,632. Two unlike searches are a
    check of each other.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.Parsimonious(queries=500)(model, x, y, threat="linf:0.3+knowledge:scores")
    >>> int(outcome.backwards.sum()), bool(outcome.broken.any())  # by scores alone
    (0, True)
    """

    queries: int = 5000
    start: float = 0.125
    batch: int = 64
    loss: Loss = logit_difference

    paper = "Moon et al., ICML 2019, arXiv:1905.06635"
    knowledge = Knowledge.SCORES
    sets = ("linf",)

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        levels = Levels.of(Grid.of(x0), self.start, threat.constraints.mutable(torch.ones_like(x0[:1])))
        low, high = (threat.project(torch.full_like(x0, end), x0).flatten(1) for end in (-math.inf, math.inf))
        s = State.begin(low, high, oracle.scores(low.view_as(x0), self.loss).loss, self.batch)
        for _ in oracle.steps(self.queries - 1):
            s.move(levels)
            self._go_on(s, levels, oracle.stream)
            rows = (oracle.open & ~s.rests).nonzero()[:, 0]
            if len(rows) == 0:
                break
            top = s.gain.argmax(1)
            up = (s.up ^ s.inside(levels, top))[rows]
            z = torch.where(up, s.high[rows], s.low[rows]).view(-1, *x0.shape[1:])
            value = oracle.scores(z, self.loss, rows).loss
            s.gain[rows, top[rows]] = value.double() - s.value[rows]
            s.fresh[rows, top[rows]] = True
            s = State(*oracle.compact(*s))
        return torch.where(s.up, s.high, s.low).view(-1, *x0.shape[1:])

    def _go_on(self, s: State, levels: Levels, stream: Stream) -> None:
        """Rows with nothing to gain turn to moving back, then to the next batch, then to the next level; the last is gone
        through again until nothing moves."""
        last, n = len(levels.free) - 1, s.gain.shape[1]
        while (idle := (s.gain.amax(1) <= 0) & ~s.rests).any():
            s.at[idle & s.back] += n
            s.back[idle] = ~s.back[idle]
            over = idle & (s.order.gather(1, s.at[:, None])[:, 0] < 0)
            s.rests[over & (s.sweep >= last) & ~s.moved] = True
            s.sweep[over] += 1
            s.at[over], s.moved[over] = 0, False
            for sweep in s.sweep[over].unique().tolist():
                rows, free = (over & (s.sweep == sweep)).nonzero()[:, 0], levels.free[min(sweep, last)]
                s.level[rows], s.order[rows] = min(sweep, last), -1
                s.order[rows, : len(free)] = free[stream.take(rows).at("sweep", sweep).permutation(len(free))]
            batch = s.order.gather(1, s.at[:, None] + torch.arange(n, device=s.at.device))
            eligible = (batch >= 0) & (s.up.gather(1, levels.first[s.level].gather(1, batch.clamp(min=0))) == s.back[:, None])
            fresh = idle & ~s.rests
            s.gain[fresh] = torch.where(eligible[fresh], math.inf, -math.inf).double()
            s.fresh[fresh] = False


class Levels(NamedTuple):
    """Blocks from coarse to fine, down to single entries. block [levels, entries]: which one an entry is in. first
    [levels, entries]: of each block, an entry. free: of each level, the blocks that may change."""

    block: Tensor
    first: Tensor
    free: list[Tensor]

    @staticmethod
    def of(grid: Grid, start: float, mutable: Tensor) -> Levels:
        """start: side of the coarsest, a part of the short side."""
        short = min(grid.height, grid.width) if grid.height > 1 else grid.width
        top = max(round(math.log2(max(short * start, 1))), 0)
        block = torch.stack([blocks(grid, 2**k) for k in range(top, -1, -1)]).to(mutable.device)
        entries = torch.arange(block.shape[1], device=block.device)
        first = torch.full_like(block, len(entries) - 1).scatter_reduce(1, block, entries.expand_as(block), "amin")
        return Levels(block, first, [of[mutable.flatten() > 0].unique() for of in block])


def blocks(grid: Grid, side: int) -> Tensor:
    """[entries]: the number of the block of `side` x `side` that each entry of a channel is in."""
    down, right = -(-grid.height // side), -(-grid.width // side)
    channel, row, column = (torch.arange(n) for n in grid)
    number = (channel[:, None, None] * down + (row // side)[:, None]) * right + column // side
    return number.flatten()


class State(NamedTuple):
    """A row each; entries are flat. low, high: the ends of every entry; up: where x is at the upper one; value: the loss at
    x, float64. order [rows, entries + batch]: blocks of the level in the order of this sweep, then -1; at: where in it the
    batch begins; back: whether blocks are moved back. Of the batch [rows, batch]: gain, float64, infinite where not asked
    about and minus infinity for those that are out; fresh: whether x is where it was. moved: whether anything did in this
    sweep; rests: at a local optimum."""

    low: Tensor
    high: Tensor
    up: Tensor
    value: Tensor
    level: Tensor
    sweep: Tensor
    order: Tensor
    at: Tensor
    back: Tensor
    gain: Tensor
    fresh: Tensor
    moved: Tensor
    rests: Tensor

    @staticmethod
    def begin(low: Tensor, high: Tensor, value: Tensor, batch: int) -> State:
        """Before the first sweep, with nothing left to do."""
        n, entries = low.shape
        none, no = low.new_zeros(n, dtype=torch.long), low.new_zeros(n, dtype=torch.bool)
        return State(
            low,
            high,
            up=torch.zeros_like(low, dtype=torch.bool),
            value=value.double(),
            level=none.clone(),
            sweep=none - 1,
            order=torch.full((n, entries + 2 * batch), -1, device=low.device),
            at=none.clone(),
            back=~no,
            gain=torch.full((n, batch), -math.inf, dtype=torch.float64, device=low.device),
            fresh=torch.zeros(n, batch, dtype=torch.bool, device=low.device),
            moved=~no,
            rests=no.clone(),
        )

    def inside(self, levels: Levels, slot: Tensor) -> Tensor:
        """[rows, entries] bool: the block in this place of the batch."""
        chosen = self.order.gather(1, (self.at + slot)[:, None])
        return levels.block[self.level] == chosen

    def move(self, levels: Levels) -> None:
        """Move the block of the largest gain where that gain is known at x and positive."""
        top = self.gain.argmax(1, keepdim=True)
        gain = self.gain.gather(1, top)[:, 0]
        sure = (self.fresh.gather(1, top)[:, 0] & (gain > 0)).nonzero()[:, 0]
        if len(sure) == 0:
            return
        self.up[sure] ^= self.inside(levels, top[:, 0])[sure]
        self.value[sure] += gain[sure]
        self.gain[sure, top[sure, 0]] = -math.inf
        self.fresh[sure], self.moved[sure] = False, True
