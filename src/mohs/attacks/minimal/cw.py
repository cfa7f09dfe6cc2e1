"""The attack of Carlini & Wagner in L2."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mohs.attacks.adam import Adam
from mohs.attacks.base import Attack
from mohs.attacks.minimal.objective import TanhBox, check_confidence, toward
from mohs.geometry import per_row
from mohs.geometry.solve import length
from mohs.losses import Loss, f6
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Threat

CHECKS = 10  # looks a search step at whether the loss still falls
FALLS = 0.9999  # of the loss at the last look


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
    """

    search_steps: int = 9
    steps: int = 10_000
    learning_rate: float = 0.01
    initial_const: float = 1e-3
    objective: Loss = f6
    confidence: float = 0.0
    abort_early: bool = True

    paper = "Carlini & Wagner, S&P 2017, arXiv:1608.04644"
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
        x, c = threat.origin(x0), torch.full((len(x0),), self.initial_const, dtype=torch.float64, device=x0.device)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for k in oracle.steps(self.search_steps):
            if k == self.search_steps - 1 >= 9:
                c = torch.where(high < torch.inf, high, c)
            reached, x = self._descend(oracle, threat, c)
            high, low = torch.where(reached, c, high), torch.where(reached, low, c)
            c = torch.where(high < torch.inf, (low + high) / 2, 10 * c)
            x, c, low, high = oracle.compact(x, c, low, high)
        return x

    def _descend(self, oracle: Oracle, threat: Threat, c: Tensor) -> tuple[Tensor, Tensor]:
        """Adam at one c: whether each row succeeded anywhere on its way, and its last point."""
        part, rows = replace(oracle), torch.arange(len(c), device=c.device)  # rows: where those of part stand in oracle
        box, loss = TanhBox.of(oracle.x0, threat), toward(oracle.goal, self.objective)
        w, x, last = box.variable(oracle.x0), oracle.x0, threat.origin(oracle.x0)
        adam, reached, before = Adam(w, self.learning_rate), torch.zeros_like(c, dtype=torch.bool), torch.full_like(c, torch.inf)
        for k in part.steps(self.steps):
            x, slope = box.point(w)
            answer = part.gradient(x, loss)
            reached[rows] |= answer.margin > 0
            change = x - part.x0
            if self.abort_early and k % max(1, self.steps // CHECKS) == 0:
                value = length(change).square_() - c * answer.loss
                falls = (value <= FALLS * before) & part.open
                before = value
                if not falls.all():
                    last[rows] = x
                    kept = falls.nonzero()[:, 0]
                    part.keep(kept)
                    adam.keep(kept)
                    box, rows, c, w, before = box.take(kept), rows[kept], c[kept], w[kept], before[kept]
                    x, slope, change = x[kept], slope[kept], change[kept]
                    answer = answer._replace(gradient=answer.gradient[kept])
            g = answer.gradient.mul_(per_row(-c.to(x.dtype), x)).add_(change, alpha=2).mul_(slope)
            w += adam.step(g)
        last[rows] = x
        return reached, last
