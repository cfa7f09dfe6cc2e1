"""Goals: what the adversary wants. `margin(logits, aim)` is > 0 exactly where it is reached, in the units of logits.

Grammar: `untargeted`, `targeted:3`, `targeted:least-likely`, `targeted:next`, `targeted:random`, `source-target:3->5`,
`confidence:0.5`, `topk:5`. `targeted:all` and `source-target:3->all` are one case for every class an example could be
moved to; `cases` makes them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.errors import ThreatError, UnknownName
from mohs.losses import best_other, pick
from mohs.rng import Stream

if TYPE_CHECKING:
    from mohs.models import Model


@dataclass(frozen=True, kw_only=True)
class Goal(ABC):
    """`rejected` is the class of a detector's refusal: no goal is reached there. abstained: a class that is nobody's target,
    though wrong. surplus: what the margin must come to beyond reaching the goal, in logits (the confidence of Carlini &
    Wagner)."""

    by_label: ClassVar[bool] = True  # a label shows whether it is reached

    rejected: int | None = None
    abstained: int | None = None
    surplus: float = 0.0

    @abstractmethod
    def __str__(self) -> str:
        """The goal in the grammar above."""

    def facing(self, model: Model) -> Self:
        """The goal at a model that may refuse or abstain."""
        return replace(self, rejected=model.rejected, abstained=model.abstained)

    def margin(self, logits: Tensor, aim: Aim) -> Tensor:
        """[rows], > 0 exactly where the goal is reached, by the surplus."""
        gap = self.gap(logits, aim)
        return gap - self.surplus if self.surplus else gap

    @abstractmethod
    def gap(self, logits: Tensor, aim: Aim) -> Tensor:
        """[rows], the margin without a surplus."""

    def given_away(self, label: Tensor, aim: Aim) -> Tensor:
        """[rows] bool: whether the label of a clean input counts against it although the goal is not reached."""
        return torch.zeros_like(aim.y, dtype=torch.bool)

    def heard(self, logits: Tensor, aim: Aim) -> Tensor:
        """The logits as a loss should see them: a refusal serves the label and nobody else, so that the label gets the
        probability of both, log(e^z_y + e^z_rejected), and every loss goes for model and detector at once. (The larger of
        the two in its place follows one of them at a time, and finds less.)"""
        if self.rejected is None:
            return logits
        stays = torch.logaddexp(pick(logits, aim.y), logits[:, self.rejected])
        return _reachable(logits, self.rejected).scatter(1, aim.y[:, None], stays[:, None])

    def aim(self, y: Tensor, logits: Tensor, stream: Stream) -> Aim:
        """The aim of each row, from its label, its clean logits [rows, classes] and its stream."""
        return Aim(y, reference=logits)

    def applies(self, aim: Aim) -> Tensor:
        """[rows] bool: where the goal exists. Elsewhere an example is INAPPLICABLE, never robust."""
        return torch.ones_like(aim.y, dtype=torch.bool)

    def cases(self, classes: int) -> list[Goal]:
        """The goals that stand behind this one: itself, or one a class."""
        return [self]

    def check(self, classes: int) -> None:  # noqa: B027 - most goals fit every model
        """Raise ThreatError where the goal does not fit a model of so many classes."""


def _reachable(logits: Tensor, nobodys: int | None) -> Tensor:
    """Logits in which a class cannot be anyone's goal."""
    if nobodys is None:
        return logits
    refuse = torch.full_like(logits[:, :1], nobodys, dtype=torch.long)
    return logits.scatter(1, refuse, -torch.inf)


def _unless_refused(margin: Tensor, logits: Tensor, rejected: int | None) -> Tensor:
    """The margin, negative where the refusal has the largest logit."""
    if rejected is None:
        return margin
    return torch.minimum(margin, _reachable(logits, rejected).amax(1) - logits[:, rejected])


@dataclass(frozen=True, kw_only=True)
class Untargeted(Goal):
    """Any class but the true one."""

    def __str__(self) -> str:
        return "untargeted"

    def gap(self, logits: Tensor, aim: Aim) -> Tensor:
        stays = pick(logits, aim.y)
        if self.rejected is not None:
            stays = torch.maximum(stays, logits[:, self.rejected])
        return best_other(_reachable(logits, self.rejected), aim.y) - stays

    def given_away(self, label: Tensor, aim: Aim) -> Tensor:
        """A clean input that the model gets wrong is not robust, be it by a tie or by a refusal."""
        return label != aim.y


