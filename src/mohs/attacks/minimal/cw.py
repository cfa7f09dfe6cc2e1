"""The attack of Carlini & Wagner in L2."""

from __future__ import annotations

from dataclasses import dataclass

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

LOOKS = 10  # in a search step, at whether the loss still falls
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
        box, loss = TanhBox.of(x0, threat), toward(oracle.goal, self.objective)
        start, x, last = box.variable(x0), x0, threat.origin(x0)
        w, adam = start.clone(), Adam(start, self.learning_rate)
        c = torch.full((len(x0),), self.initial_const, dtype=torch.float64, device=x0.device)
        low, high, before = torch.zeros_like(c), torch.full_like(c, torch.inf), torch.full_like(c, torch.inf)
        clock, search = torch.zeros_like(c, dtype=torch.int64), torch.zeros_like(c, dtype=torch.int64)
        reached = torch.zeros_like(c, dtype=torch.bool)
        part, rows = oracle.part(), torch.arange(len(c), device=c.device)  # rows: where those of part stand in oracle
        for _ in part.steps(self.search_steps * self.steps):
            x, slope = box.point(w)
            answer = part.gradient(x, loss)
            reached |= answer.margin > 0
            change = x - part.x0
            ended = self._stalled(clock, change, c, answer.loss, before)
            clock += 1
            ended |= clock >= self.steps
            g = answer.gradient.mul_(per_row(-c.to(x.dtype), x)).add_(change, alpha=2).mul_(slope)
            w += adam.step(g)
            if not ended.any():
                continue
            high, low = torch.where(ended & reached, c, high), torch.where(ended & ~reached, c, low)
            search += ended
            following = torch.where(high < torch.inf, (low + high) / 2, 10 * c)
            if self.search_steps >= 10:
                following = torch.where((search == self.search_steps - 1) & (high < torch.inf), high, following)
            c = torch.where(ended, following, c)
            w[ended] = start[ended]
            adam.restart(ended)
            clock[ended], before[ended], reached[ended] = 0, torch.inf, False
            kept = ((search < self.search_steps) & part.open).nonzero()[:, 0]
            if len(kept) < len(c):
                last[rows] = x
                part.keep(kept)
                adam.keep(kept)
                box, rows, x, w, start = box.take(kept), rows[kept], x[kept], w[kept], start[kept]
                c, low, high, before = c[kept], low[kept], high[kept], before[kept]
                clock, search, reached = clock[kept], search[kept], reached[kept]
        last[rows] = x
        return last

    def _stalled(self, clock: Tensor, change: Tensor, c: Tensor, loss: Tensor, before: Tensor) -> Tensor:
        """[rows] bool: where it is time to look and the loss no longer falls. Notes the loss in `before`."""
        stalled = torch.zeros_like(clock, dtype=torch.bool)
        look = (clock % max(1, self.steps // LOOKS) == 0).nonzero()[:, 0]
        if self.abort_early and len(look):
            value = length(change[look]).square_() - c[look] * loss[look]
            stalled[look] = value > FALLS * before[look]
            before[look] = value
        return stalled
