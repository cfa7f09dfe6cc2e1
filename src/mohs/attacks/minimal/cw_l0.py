"""The attack of Carlini & Wagner in L0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import Adam
from mohs.attacks.base import Attack
from mohs.attacks.minimal.objective import TanhBox, check_confidence, toward
from mohs.geometry import L0Norm, per_row
from mohs.losses import Loss, f6
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, NormThreat, Threat

WEIGHTY = 0.01  # |g_i delta_i| of a unit whose removal ends a round's removals


@dataclass(frozen=True, kw_only=True)
class CWL0(Attack):
    """The L2 attack on fewer and fewer units: after each success those that did least for it are fixed at x0.

    Carlini & Wagner, S&P 2017, arXiv:1608.04644, section VI-B; constants and rounds are those of the authors' code. A
    unit is an entry, or a pixel with all its channels, as the threat counts. 1 forward and 1 backward pass a step, and
    one each at a success. Every example has units, a c and a clock of its own.

    A round is `steps` of Adam on ||x - x0||_2^2 + c f(x) over the units left, from the last round's point. At the first
    success it is solved: units are fixed by rising |g_i delta_i| (summed over channels), g the gradient of the goal's
    margin and delta the change, up to one whose value exceeds 0.01 or as many as share * sqrt(units left); share = 0
    fixes one at a time, as the paper prints it. Unsolved, a round starts anew with twice the c; beyond largest_const the
    example is done. g is taken of the margin, since f6 has no slope where it is reached. iterations: of all rounds
    together, at most; the authors have no such limit. objective, confidence: as in CW.

    When to use: to repeat Carlini and Wagner's L0 figures. Fixing entries greedily over thousands of steps, it is beaten in
    count and cost by `sigma-zero`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # one entry is enough
    >>> outcome = attacks.CWL0(steps=50, initial_const=0.1, iterations=500)(model, x, y, threat="l0:inf")
    >>> outcome.distance.tolist()
    [1.0]
    """

    steps: int = 1000
    learning_rate: float = 0.01
    initial_const: float = 1e-3
    largest_const: float = 2e6
    const_factor: float = 2.0
    share: float = 0.3
    iterations: int = 20_000
    objective: Loss = f6
    confidence: float = 0.0

    paper = "Carlini & Wagner, S&P 2017, arXiv:1608.04644"
    random = False
    sets = ("l0",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        """Every step could be a success, and cost twice."""
        return 2 * self.restarts * self.iterations, 2 * self.restarts * self.iterations

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        TanhBox.check(threat)
        check_confidence(self.confidence)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        norm = threat.norm
        assert isinstance(norm, L0Norm)
        box, loss = TanhBox.of(x0, threat), toward(oracle.goal, self.objective)
        w, x, last = box.variable(x0), x0, threat.origin(x0)
        start, adam = w.clone(), Adam(w, self.learning_rate)
        free = norm.units(box.half > 0).any(2)  # [rows, units]
        c = torch.full((len(x0),), self.initial_const, dtype=torch.float64, device=x0.device)
        clock = torch.zeros_like(c, dtype=torch.int64)
        part, rows = oracle.part(), torch.arange(len(x0), device=x0.device)
        for _ in part.steps(self.iterations):
            x, slope = box.point(w)
            allowed = norm.spread(free, x)
            x = torch.where(allowed, x, part.x0)
            answer = part.gradient(x, loss)
            change = (x - part.x0).mul_(allowed)
            solved = answer.margin > 0
            clock += 1
            failed = ~solved & (clock >= self.steps)
            g = answer.gradient.mul_(per_row(-c.to(x.dtype), x)).add_(change, alpha=2).mul_(slope).mul_(allowed)
            moved = w + adam.step(g)
            anew = solved | failed
            if anew.any():
                done = solved.nonzero()[:, 0]
                if len(done):
                    gradient = part.gradient(x[done], part.goal.margin, done).gradient
                    worth = norm.units(gradient.mul_(change[done]).abs_()).sum(2)
                    free[done] = self._fewer(free[done], worth)
                start[done] = w[done]
                moved[anew] = start[anew]
                adam.restart(anew)
                clock[anew] = 0
                c = torch.where(failed, self.const_factor * c, c)
            w = moved
            kept = (free.any(1) & (c < self.largest_const) & part.open).nonzero()[:, 0]
            if len(kept) < len(c):
                last[rows] = x
                part.keep(kept)
                adam.keep(kept)
                box, rows, x, w, start = box.take(kept), rows[kept], x[kept], w[kept], start[kept]
                c, clock, free = c[kept], clock[kept], free[kept]
        last[rows] = x
        return last

    def _fewer(self, free: Tensor, worth: Tensor) -> Tensor:
        """The units that stay, [rows, units] bool."""
        worth = worth.masked_fill(~free, torch.inf)
        order = worth.argsort(dim=1, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
        count = free.sum(1, keepdim=True)
        most = (self.share * count.sqrt()).ceil().clamp(min=1)
        light = (free & (worth <= WEIGHTY)).sum(1, keepdim=True) + 1  # and the first that is not
        return free & (rank >= torch.minimum(most, light.to(most.dtype)))
