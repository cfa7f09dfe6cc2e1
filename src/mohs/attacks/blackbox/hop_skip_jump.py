"""HopSkipJump: the boundary's normal from labels at random points around a point of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.labels import CHUNK, Labels, units
from mohs.geometry import per_row
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, NormThreat, Threat

HALVINGS = 24  # of a step: beyond, float32 has it at nothing


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack):
    """From a point x_t of the boundary, a step along the normal estimated there, and a bisection back towards x0.

    The normal is the mean of (phi_b - mean phi) u_b over B_t = probes sqrt(t) random unit vectors u_b, where phi_b is 1
    if x_t + delta_t u_b reaches the goal, else -1; after clipping, u_b is what was added. delta_t = ||x_t - x0|| / d in
    both norms, and a tenth of the range at first. In linf the step follows its sign. The step is ||x_t - x0|| / sqrt(t)
    long, halved until it reaches the goal. Bisection ends at a part theta of the way: d^-3/2 in l2, d^-2 in linf, not below
    2^-20, which is what float32 tells apart.

    queries: labels asked of a row, the start and the judge's confirmations included; of the last round's probes, a row asks
    as many as leave it a step and a bisection. starts: random inputs tried for a first success.
    Chen, Jordan, Wainwright, IEEE S&P 2020, arXiv:1904.02144.

    When to use: the reference among attacks by labels, in l2 and linf, for any input; its estimate of the normal makes the most
    of thousands of labels. With a thousand or fewer on images, begin with `geoda` or `surfree`: it goes on from a success
    that is known.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> outcome = attacks.HopSkipJump(queries=1000)(model, x, y, threat="l2:inf+knowledge:label")
    >>> round(float(outcome.distance), 2), int(outcome.backwards)
    (0.2, 0)
    """

    queries: int = 10000
    probes: int = 100
    most_probes: int = 10000
    starts: int = 100

    paper = "Chen, Jordan & Wainwright, IEEE S&P 2020, arXiv:1904.02144"
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
        d, range_ = x0[0].numel(), threat.bounds[1] - threat.bounds[0]
        theta = 1 / (d * float(threat.norm.dual(torch.ones_like(x0[:1]))))
        bisections = min(20, math.ceil(-math.log2(theta)))
        x = labels.start(self.starts, bisections)
        x0, x = oracle.compact(x0, x)
        for t in labels.steps():
            size = threat.distance(x, x0).to(x.dtype)
            delta = size / d if t else torch.full_like(size, 0.1 * range_)
            count = min(int(self.probes * math.sqrt(t + 1)), self.most_probes)
            normal = self.normal(labels, x, delta, count, bisections + 4, oracle.stream.at("probes", t))
            direction = threat.norm.steepest(threat.constraints.mutable(normal))
            x, moved = jump(labels, x, direction, size / math.sqrt(t + 1))
            x = labels.bisect(x, moved, bisections)
            x0, x = oracle.compact(x0, x)
        return x

    def normal(self, labels: Labels, x: Tensor, delta: Tensor, count: int, spared: int, stream: Stream) -> Tensor:
        """The sum of (phi_b - mean phi) u_b, [rows, *input]; u_b itself where all phi are the same. A row asks at `count`
        probes, or as many as leave it `spared` queries."""
        most = (labels.left - spared).clamp(0, count)
        weighted, plain, mean = labels.probe(x, delta, most, lambda n, s: self.directions(labels, n, s), stream)
        return torch.where(per_row(mean.abs() == 1, x), weighted, weighted - per_row(mean, x) * plain)

    def directions(self, labels: Labels, n: int, stream: Stream) -> Tensor:
        """Unit vectors of l2, [rows, n, *input]: of a normal draw in l2, of a uniform one in linf."""
        x0 = labels.oracle.x0
        drawn = labels.threat.norm.ball(x0[:, None].expand(-1, n, *x0.shape[1:]), stream.bulk())
        return units(drawn)


def jump(labels: Labels, x: Tensor, direction: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """x + size direction, clipped, size [rows] halved until that reaches the goal, and the rows where it does; x elsewhere."""
    todo, size, x = labels.rows(), size.clone(), x.clone()
    moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(HALVINGS):
        if len(todo) == 0:
            break
        p = labels.boxed(x[todo] + per_row(size[todo], x) * direction[todo], todo)
        hit = labels.reached(p, todo)
        x[todo[hit]], moved[todo[hit]] = p[hit], True
        size[todo] /= 2
        todo = todo[~hit & (labels.left[todo] > 0)]
    return x, moved.nonzero()[:, 0]
