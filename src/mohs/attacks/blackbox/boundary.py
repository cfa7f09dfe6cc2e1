"""Boundary attack: a random walk along the boundary towards the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs import geometry
from mohs.attacks.base import Attack
from mohs.attacks.blackbox.labels import Labels
from mohs.geometry import per_row
from mohs.geometry.solve import length, total
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, NormThreat, Threat

WINDOWS = (100, 30)  # trials of the two moves after which a row's step sizes are looked at
OFTEN = 10  # steps, of which one asks about the move on the sphere by itself


@dataclass(frozen=True, kw_only=True)
class Boundary(Attack):
    """From a success x, a random move of `spherical` times the distance on the sphere around x0 through x, then one of
    `source` times the distance towards x0; where that reaches the goal, x goes there.

    Every tenth step asks about the first move by itself. After 100 such labels both sizes grow by `adaptation` if more
    than half reached the goal, and shrink by it below a fifth; after 30 of the whole move `source` grows above a quarter and
    shrinks below a tenth. Both sizes are each row's own. A row whose `source` falls below `convergence` asks no more.
    The windows are counted afresh; the authors' code lets them slide until they have led to a change.
    Brendel, Rauber, Bethge, ICLR 2018, arXiv:1712.04248.

    When to use: to repeat its paper, or with tens of thousands of labels to spend: it gets near slowly and then very near.
    `hop-skip-jump` needs a tenth of the labels.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> outcome = attacks.Boundary(queries=2000)(model, x, y, threat="l2:inf+knowledge:label")
    >>> round(float(outcome.distance), 1), int(outcome.backwards)
    (0.2, 0)
    """

    queries: int = 25000
    spherical: float = 0.01
    source: float = 0.01
    adaptation: float = 1.5
    convergence: float = 1e-7
    bisections: int = 10
    starts: int = 100

    paper = "Brendel, Rauber & Bethge, ICLR 2018, arXiv:1712.04248"
    knowledge = Knowledge.LABEL
    sets = ("l2",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        labels = Labels.of(oracle, self.queries)
        x = labels.start(self.starts, self.bisections)
        size = torch.tensor([self.spherical, self.source], device=x.device).expand(len(x), -1).clone()
        none = torch.zeros_like(size)
        s = State(*oracle.compact(x0, x, size, none, none.clone()))
        for k in labels.steps():
            around, near = self._moves(labels, s, oracle.stream.at("step", k))
            rows = labels.rows()
            tried, hits = s.tried, s.hits
            if k % OFTEN == 0:
                tried, hits = self._count(labels, around, rows, tried, hits, 0)
            before = hits[:, 1]
            tried, hits = self._count(labels, near, rows, tried, hits, 1)
            x = torch.where(per_row(hits[:, 1] > before, s.x), near, s.x)
            s = self._adapt(s._replace(x=x, tried=tried, hits=hits))
            labels.skip(s.size[:, 1] < self.convergence)
            s = State(*oracle.compact(*s))
        return s.x

    def _moves(self, labels: Labels, s: State, stream: Stream) -> tuple[Tensor, Tensor]:
        """A random point at the distance of x, and one behind it that is nearer; clipped."""
        way = s.x0 - s.x
        distance = length(way).to(way.dtype)
        toward = geometry.L2.steepest(way.clone())
        eta = labels.threat.constraints.mutable(stream.normal(*s.x.shape[1:]))
        eta = geometry.L2.steepest(eta - per_row(total(eta * toward).to(eta.dtype), eta) * toward)
        ratio = s.size[:, 0]
        move = (per_row(ratio * distance, eta) * eta - way) / per_row((1 + ratio.square()).sqrt(), eta)
        rows = torch.arange(len(s.x), device=s.x.device)
        around = labels.boxed(s.x0 + move, rows)
        left = length(s.x0 - around).to(way.dtype)  # clipping has changed it
        step = (s.size[:, 1] * distance + left - distance).clamp(min=0) / left.clamp(min=1e-30)
        return around, labels.boxed(torch.lerp(around, s.x0, per_row(step.clamp(max=1), eta)), rows)

    def _count(self, labels: Labels, p: Tensor, rows: Tensor, tried: Tensor, hits: Tensor, move: int) -> tuple[Tensor, Tensor]:
        rows = rows[labels.left[rows] > 0]
        tried, hits = tried.clone(), hits.clone()
        tried[rows, move] += 1
        hits[rows, move] += labels.reached(p[rows], rows)
        return tried, hits

    def _adapt(self, s: State) -> State:
        full = s.tried >= torch.tensor(WINDOWS, device=s.x.device)
        rate = s.hits / s.tried.clamp(min=1)
        grow, shrink = torch.tensor(((0.5, 0.25), (0.2, 0.1)), device=s.x.device)
        turn = (full & (rate > grow)).to(s.size.dtype) - (full & (rate < shrink)).to(s.size.dtype)
        turn[:, 1] += turn[:, 0]  # the first move's rate tells of both sizes
        return s._replace(size=s.size * self.adaptation**turn, tried=s.tried * ~full, hits=s.hits * ~full)


class State(NamedTuple):
    """A row each. size [rows, 2]: of the move on the sphere and of the one towards x0, over the distance; tried, hits
    [rows, 2]: of either in its window."""

    x0: Tensor
    x: Tensor
    size: Tensor
    tried: Tensor
    hits: Tensor
