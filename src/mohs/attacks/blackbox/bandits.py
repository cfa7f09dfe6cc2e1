"""Bandits: a gradient carried from step to step as a prior, and bettered by two scores each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.parsimonious import blocks
from mohs.attacks.blackbox.slope import visible
from mohs.attacks.blackbox.square import Grid
from mohs.geometry import per_row
from mohs.geometry.solve import length
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class Bandits(Attack):
    """Steps along sign(v) in linf and v / |v| in l2, where the prior v takes a step of its own for each: with
    u ~ N(0, exploration^2 / d) and q_i = (v +- u) / |v +- u|, along
    (L(x + probe q_1) - L(x + probe q_2)) / (probe exploration) u.

    v is a coarse image of d entries, each that of a square of `tile` x `tile` pixels (the data prior), and is kept from step to
    step (the time prior). In linf it takes steps of exponentiated gradients, which keep it in [-1, 1]: v = tanh(w), w grows by
    prior_rate times the gradient, the same as printed; in l2 it is w itself. probe is a length in the units of the input, no
    less than a level an entry of quantised ones; step_size is in units of epsilon. The authors' constants: in linf probe 0.1,
    exploration 1, prior_rate 100, step_size 0.2; in l2 0.01, 0.01, 0.1, 0.1, which an option left at 0 takes. Their tile is 6
    of 299 pixels. A third score tells whether the step succeeded; points are asked about outside the ball, where the
    adversary may look but not stay.
    Ilyas, Engstrom, Madry, ICLR 2019, arXiv:1807.07978.

    When to use: where an estimated gradient is wanted for fewer queries than `nes` takes: two scores a step against fifty. For
    success alone `square` and `parsimonious` are better. Its constants are of large images; try `tile` first.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(4)
    >>> outcome = attacks.Bandits(steps=200)(model, x, y, threat="linf:0.3+knowledge:scores")
    >>> int(outcome.backwards.sum()), bool(outcome.broken.any())  # by scores alone
    (0, True)
    """

    steps: int = 1667
    tile: int = 2
    probe: float = 0.0
    exploration: float = 0.0
    prior_rate: float = 0.0
    step_size: float = 0.0
    loss: Loss = cross_entropy

    paper = "Ilyas et al., ICLR 2019, arXiv:1807.07978"
    knowledge = Knowledge.SCORES
    sets = ("linf", "l2")
    roams = True

    def width(self, threat: Threat) -> int:
        return 2

    def passes(self, classes: int) -> tuple[int, int]:
        return 3 * self.steps * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        probe, exploration, rate, size = (
            given or default
            for given, default in zip(
                (self.probe, self.exploration, self.prior_rate, self.step_size), CONSTANTS[threat.name], strict=True
            )
        )
        probe = max(probe, visible(0.0, threat) * math.sqrt(x0[0].numel()))
        link = torch.tanh if threat.name == "linf" else torch.clone
        tiles = Tiles(Grid.of(x0), self.tile)
        x, w = threat.origin(x0), x0.new_zeros(len(x0), tiles.count)
        for k in oracle.steps(self.steps):
            u = oracle.stream.at("step", k).normal(tiles.count) * (exploration / math.sqrt(tiles.count))
            v = link(w)
            q = torch.stack([tiles.image(v + u, x0), tiles.image(v - u, x0)], 1).flatten(0, 1)
            q = q / per_row(length(q).clamp(min=1e-12).to(q.dtype), q)
            rows = torch.arange(len(x), device=x.device).repeat_interleave(2)
            asked = threat.project(x[rows] + probe * threat.constraints.mutable(q), x0[rows], math.inf)
            up, down = oracle.scores(asked, self.loss, rows).loss.view(-1, 2).unbind(1)
            w = w + per_row(rate * (up - down) / (probe * exploration), w) * u
            x = threat.step(x, tiles.image(link(w), x0), x0, size)
            oracle.scores(x)
            x0, x, w = oracle.compact(x0, x, w)
        return x


CONSTANTS = {"linf": (0.1, 1.0, 100.0, 0.2), "l2": (0.01, 0.01, 0.1, 0.1)}  # probe, exploration, prior_rate, step_size


@dataclass(frozen=True)
class Tiles:
    """An image of squares of one colour a channel, by a number a square and channel."""

    grid: Grid
    side: int

    @property
    def count(self) -> int:
        return self.grid.channels * -(-self.grid.height // self.side) * -(-self.grid.width // self.side)

    def image(self, v: Tensor, like: Tensor) -> Tensor:
        """v [rows, count] as an image of the shape of `like`."""
        return v[:, blocks(self.grid, self.side).to(v.device)].view_as(like)
