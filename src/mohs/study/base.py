"""What studies share: settings in, findings out. Findings are plain data, which `mohs.report.study` prints and draws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from mohs.attacks.settings import Settings
from mohs.data import Examples
from mohs.errors import RequestError
from mohs.models import Model, Prepared


@dataclass(frozen=True)
class Subject:
    """What is studied. surrogates: the adversary's own models. options: of `mohs.audit` beside model, data and threats, such as
    seed and rows. say: told what is being done. others: models beside the first, for studies that compare."""

    model: Model
    data: Examples
    surrogates: tuple[Model, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None
    others: tuple[Model, ...] = ()

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.model, *self.others)

    @property
    def seed(self) -> int:
        return int(self.options.get("seed", 0))

    @property
    def rows(self) -> int:
        """Examples in one call of a model, at most."""
        return int(self.options.get("rows", 128))

    def rightly(self, ready: Sequence[Prepared]) -> Tensor:
        """Whether each model answers each example rightly: bool [models, n]."""
        answers = [p.judge.reference(self.data.x.to(p.judge.model.device)).argmax(1).cpu() for p in ready]
        return torch.stack(answers) == self.data.y

    def common(self, right: Tensor, most: int | None = None) -> Examples:
        """The first examples, at most so many, that every model answers rightly. right: bool [models, n]."""
        rows = right.all(0).nonzero()[:most, 0]
        if len(rows) == 0:
            if len(right) == 1:
                raise RequestError(f"{self.model.name} gets none of the examples right: there is nothing to attack")
            raise RequestError("there is no example that every model gets right: leave out the weakest")
        return self.data.take(rows)


@dataclass(frozen=True)
class Claim:
    """held: None where what was measured does not decide. effect: of a claim about training, whose own test speaks of the
    networks at hand alone: the same as a number, above 0 where the claim is right."""

    claim: str
    measured: str
    held: bool | None
    effect: float | None = None


@dataclass(frozen=True)
class Table:
    """Texts; the first column names its rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Grid:
    """A figure: shares in [0, 1] by row and column, None where there is none; texts [rows][columns] stand on them."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    texts: tuple[tuple[str, ...], ...]
    kind: str = field(default="grid", init=False)


@dataclass(frozen=True)
class Line:
    """low, high: of a band around y. dots: points that no line joins, each with a text of `texts`."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    dots: bool = False
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lines:
    """A figure: lines over common axes, which x and y name. log: of y."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    log: bool = False
    kind: str = field(default="lines", init=False)


@dataclass(frozen=True)
class Mark:
    """A point on a map."""

    name: str
    x: float
    y: float
    cross: bool = False


@dataclass(frozen=True)
class Map:
    """A figure: values [ys][xs] over a plane whose axes x and y name, None where there is none. unit: what a value is.

    classes: by name, where values are classes. low, high: of the colours, so that maps compare; None: of the map's own values.
    log: colours and heights go by the logarithm. surface: drawn in three dimensions too. frame: half the side of a square around
    (0, 0). pale: [ys][xs], where a class is drawn faintly."""

    title: str
    x: str
    y: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str
    classes: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    surface: bool = False
    frame: float | None = None
    pale: tuple[tuple[bool, ...], ...] = ()
    kind: str = field(default="map", init=False)


Figure = Grid | Lines | Map


@dataclass(frozen=True)
class Findings:
    """words: what was done, in plain words. notes: what limits it, such as refusals with their reasons. facts: the numbers, for
    JSON."""

    words: str
    table: Table
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = ()
    facts: tuple[dict[str, Any], ...] = ()

    def plain(self) -> dict[str, Any]:
        """For JSON, which knows no infinity: what is no number is None."""
        found: dict[str, Any] = _finite(asdict(self))
        return found


@dataclass(frozen=True, kw_only=True)
class Study(Settings, ABC):
    """A frozen dataclass of settings with `run`. Its docstring's first line is its title.

    seeds: under how many it is run, see `mohs.study.seeds`.
    """

    seeds: int = 1

    several: ClassVar[bool] = False  # it compares models

    def on(self, subject: Subject) -> Findings:
        """`run`, where it is for so many models."""
        if subject.others and not self.several:
            raise RequestError(f"{type(self).__name__} is a study of one model, and {len(subject.models)} were given")
        self.check()
        return self.run(subject)

    def check(self) -> None:
        """RequestError where the settings are wrong: called before anything is loaded, trained or measured."""

    @abstractmethod
    def run(self, subject: Subject) -> Findings:
        """Measure; Refused and RequestError where nothing can be."""


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
