"""A sign that an evaluation is not to be believed: how it is looked for, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mohs.diagnosis.bench import Bench


class Grade(StrEnum):
    """`skipped`: the sign could not be looked for here, which is no evidence either way."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Plot:
    """A small picture: lines over x, or bars where `bars`. lines: name -> a number an x."""

    x: list[Any]
    lines: dict[str, list[float]]
    across: str
    up: str
    bars: bool = False


@dataclass(frozen=True)
class Evidence:
    """number: the larger, the worse; None where there was nothing to measure. said: in words, with what it was compared to."""

    number: float | None
    said: str
    plot: Plot | None = None


@dataclass(frozen=True)
class Sign:
    """One test of the evaluation. warn, fail: the numbers from which on. todo: where it warns or fails. remedy: the name of what
    --fix runs, None where nobody but the user can do it."""

    name: str
    question: str
    source: str
    look: Callable[[Bench], Evidence]
    warn: float
    fail: float
    todo: str
    remedy: str | None = None

    def grade(self, number: float | None) -> Grade:
        if number is None:
            return Grade.SKIPPED
        return Grade.FAIL if number >= self.fail else Grade.WARN if number >= self.warn else Grade.PASS


@dataclass(frozen=True)
class Found:
    """A sign and its evidence."""

    sign: Sign
    evidence: Evidence
    grade: Grade = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grade", self.sign.grade(self.evidence.number))
