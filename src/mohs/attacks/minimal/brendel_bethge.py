"""Brendel-Bethge: along the decision boundary to the point of it that is nearest to the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.minimal.bisection import bisect
from mohs.geometry.trust import boundary_step
from mohs.oracle import Oracle
from mohs.threat import NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class BrendelBethge(Attack):
    """From an adversarial point on the boundary, x goes to the point nearest to x0 among those of the box, of the
    linearised boundary margin(x) + <g, . - x> = 0 and within a radius of x in l2; where the radius does not reach that
    boundary, as near to it as may be. g is the mean of this gradient and earlier ones.

    overshoot: a point that is not adversarial goes overshoot times as far as the boundary, one that is 2 - overshoot
    times. radius: in units of the number of entries times the range; multiplied by `decay` `decays` times on the way.
    momentum: the weight of earlier gradients. ascents: steps along the gradient of the margin to a start, where no success
    is known; starts: uniform random inputs tried where they lead to none. bisections: of the way from the start to x0,
    along projections.

    A step costs one forward and one backward pass. The authors start from random inputs, blended with x0, and have no
    ascent (here `ascents=0`): from there the attack ends in farther places. Their code takes the radius times the number of
    examples in the batch as well; here it is each example's own. The problem of a step is solved for its two multipliers
    by root finding, in place of a quasi-Newton method.
    Brendel, Rauber, Kuemmerer, Ustyuzhaninov, Bethge, NeurIPS 2019, arXiv:1907.01003.

    When to use: to polish: it starts from a success and slides along the boundary to the point nearest x0, which improves what
    other attacks found. 1,000 steps and a small problem to solve in each make it slow; alone, from random starts, it is weaker
    than after `fmn`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> round(float(attacks.BrendelBethge(steps=100, decays=6, radius=0.1)(model, x, y, threat="l2:inf").distance), 3)
    0.2
    """

    steps: int = 1000
    overshoot: float = 1.1
    radius: float = 1e-3
    decay: float = 0.5
    decays: int = 20
    momentum: float = 0.8
    ascents: int = 20
    starts: int = 10
    bisections: int = 10

    paper = "Brendel et al., NeurIPS 2019, arXiv:1907.01003"
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        backwards = self.restarts * (self.ascents + self.steps)
        return backwards + self.restarts * (self.starts + self.bisections), backwards

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        x = self.start(oracle, x0, threat)
        g = torch.zeros_like(x)
        radius = self.radius * x0[0].numel() * (threat.bounds[1] - threat.bounds[0])
        interval = max(1, self.steps // self.decays)
        x0, x, g = oracle.compact(x0, x, g)
        for k in oracle.steps(self.steps):
            answer = oracle.gradient(x, oracle.goal.margin)
            g = torch.lerp(threat.constraints.mutable(answer.gradient), g, self.momentum if k else 0.0)
            margin = answer.loss.double()
            gap = -margin * torch.where(margin > 0, 2 - self.overshoot, self.overshoot)
            if (k + 2) % interval == 0:
                radius *= self.decay
            low, high = threat.constraints.box(x0, threat.bounds)
            x = boundary_step(threat.norm, x, x0, g, gap, radius, low, high)
            x0, x, g = oracle.compact(x0, x, g)
        return x

    def start(self, oracle: Oracle, x0: Tensor, threat: NormThreat) -> Tensor:
        """The best success known of each row, else one up the gradient or a random input, bisected towards x0."""
        x = oracle.best.point.clone()
        todo = (~oracle.best.broken).nonzero()[:, 0]
        low, high = (torch.as_tensor(side).to(x0).expand_as(x0) for side in threat.constraints.box(x0, threat.bounds))
        size = threat.farthest(x0).to(x0.dtype) / max(1, self.ascents)
        for _ in oracle.steps(self.ascents if len(todo) else 0):
            answer = oracle.gradient(x[todo], oracle.goal.margin, rows=todo)
            short = answer.margin <= 0
            todo = todo[short]
            x[todo] = threat.step(x[todo], answer.gradient[short], x0[todo], size[todo], torch.inf)
        for k in oracle.steps(self.starts if len(todo) else 0):
            noise = oracle.stream.at("start", k).uniform(*x0.shape[1:])
            drawn = torch.lerp(low, high, noise)[todo]
            hit = oracle.scores(drawn, rows=todo).margin > 0
            x[todo[hit]] = drawn[hit]
            todo = todo[~hit]
        rows = (oracle.open & (threat.distance(x, x0) > 0)).nonzero()[:, 0]
        if len(rows):
            x[rows] = bisect(oracle, x[rows], threat, rows, self.bisections, lambda p: oracle.scores(p, rows=rows).margin > 0)
        return x
