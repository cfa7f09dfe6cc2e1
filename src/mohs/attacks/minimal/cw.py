"""The attack of Carlini & Wagner in L2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import Adam
from mohs.attacks.base import Attack
from mohs.attacks.minimal.objective import ConstantSearch, Descent, TanhBox, check_confidence, toward
from mohs.geometry import per_row
from mohs.geometry.solve import length
from mohs.losses import Loss, f6
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Threat


@dataclass(frozen=True, kw_only=True)
class CW(Attack):
    """min ||x - x0||_2^2 + c f(x) over w, x = box(tanh(w)), by Adam from x0; c by binary search, an example its own.

    Carlini & Wagner, S&P 2017, arXiv:1608.04644; every constant is that of the authors' code. 1 forward and 1 backward
    pass a step.

    objective: f of the paper, f1 to f7 of `mohs.losses`, in any goal's terms. confidence: kappa, by how many logits the
    goal must be exceeded to count. steps: of Adam, which starts anew, from x0, in each of `search_steps` values of c.
    c falls to the middle of its bracket after a success and grows tenfold until the first one; with ten search steps or
    more the last takes the least c that succeeded, as in the authors' code. abort_early: an example whose loss did not
    fall by a ten-thousandth in a tenth of the steps leaves the search step; theirs leave together, when the batch does.
    The paper is targeted; for other goals f is that of the goal's own margin, see `losses` and `objective.toward`.

    When to use: the classic of L2, and still among the nearest on hard models, with `confidence` for points that are to
    transfer. Tens of thousands of passes: `ddn`, `fmn` or `alma` give distances within a few per cent for a hundredth of them.
    Public code with a fixed c, no binary search or an early stop for the whole batch is far weaker than the paper's attack.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> outcome = attacks.CW(search_steps=6, steps=100, initial_const=0.1)(model, x, y, threat="l2:inf")
    >>> round(float(outcome.distance), 3)
    0.2
    """

    search_steps: int = 9
    steps: int = 10_000
    learning_rate: float = 0.01
    initial_const: float = 1e-3
    objective: Loss = f6
    confidence: float = 0.0
    abort_early: bool = True

    paper = "Carlini & Wagner, S&P 2017, arXiv:1608.04644"
    random = False
    sets = ("l2",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        steps = self.restarts * self.search_steps * self.steps
        return steps, steps

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        TanhBox.check(threat)
        check_confidence(self.confidence)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        box, loss = TanhBox.of(x0, threat), toward(oracle.goal, self.objective)
        start, x, last = box.variable(x0), x0, threat.origin(x0)
        w, adam = start.clone(), Adam(start, self.learning_rate)
        search = ConstantSearch(x0, self.initial_const, self.search_steps)
        descent = Descent(x0, self.steps, self.abort_early)
        part, rows = oracle.part(), torch.arange(len(x0), device=x0.device)  # rows: where those of part stand in oracle
        for _ in part.steps(self.search_steps * self.steps):
            x, slope = box.point(w)
            answer = part.gradient(x, loss)
            search.reached |= answer.margin > 0
            change, c, f = x - part.x0, search.c, -answer.loss
            due = descent.due
            ended = descent.ended(due, length(change[due]).square_() + (c * f)[due])
            g = answer.gradient.mul_(per_row(-c.to(x.dtype), x)).add_(change, alpha=2).mul_(slope)
            w += adam.step(g)
            if not ended.any():
                continue
            search.end(ended)
            w[ended] = start[ended]
            adam.restart(ended)
            kept = (search.going & part.open).nonzero()[:, 0]
            if len(kept) < len(w):
                last[rows] = x
                for state in (part, adam, search, descent):
                    state.keep(kept)
                box, rows, x, w, start = box.take(kept), rows[kept], x[kept], w[kept], start[kept]
        last[rows] = x
        return last