@dataclass(frozen=True, kw_only=True)
class Targeted(Goal):
    """A class of the adversary's choice: a number, or by rule from the clean logits. Examples of that class already
    are not attacked."""

    to: int | str = "least-likely"

    RULES = ("least-likely", "next", "random", "all")

    def __str__(self) -> str:
        return f"targeted:{self.to}"

    def gap(self, logits: Tensor, aim: Aim) -> Tensor:
        assert aim.target is not None
        return pick(logits, aim.target) - best_other(logits, aim.target)

    def aim(self, y: Tensor, logits: Tensor, stream: Stream) -> Aim:
        others = _reachable(_reachable(logits, self.rejected), self.abstained).scatter(1, y[:, None], -torch.inf)
        choices = others.isfinite().sum(1)
        if isinstance(self.to, int):
            target = torch.full_like(y, self.to)
        elif self.to == "least-likely":
            target = others.masked_fill(others == -torch.inf, torch.inf).argmin(1)
        elif self.to == "next":
            target = others.argmax(1)
        elif self.to == "random":
            order = others.isfinite().to(torch.int8).argsort(dim=1, descending=True, stable=True)
            target = pick(order, stream.at("target").integers(choices, 1)[:, 0])
        else:
            raise ThreatError(f"the goal {self} stands for one case a class; take one of goal.cases(classes)")
        return Aim(y, target=target, reference=logits)

    def applies(self, aim: Aim) -> Tensor:
        assert aim.target is not None
        fits = aim.target != aim.y
        for nobodys in (self.rejected, self.abstained):
            fits = fits if nobodys is None else fits & (aim.target != nobodys)
        return fits

    def cases(self, classes: int) -> list[Goal]:
        named = (t for t in range(classes) if t not in (self.rejected, self.abstained))
        return [replace(self, to=t) for t in named] if self.to == "all" else [self]

    def check(self, classes: int) -> None:
        if isinstance(self.to, int) and not 0 <= self.to < classes:
            raise ThreatError(f"the goal {self} names class {self.to}, but the model has classes 0 to {classes - 1}")


@dataclass(frozen=True, kw_only=True)
class SourceTarget(Targeted):
    """From one class to another: only examples of `source` are attacked."""

    source: int = 0

    def __str__(self) -> str:
        return f"source-target:{self.source}->{self.to}"

    def applies(self, aim: Aim) -> Tensor:
        return super().applies(aim) & (aim.y == self.source)

    def check(self, classes: int) -> None:
        super().check(classes)
        if not 0 <= self.source < classes:
            raise ThreatError(f"the goal {self} names class {self.source}, but the model has classes 0 to {classes - 1}")
        if self.to == self.source:
            raise ThreatError(f"the goal {self} ends where it begins: name two classes, such as source-target:3->5")


@dataclass(frozen=True, kw_only=True)
class Confidence(Goal):
    """The probability of the true class falls below `below` (confidence reduction)."""

    by_label = False

    below: float = 0.5

    def __str__(self) -> str:
        return f"confidence:{self.below:g}"

    def gap(self, logits: Tensor, aim: Aim) -> Tensor:
        rest = logits.scatter(1, aim.y[:, None], -torch.inf).logsumexp(1)
        margin = math.log(self.below / (1 - self.below)) - (pick(logits, aim.y) - rest)
        return _unless_refused(margin, logits, self.rejected)

    def check(self, classes: int) -> None:
        if not 0 < self.below < 1:
            raise ThreatError(f"the goal {self} needs a probability between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class TopK(Goal):
    """The true class is no longer among the k likeliest."""

    by_label = False

    k: int = 5

    def __str__(self) -> str:
        return f"topk:{self.k}"

    def gap(self, logits: Tensor, aim: Aim) -> Tensor:
        others = _reachable(logits, self.rejected).scatter(1, aim.y[:, None], -torch.inf)
        margin = others.topk(self.k, dim=1).values[:, -1] - pick(logits, aim.y)
        return _unless_refused(margin, logits, self.rejected)

    def check(self, classes: int) -> None:
        if not 1 <= self.k < classes:
            raise ThreatError(f"the goal {self} needs 1 <= k < {classes}, the model's number of classes")


def _target(text: str) -> int | str:
    if text.isdigit():
        return int(text)
    if text not in Targeted.RULES:
        raise UnknownName("target", text, Targeted.RULES)
    return text


def parse_goal(text: str) -> Goal:
    """A goal from its grammar; ThreatError or UnknownName says what was wrong."""
    name, _, value = text.strip().partition(":")
    try:
        match name:
            case "untargeted" if not value:
                return Untargeted()
            case "targeted":
                return Targeted(to=_target(value or "least-likely"))
            case "source-target":
                source, arrow, to = value.partition("->")
                if not arrow:
                    raise ThreatError(f"the goal {text!r} should read source-target:S->T, such as source-target:3->5")
                return SourceTarget(source=int(source), to=_target(to))
            case "confidence":
                return Confidence(below=float(value or 0.5))
            case "topk":
                return TopK(k=int(value or 5))
    except ValueError as error:
        if isinstance(error, ThreatError | UnknownName):
            raise
        raise ThreatError(f"the goal {text!r} holds {value!r}, which is not a number; {_EXAMPLES}") from None
    raise UnknownName("goal", text, ["untargeted", "targeted", "source-target", "confidence", "topk"])


_EXAMPLES = "examples: untargeted, targeted:3, targeted:least-likely, source-target:3->5, confidence:0.5, topk:5"
