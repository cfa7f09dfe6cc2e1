"""GeoDA: where the boundary is nearly flat, its normal shows the way from the input to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.frequency import image, lowest
from mohs.attacks.blackbox.labels import CHUNK, Labels, units
from mohs.geometry import per_row
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class GeoDA(Attack):
    """From x0, and not from the boundary's point, along the normal w estimated there: to x0 + r w in l2, x0 + r sign w in
    linf, with the least r that bisection finds. That is the next point of the boundary, at which w is estimated anew.

    w is the sum of phi u over all rounds' probes, phi = 1 where x + delta u reaches the goal and -1 elsewhere; u are unit
    vectors of the lowest `part` of the frequencies of height and of width, delta that part of the range which `sigma` a
    coefficient makes. Round i of `rounds` has a share of the queries that grows as lambda^(-2 i / 3). r begins at the
    distance known and is doubled until it reaches the goal; where it never does, the point stays. The paper's subspace has
    75 of 224 frequencies a side; its sparse version is left out. Rahmati, Moosavi-Dezfooli, Frossard, Dai, CVPR 2020,
    arXiv:2003.06468.

    When to use: with a thousand labels or fewer on images: every round is a new look along one line from the input. Rows for
    which that line meets no success stay at their start; and it does not creep on, so that with more labels `hop-skip-jump`
    or `qeba` should go on from where it ended.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> outcome = attacks.GeoDA(queries=500, part=1.0)(model, x, y, threat="l2:inf+knowledge:label")
    >>> round(float(outcome.distance), 2), int(outcome.backwards)
    (0.2, 0)
    """

    queries: int = 2000
    rounds: int = 5
    ratio: float = 0.6
    sigma: float = 2e-4
    part: float = 1 / 3
    bisections: int = 16
    starts: int = 100

    paper = "Rahmati et al., CVPR 2020, arXiv:2003.06468"
    knowledge = Knowledge.LABEL
    sets = ("l2", "linf")
    minimal = True

    def width(self, threat: Threat) -> int:
        return CHUNK

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        labels = Labels.of(oracle, self.queries)
        x = labels.start(self.starts, self.bisections)
        w, low = torch.zeros_like(x), lowest(x0.shape[1:], self.part)
        delta = self.sigma * (threat.bounds[1] - threat.bounds[0]) * torch.Size(low).numel() ** 0.5
        shares = [self.ratio ** (-2 * i / 3) for i in range(self.rounds)]
        x0, x, w = oracle.compact(x0, x, w)
        for i in oracle.steps(self.rounds):
            rest = self.rounds - i
            most = ((labels.left - rest * (self.bisections + 4)).clamp(min=0) * shares[i] / sum(shares[i:])).long()
            length = torch.full((len(x),), delta, device=x.device)
            w = w + labels.probe(x, length, most, lambda n, s: self.directions(labels, low, n, s), oracle.stream.at(i)).weighted
            direction = threat.norm.steepest(threat.constraints.mutable(w.clone()))
            z, hit = line(labels, x, direction)
            x = torch.where(per_row(hit, x), labels.bisect(z, hit.nonzero()[:, 0], self.bisections), x)
            x0, x, w = oracle.compact(x0, x, w)
        return x

    def directions(self, labels: Labels, low: list[int], n: int, stream: Stream) -> Tensor:
        return image(units(stream.bulk().normal(n, *low)), labels.oracle.x0.shape[1:])


def line(labels: Labels, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """x0 + r direction, clipped, r the distance of x doubled until that reaches the goal, or the box has been left; and
    [rows] bool: whether it does."""
    x0, threat = labels.oracle.x0, labels.threat
    r, limit = threat.distance(x, x0).to(x.dtype), threat.farthest(x0)
    z, found = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    todo = labels.rows()
    while len(todo):
        p = labels.boxed(x0[todo] + per_row(r[todo], x) * direction[todo], todo)
        hit = labels.reached(p, todo)
        z[todo[hit]], found[todo[hit]] = p[hit], True
        r[todo] *= 2
        todo = todo[~hit & (labels.left[todo] > 0) & (r[todo] < 2 * limit[todo])]
    return z, found
