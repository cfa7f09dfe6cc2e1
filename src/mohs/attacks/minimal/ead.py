"""Elastic-net attacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.minimal.objective import ConstantSearch, Descent, check_confidence, toward
from mohs.errors import UnknownName
from mohs.geometry import Number, per_row
from mohs.geometry.solve import clip_, length, total
from mohs.losses import Loss, f6
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Threat

RULES = ("l1", "en")


@dataclass(frozen=True, kw_only=True)
class EAD(Attack):
    """min c f(x) + ||x - x0||_2^2 + beta ||x - x0||_1 in the box, by FISTA from x0; c by binary search, an example its own.

    Chen, Sharma, Zhang, Yi, Hsieh, AAAI 2018, arXiv:1709.04114. 2 forward passes and 1 backward pass a step: the gradient
    is that of the extrapolated point, and success is told at the sparse one.

    beta: of the L1 term, and the threshold of the shrinkage itself (not times the step size), as in the authors' code.
    learning_rate: falls to 0 as the square root of the steps left. rule: which success is kept, `l1` the nearest in L1 or
    `en` that of the least beta L1 + L2^2; with `en` the Oracle judges that point alone, and its distance is still told in
    L1. Search over c, confidence, objective and abort_early as in CW. The extrapolated point, which in the authors' code
    may leave the box, is clipped to it.

    When to use: for least L1 distances with some L2 in them, and for changes that pass defences tuned to Linf or L2. Tens of
    thousands of passes; `fmn` in L1 is nearer in a hundred, and `alma` in a thousand. Public code may test the extrapolated
    point where the sparse one is returned.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/4 away in l1
    >>> outcome = attacks.EAD(search_steps=6, steps=100, initial_const=0.1, beta=0.02)(model, x, y, threat="l1:inf")
    >>> round(float(outcome.distance), 2)
    0.25
    """

    search_steps: int = 9
    steps: int = 1000
    learning_rate: float = 0.01
    beta: float = 1e-3
    initial_const: float = 1e-3
    rule: str = "l1"
    objective: Loss = f6
    confidence: float = 0.0
    abort_early: bool = True

    paper = "Chen et al., AAAI 2018, arXiv:1709.04114"
    random = False
    sets = ("l1",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        steps = self.restarts * self.search_steps * self.steps
        return 2 * steps, steps

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        check_confidence(self.confidence)
        if self.rule not in RULES:
            raise UnknownName("decision rule", self.rule, RULES)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        loss, (bottom, top) = toward(oracle.goal, self.objective), _box(x0, threat)
        x, y, last = x0, x0, threat.origin(x0)
        best = torch.full((len(x0),), torch.inf, dtype=torch.float64, device=x0.device)  # by the rule en
        search = ConstantSearch(x0, self.initial_const, self.search_steps)
        descent = Descent(x0, self.steps, self.abort_early)
        part, rows = oracle.part(), torch.arange(len(x0), device=x0.device)
        part.judged = oracle.judged and self.rule == "l1"
        for _ in part.steps(self.search_steps * self.steps):
            k, c = descent.clock.to(x.dtype), search.c
            g = part.gradient(y, loss).gradient.mul_(per_row(-c.to(x.dtype), x)).add_(y - part.x0, alpha=2)
            rate = self.learning_rate * (1 - k / self.steps).sqrt()
            before, x = x, shrink(y - per_row(rate, x) * g, part.x0, self.beta, bottom, top)
            y = clip_(x + per_row(k / (k + 3), x) * (x - before), bottom, top)
            answer = part.scores(x, loss)
            hit, f = answer.margin > 0, -answer.loss
            search.reached |= hit
            if self.rule == "en" and hit.any():
                hit &= threat.contains(x, part.x0)
                en = torch.where(hit, self._elastic(x - part.x0), torch.inf)
                nearer = en < best[rows]
                best[rows[nearer]], last[rows[nearer]] = en[nearer], x[nearer]
            due = descent.due
            ended = descent.ended(due, self._elastic((x - part.x0)[due]) + (c * f)[due])
            if not ended.any():
                continue
            search.end(ended)
            missed = best[rows] == torch.inf
            last[rows[missed]] = x[missed]
            x, y = (torch.where(per_row(ended, x), part.x0, point) for point in (x, y))
            kept = (search.going & part.open).nonzero()[:, 0]
            if len(kept) < len(rows):
                for state in (part, search, descent):
                    state.keep(kept)
                (bottom, top), rows, x, y = _box(part.x0, threat), rows[kept], x[kept], y[kept]
        return last

    def _elastic(self, change: Tensor) -> Tensor:
        """beta ||.||_1 + ||.||_2^2 [rows] float64."""
        return total(change.abs()) * self.beta + length(change).square_()


def shrink(z: Tensor, x0: Tensor, beta: float, low: Number, high: Number) -> Tensor:
    """x0 where z is within beta of it; else z moved by beta towards x0, in the box."""
    change = z - x0
    return torch.where(change.abs() <= beta, x0, clip_(z - beta * change.sign(), low, high))


def _box(x0: Tensor, threat: Threat) -> tuple[Number, Number]:
    return threat.constraints.box(x0, threat.bounds)
