"""The attack of Carlini & Wagner in Linf."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import Adam
from mohs.attacks.base import Attack
from mohs.attacks.minimal.objective import TanhBox, check_confidence, toward
from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.losses import Loss, f6
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Threat

SOLVED = 1e-4  # of c: what the loss must fall to before tau shrinks


@dataclass(frozen=True, kw_only=True)
class CWLinf(Attack):
    """min c f(x) + sum_i (|x_i - x0_i| - tau)^+ over w, x = box(tanh(w)), by Adam, in rounds of falling tau.

    Carlini & Wagner, S&P 2017, arXiv:1608.04644, section VI-C; constants and rounds are those of the authors' code.
    1 forward and 1 backward pass a step. Every example has a tau, a c and a clock of its own.

    A round is `steps` of Adam, from the last round's point. It is solved once the goal is reached and the loss is below
    c / 10,000: then tau becomes `shrink` times the least of tau and the largest change, and c stays. Unsolved, it starts
    anew with twice the c; beyond largest_const the example is done, as it is when tau is below least_tau. So the
    distance is known to a factor of `shrink`. tau and least_tau are in units of the range of the model's inputs; tau
    starts at 1. iterations: of all rounds together, at most; the authors have no such limit. objective, confidence: as
    in CW.

    When to use: to repeat Carlini and Wagner's Linf figures. Its answer is known to a tenth, after thousands of passes; `fmn`
    is nearer in a hundred and `apgd` at a fixed budget is stronger.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/7 = 0.143 away in linf
    >>> attack = attacks.CWLinf(steps=100, learning_rate=0.02, initial_const=0.01, shrink=0.97)
    >>> round(float(attack(model, x, y, threat="linf:inf").distance), 2)  # known to a factor of `shrink`
    0.14
    """

    steps: int = 1000
    learning_rate: float = 5e-3
    initial_const: float = 1e-5
    largest_const: float = 20.0
    const_factor: float = 2.0
    shrink: float = 0.9
    least_tau: float = 1 / 256
    iterations: int = 20_000
    objective: Loss = f6
    confidence: float = 0.0

    paper = "Carlini & Wagner, S&P 2017, arXiv:1608.04644"
    random = False
    sets = ("linf",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        return self.restarts * self.iterations, self.restarts * self.iterations

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        TanhBox.check(threat)
        check_confidence(self.confidence)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        box, loss, side = TanhBox.of(x0, threat), toward(oracle.goal, self.objective), threat.bounds[1] - threat.bounds[0]
        w, x, last = box.variable(x0), x0, threat.origin(x0)
        start, adam = w.clone(), Adam(w, self.learning_rate)
        c = torch.full((len(x0),), self.initial_const, dtype=torch.float64, device=x0.device)
        tau, clock = torch.full_like(c, side), torch.zeros_like(c, dtype=torch.int64)
        part, rows = oracle.part(), torch.arange(len(x0), device=x0.device)
        for _ in part.steps(self.iterations):
            x, slope = box.point(w)
            answer = part.gradient(x, loss)
            change = x - part.x0
            size = change.abs()
            excess = (size - per_row(tau.to(x.dtype), x)).clamp_(min=0)
            solved = (answer.margin > 0) & (total(excess) - c * answer.loss < SOLVED * c)
            clock += 1
            failed = ~solved & (clock >= self.steps)
            g = answer.gradient.mul_(per_row(-c.to(x.dtype), x)).add_(change.sign_().mul_(excess > 0)).mul_(slope)
            moved = w + adam.step(g)
            anew = solved | failed
            if anew.any():
                start[solved] = w[solved]
                moved[anew] = start[anew]
                adam.restart(anew)
                clock[anew] = 0
                tau = torch.where(solved, self.shrink * torch.minimum(tau, size.flatten(1).amax(1).double()), tau)
                c = torch.where(failed, self.const_factor * c, c)
            w = moved
            kept = ((tau >= self.least_tau * side) & (c < self.largest_const) & part.open).nonzero()[:, 0]
            if len(kept) < len(c):
                last[rows] = x
                part.keep(kept)
                adam.keep(kept)
                box, rows, x, w, start = box.take(kept), rows[kept], x[kept], w[kept], start[kept]
                c, tau, clock = c[kept], tau[kept], clock[kept]
        last[rows] = x
        return last
