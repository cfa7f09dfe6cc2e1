"""The difficulty matrix: what the adversary wants against what they have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from mohs.auditing import Result, audit
from mohs.data import Examples
from mohs.engine.probes import NAME as PROBE
from mohs.errors import RequestError
from mohs.ledger import Status
from mohs.report.words import count, percent, plural
from mohs.store.verdict import Score
from mohs.study.base import Claim, Findings, Grid, Study, Subject, Table
from mohs.threat import parse_threat

ACCESS = {  # what is counted where it is had
    "gradient": "pass",
    "scores": "query",
    "label": "query",
    "transfer": "query",
}
RISE = 0.1  # of success, from one cell to the next: what is no greater is none
RULE = (
    f"A claim holds where the 95% intervals leave no step room to rise by more than {100 * RISE:g} points, does not hold where "
    "those of a rise lie apart, and else is undecided."
)
GOALS = ("confidence reduction", "misclassification", "targeted misclassification", "source to target")


@dataclass(frozen=True)
class Cell:
    """One goal by one access. attacked: cases to which the goal applies and that were not there before; costs: of each success;
    refused: why nothing was measured, else empty."""

    goal: str
    access: str
    attacked: int = 0
    undecided: int = 0
    costs: tuple[int, ...] = ()
    refused: str = ""

    @property
    def rate(self) -> float | None:
        """Of success; undecided cases count as none. None where nothing was attacked."""
        return len(self.costs) / self.attacked if self.attacked else None

    @property
    def interval(self) -> tuple[float, float]:
        """95%, of the rate; undecided cases widen it."""
        low, high = Score(self.attacked - len(self.costs) - self.undecided, self.undecided, self.attacked).interval
        return 1 - high, 1 - low

    def __str__(self) -> str:
        if self.rate is None:
            return "not measured"
        some = f", {self.undecided} undecided" if self.undecided else ""
        spent = plural(round(median(self.costs)), ACCESS[self.access], _many(ACCESS[self.access])) if self.costs else "none fell"
        return f"{percent(self.rate)} of {self.attacked}{some}\n{spent}"

    def facts(self) -> dict[str, Any]:
        measured = self.rate is not None
        return {
            "goal": self.goal,
            "access": self.access,
            "attacked": self.attacked,
            "broken": len(self.costs),
            "undecided": self.undecided,
            "rate": self.rate,
            "interval95": self.interval if measured else None,
            "median": median(self.costs) if self.costs else None,
            "counted_in": ACCESS[self.access],
            "refused": self.refused or None,
        }


@dataclass(frozen=True, kw_only=True)
class Difficulty(Study):
    """How hard is which goal by which access?

    Every goal (confidence reduction, any misclassification, one to a class that is drawn for each example, one from a given
    class to a given one) is pursued by every access (gradients, scores, labels, surrogates alone), each by the battery that
    mohs has for it: `quick` by gradients, the attack of `mohs probe` within `queries` by scores and labels, the transfer of
    `mohs audit --surrogate`. The goals are those of Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, IEEE EuroS&P 2016,
    arXiv:1511.07528.

    threat: the set, as of `--threat`. queries: that an example may cost. confidence: below which the true class is to fall.
    pairs: of source and target, those of the most frequent classes, each to the class of the next number.
    """

    threat: str = "linf:8/255"
    queries: int = 1000
    confidence: float = 0.5
    pairs: int = 3

    def check(self) -> None:
        if parse_threat(self.threat).epsilon == torch.inf or "+knowledge:" in self.threat:
            raise RequestError(f"the study needs a budget and sets the access itself; not {self.threat!r}")
        if not 0 < self.confidence < 1:
            raise RequestError(f"confidence should be a probability between 0 and 1, such as 0.5; not {self.confidence:g}")

    def run(self, subject: Subject) -> Findings:
        if subject.model.classes < 2:
            raise RequestError("a model of one class has no other to reach")
        cells = []
        for goal in GOALS:
            for access in ACCESS:
                subject.say(f"{goal} by {access}")
                cells.append(self._cell(subject, goal, access))
        return _findings(self, cells)

    def _cell(self, subject: Subject, goal: str, access: str) -> Cell:
        cell = Cell(goal, access)
        if access == "transfer" and not subject.surrogates:
            return replace(cell, refused="no surrogate was given: --surrogate FILE, which `mohs substitute` makes")
        for text, data in self._cases(subject, goal):
            try:
                cell = added(cell, pursued(subject, self.threat, text, data, access, self.queries))
            except RequestError as error:
                return Cell(goal, access, refused=str(error))
        return cell

    def _cases(self, subject: Subject, goal: str) -> Iterator[tuple[str, Examples]]:
        """Goals in the grammar, with the examples that each is pursued on."""
        data, classes = subject.data, subject.model.classes
        match goal:
            case "confidence reduction":
                yield f"confidence:{self.confidence:g}", data
            case "misclassification":
                yield "untargeted", data
            case "targeted misclassification":
                yield "targeted:random", data
            case _:
                often = data.y.bincount(minlength=classes).argsort(descending=True, stable=True)[: self.pairs]
                for source in often.tolist():
                    rows = (data.y == source).nonzero()[:, 0]
                    if len(rows):
                        part = replace(data, x=data.x[rows], y=data.y[rows], ids=data.ids[rows])
                        yield f"source-target:{source}->{(source + 1) % classes}", part


def pursued(subject: Subject, threat: str, goal: str, data: Examples, access: str, queries: int) -> Result:
    """The audit of a goal by the battery of an access."""
    if access == "transfer":
        options: dict[str, Any] = {"profile": "quick", "surrogates": subject.surrogates}
        text = threat
    else:
        text = f"{threat}+knowledge:{access}"
        options = {"profile": "quick"} if access == "gradient" else {"profile": PROBE, "queries": queries}
    return audit(subject.model, data, threats=[text], goal=goal, **options, **subject.options)


def added(cell: Cell, result: Result) -> Cell:
    """The cell with what a run says of its cases."""
    stages = result.run.spec["plan"]["threats"][0]["stages"]
    decides = [i for i, stage in enumerate(stages) if stage["kind"] == "decide"]
    history: dict[int, list[dict[str, Any]]] = {}
    for row in result.run.records().to_pylist():
        if row["stage"] == -1 or row["stage"] in decides:
            history.setdefault(row["id"], []).append(row)
    attacked, undecided, costs = 0, 0, list[int]()
    for rows in history.values():
        clean, *tries = sorted(rows, key=lambda row: row["stage"])
        if clean["status"] in (Status.BROKEN, Status.INAPPLICABLE):
            continue
        attacked += 1
        if tries and tries[-1]["status"] == Status.BROKEN:
            costs.append(_cost(tries, cell.access))
        elif not tries or any(row["status"] in (Status.UNDECIDED, Status.ERROR) for row in (clean, *tries)):
            undecided += 1
    return replace(cell, attacked=cell.attacked + attacked, undecided=cell.undecided + undecided, costs=(*cell.costs, *costs))


def _cost(tries: list[dict[str, Any]], access: str) -> int:
    """Up to the success; of a transfer, what the victim was asked."""
    if access == "transfer":
        return 1
    *before, last = tries
    return int(sum(row["queries"] for row in before) + last["queries_to_success"])


def _findings(study: Difficulty, cells: Sequence[Cell]) -> Findings:
    by = {(cell.goal, cell.access): cell for cell in cells}
    grid = [[by[goal, access] for access in ACCESS] for goal in GOALS]
    columns = tuple(f"{access} only" if access == "transfer" else access for access in ACCESS)
    texts = tuple(tuple(str(cell) for cell in row) for row in grid)
    refusals = dict.fromkeys(f"not measured, {cell.goal} by {cell.access}: {cell.refused}" for cell in cells if cell.refused)
    down = [[by[goal, access] for goal in GOALS] for access in ACCESS]
    return Findings(
        words=(
            f"The success of an adversary within {study.threat}, of the cases to which a goal applies and that had not reached "
            "it before, and the median cost of a success: of forward passes by gradients, of queries else, "
            f"{count(study.queries)} at most. All shares are lower bounds: another attack may find more. {RULE}"
        ),
        table=Table(("goal", *columns), tuple((goal, *row) for goal, row in zip(GOALS, texts, strict=True))),
        figures=(Grid("Share of success", GOALS, columns, tuple(tuple(cell.rate for cell in row) for row in grid), texts),),
        claims=(
            Claim("The more an adversary wants, the harder it is, by every access", *falls(down)),
            Claim("The less an adversary sees, the harder it is, for every goal", *falls(grid)),
        ),
        notes=tuple(refusals),
        facts=tuple(cell.facts() for cell in cells),
    )


def falls(lines: Sequence[Sequence[Cell]]) -> tuple[str, bool | None]:
    """Whether the rate falls, or stays, along each line, leaving out what was not measured, as RULE says: every step must leave
    no room for a rise, so that no step's luck makes it hold."""
    steps = [step for line in lines for step in pairwise(cell for cell in line if cell.rate is not None)]
    if not steps:
        return "no two cells to compare", None
    rises = [step for step in steps if _rate(step[1]) > _rate(step[0])]
    sure = any(two.interval[0] > one.interval[1] for one, two in rises)
    room = max(two.interval[1] - one.interval[0] for one, two in steps)
    said = f"{len(steps) - len(rises)} of {len(steps)} steps do not rise"
    if rises:
        one, two = max(rises, key=lambda step: _rate(step[1]) - _rate(step[0]))
        named = f"from {one.goal} by {one.access} ({percent(_rate(one))}) to {two.goal} by {two.access} ({percent(_rate(two))})"
        said += f"; the greatest rise is {named}"
    if not sure:
        said += f"; the intervals leave room for a rise of {percent(max(room, 0.0))}"
    return said, False if sure else True if room <= RISE else None


def _rate(cell: Cell) -> float:
    return math.nan if cell.rate is None else cell.rate


def _many(thing: str) -> str:
    return "queries" if thing == "query" else f"{thing}es"
