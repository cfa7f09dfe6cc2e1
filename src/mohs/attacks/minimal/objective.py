"""What the attacks of Carlini & Wagner and their kin share: the objective for any goal, and the box as a change of variables."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.errors import Refused, RequestError
from mohs.geometry.solve import clip_
from mohs.losses import Loss
from mohs.threat import Goal, Targeted, Threat, Untargeted

INSIDE = 1 - 1e-6  # the authors' 0.999999: the ends of the box are infinitely far away in the new variable


def toward(goal: Goal, objective: Loss) -> Loss:
    """The objective for a goal that asks for a surplus, or for something else than one class before the others.

    The surplus is taken off the wanted logit, or laid on the label's where none is wanted, as the authors do when they
    compare: so every objective reaches its top where the goal does. Any other goal (confidence, topk, a detector that
    may refuse) is a choice between two, of logits 0 and the goal's margin.
    """
    kappa = goal.surplus
    of_classes = isinstance(goal, Untargeted | Targeted) and goal.rejected is None
    if of_classes and kappa == 0:
        return objective

    def shifted(logits: Tensor, aim: Aim) -> Tensor:
        towards = aim.wanted is not None
        where = aim.y if aim.wanted is None else aim.wanted
        change = logits.new_full((len(logits), 1), -kappa if towards else kappa)
        return objective(logits.scatter_add(1, where[:, None], change), aim)

    def of_margin(logits: Tensor, aim: Aim) -> Tensor:
        margin = goal.margin(logits, aim)
        return objective(torch.stack([torch.zeros_like(margin), margin], 1), Aim(torch.zeros_like(aim.y)))

    return shifted if of_classes else of_margin


def check_confidence(confidence: float) -> None:
    if not 0 <= confidence < math.inf:
        raise RequestError(f"confidence is a number of logits, 0 or more, not {confidence}")


class ConstantSearch:
    """The weight c of the objective, an example its own: to the middle of its bracket after a success, tenfold until there is
    one. With ten tries or more the last takes the least c that succeeded, as in the authors' code."""

    def __init__(self, like: Tensor, initial: float, tries: int) -> None:
        self.tries = tries
        self.c = torch.full((len(like),), initial, dtype=torch.float64, device=like.device)
        self.low, self.high = torch.zeros_like(self.c), torch.full_like(self.c, torch.inf)
        self.reached = torch.zeros_like(self.c, dtype=torch.bool)  # anywhere in this try
        self.tried = torch.zeros_like(self.c, dtype=torch.int64)

    @property
    def going(self) -> Tensor:
        """[rows] bool: tries are left."""
        return self.tried < self.tries

    def end(self, rows: Tensor) -> None:
        """The try of these rows [n] bool is over: give them their next c."""
        self.high = torch.where(rows & self.reached, self.c, self.high)
        self.low = torch.where(rows & ~self.reached, self.c, self.low)
        self.tried += rows
        bracketed = self.high < torch.inf
        following = torch.where(bracketed, (self.low + self.high) / 2, 10 * self.c)
        if self.tries >= 10:
            following = torch.where(bracketed & (self.tried == self.tries - 1), self.high, following)
        self.c = torch.where(rows, following, self.c)
        self.reached &= ~rows

    def keep(self, rows: Tensor) -> None:
        self.c, self.low, self.high = self.c[rows], self.low[rows], self.high[rows]
        self.reached, self.tried = self.reached[rows], self.tried[rows]


class Descent:
    """The clock of each row's try, and the looks at whether its loss still falls: ten a try, by a ten-thousandth each."""

    LOOKS, FALLS = 10, 0.9999

    def __init__(self, like: Tensor, steps: int, abort_early: bool) -> None:
        self.steps, self.abort_early = steps, abort_early
        self.clock = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self.before = torch.full((len(like),), torch.inf, dtype=torch.float64, device=like.device)

    @property
    def due(self) -> Tensor:
        """The rows, by index, at whose loss it is time to look."""
        looks = self.clock % max(1, self.steps // self.LOOKS) == 0 if self.abort_early else self.clock < 0
        return looks.nonzero()[:, 0]

    def ended(self, due: Tensor, loss: Tensor) -> Tensor:
        """Count a step; the rows [n] bool whose try is over. loss: of the rows due, float64."""
        over = self.clock + 1 >= self.steps
        over[due] |= loss > self.FALLS * self.before[due]
        self.before[due] = loss
        self.clock += 1
        self.clock[over], self.before[over] = 0, torch.inf
        return over

    def keep(self, rows: Tensor) -> None:
        self.clock, self.before = self.clock[rows], self.before[rows]


@dataclass(frozen=True)
class TanhBox:
    """x = middle + half tanh(w), which lies in the box of bounds and constraints for every w. Entries that may not change
    have half = 0."""

    middle: Tensor
    half: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(x0: Tensor, threat: Threat) -> TanhBox:
        low, high = (torch.as_tensor(end).to(x0).expand_as(x0) for end in threat.constraints.box(x0, threat.bounds))
        return TanhBox((low + high) / 2, (high - low) / 2, low, high)

    @staticmethod
    def check(threat: Threat) -> None:
        if not all(map(math.isfinite, threat.bounds)):
            raise Refused(f"the change of variables by tanh needs a finite box, and the bounds are {list(threat.bounds)}")

    def variable(self, x: Tensor) -> Tensor:
        """w of x, drawn a millionth of the box inside it."""
        return ((x - self.middle) / self.half * INSIDE).nan_to_num_(0.0).clamp_(-INSIDE, INSIDE).atanh_()

    def point(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """x of w and dx / dw."""
        t = w.tanh()
        x = clip_(t.mul(self.half).add_(self.middle), self.low, self.high)
        return x, t.square_().neg_().add_(1).mul_(self.half)

    def take(self, rows: Tensor) -> TanhBox:
        return TanhBox(self.middle[rows], self.half[rows], self.low[rows], self.high[rows])
