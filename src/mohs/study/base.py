"""What studies share: settings in, findings out. Findings are plain data, which `mohs.report.study` prints and draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from mohs.attacks.settings import Settings
from mohs.data import Examples
from mohs.models import Model


@dataclass(frozen=True)
class Subject:
    """What is studied. surrogates: the adversary's own models. options: of `mohs.audit` beside model, data and threats, such as
    seed and rows. say: told what is being done."""

    model: Model
    data: Examples
    surrogates: tuple[Model, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Claim:
    """held: None where what was measured does not decide."""

    claim: str
    measured: str
    held: bool | None


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


@dataclass(frozen=True)
class Findings:
    """words: what was done, in plain words. notes: what limits it, such as refusals with their reasons. facts: the numbers, for
    JSON."""

    words: str
    table: Table
    figures: tuple[Grid, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = ()
    facts: tuple[dict[str, Any], ...] = ()

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Study(Settings, ABC):
    """A frozen dataclass of settings with `run`. Its docstring's first line is its title."""

    @abstractmethod
    def run(self, subject: Subject) -> Findings:
        """Measure; Refused and RequestError where nothing can be."""
