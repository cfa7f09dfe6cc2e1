"""The verdict of a run, computed from its records alone.

An example counts as robust only if every stage that applies to it ended SURVIVED, or one PROVED it. Everything that is
neither broken nor robust is undecided and widens the printed interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from mohs.store.run import Run

CONFIDENCE = 0.95


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson, JASA 1927)."""
    if n == 0:
        return (0.0, 1.0)
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return (float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Score:
    """A proportion of examples: `robust` of `n` for certain, `undecided` more perhaps."""

    robust: int
    undecided: int
    n: int

    @property
    def low(self) -> float:
        """Every undecided example counted as broken."""
        return self.robust / self.n if self.n else math.nan

    @property
    def high(self) -> float:
        return (self.robust + self.undecided) / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95%, from the lower bound of `low` to the upper bound of `high`."""
        return wilson(self.robust, self.n)[0], wilson(self.robust + self.undecided, self.n)[1]

    def __str__(self) -> str:
        middle = f"{self.low:.1%}" if not self.undecided else f"{self.low:.1%} to {self.high:.1%}"
        low, high = self.interval
        return f"{middle} [{low:.1%}, {high:.1%}]" if self.n else "no example"


@dataclass(frozen=True)
class StageVerdict:
    """One stage of one threat. only: examples that this stage alone broke, of those that it and others tried."""

    name: str
    kind: str
    inapplicable: str | None
    note: str | None
    tried: int
    broken: int
    only: int
    undecided: int
    errors: int
    forwards: int
    backwards: int
    queries: int
    seconds: float


@dataclass(frozen=True)
class ThreatVerdict:
    """One threat. Rows are (example, goal) cases to which the goal applies; arrays are parallel.

    distance: the least at which the case was broken, inf where it never was: an upper bound on the true one.
    """

    text: str
    words: str
    epsilon: float
    score: Score
    natural: int
    boundary: int
    stages: list[StageVerdict]
    ids: np.ndarray
    goals: np.ndarray
    y: np.ndarray
    label: np.ndarray  # of the success; -1 without one
    distance: np.ndarray
    status: np.ndarray  # "broken", "robust" or "undecided"
    by: np.ndarray  # the stage that broke it first; "clean" where nothing was needed
    reasons: dict[str, int] = field(default_factory=dict)  # why rows are undecided

    @property
    def natural_error(self) -> float:
        return self.natural / self.score.n if self.score.n else math.nan

    @property
    def boundary_error(self) -> float:
        """Examples that only the attacks broke."""
        return self.boundary / self.score.n if self.score.n else math.nan

    @property
    def robust_error(self) -> float:
        """Natural and boundary error, exactly."""
        return (self.natural + self.boundary) / self.score.n if self.score.n else math.nan

    def accuracy_at(self, epsilon: float) -> float:
        """An upper bound of robust accuracy at epsilon: the share of cases not known to be broken within it."""
        return float((self.distance > epsilon * (1 + 1e-6)).mean()) if len(self.distance) else math.nan


@dataclass(frozen=True)
class Verdict:
    """What a run found."""

    run: Run
    clean: Score
    threats: list[ThreatVerdict]
    finished: bool

    @property
    def profile(self) -> str:
        profile = self.run.spec["plan"]["profile"]
        stamp = f"{profile['name']} {profile['version']}"
        limit = self.run.spec["plan"].get("time")
        return f"{stamp}, at most {limit:g} s" if limit else stamp

    @cached_property
    def robust_accuracy(self) -> dict[str, float]:
        return {threat.text: threat.score.low for threat in self.threats}


def verdict_of(run: Run) -> Verdict:
    """Read the records of a run, finished or not."""
    columns = _columns(run.records())
    clean = columns["stage"] < 0
    first = clean & (columns["goal"] == 0)
    correct = columns["label"][first] == columns["y"][first]
    score = Score(int(correct.sum()), int(run.spec["plan"]["n"] - first.sum()), int(run.spec["plan"]["n"]))
    threats = [
        _threat(number, plan, {k: v[clean | (columns["threat"] == number)] for k, v in columns.items()})
        for number, plan in enumerate(run.spec["plan"]["threats"])
    ]
    return Verdict(run, score, threats, run.complete)


def _columns(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def _threat(number: int, plan: dict, rows: dict[str, np.ndarray]) -> ThreatVerdict:  # type: ignore[type-arg]
    """Fold the records of a threat into one row a case."""
    key = rows["goal"].astype(np.int64) << 40 | rows["id"]
    cases, case = np.unique(key, return_inverse=True)
    n = len(cases)
    clean, broken = rows["stage"] < 0, rows["status"] == "broken"
    inside = broken & (rows["distance"] <= plan["epsilon"] * (1 + 1e-6) + plan["rounding"])

    applies = np.ones(n, bool)
    applies[case[clean & (rows["status"] == "inapplicable")]] = False
    natural, hit = _any(case, clean & broken, n), _any(case, inside, n)
    deciding = [i for i, stage in enumerate(plan["stages"]) if stage["kind"] == "decide" and stage["inapplicable"] is None]
    survived = sum(
        (_any(case, (rows["stage"] == i) & (rows["status"] == "survived"), n).astype(int) for i in deciding), np.zeros(n, int)
    )
    proved = _any(case, rows["status"] == "proved", n)
    robust = ~hit & (proved | ((survived == len(deciding)) & (len(deciding) > 0)))
    status = np.where(hit, "broken", np.where(robust, "robust", "undecided"))

    distance, label, by = np.full(n, np.inf), np.full(n, -1), np.full(n, "", object)
    order = np.argsort(rows["stage"], kind="stable")[::-1]
    for i in order[broken[order]]:  # later stages first, so that the first to break is named
        distance[case[i]] = min(distance[case[i]], rows["distance"][i])
        if inside[i]:
            label[case[i]], by[case[i]] = rows["label"][i], rows["attack"][i]
    breakers = np.bincount(case, weights=inside, minlength=n)
    stages = [
        _stage(i, stage, rows, {"broken": inside, "alone": inside & (breakers[case] == 1)}) for i, stage in enumerate(plan["stages"])
    ]
    unsettled = (status == "undecided") & applies
    reasons = _reasons(rows, case, unsettled)
    kept = applies
    score = Score(int((robust & kept).sum()), int(unsettled.sum()), int(kept.sum()))
    return ThreatVerdict(
        text=plan["text"],
        words=plan["words"],
        epsilon=plan["epsilon"],
        score=score,
        natural=int((natural & kept).sum()),
        boundary=int((hit & ~natural & kept).sum()),
        stages=stages,
        ids=(cases & ((1 << 40) - 1))[kept],
        goals=(cases >> 40)[kept],
        y=_first(case, rows["y"], n)[kept],
        label=label[kept],
        distance=distance[kept],
        status=status[kept],
        by=by[kept],
        reasons=reasons,
    )


def _any(case: np.ndarray, where: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros(n, bool)
    found[case[where]] = True
    return found


def _first(case: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    taken = np.zeros(n, values.dtype)
    taken[case[::-1]] = values[::-1]
    return taken


def _stage(number: int, plan: dict, rows: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> StageVerdict:  # type: ignore[type-arg]
    mine = rows["stage"] == number

    def total(name: str) -> float:
        return rows[name][mine].sum()  # type: ignore[no-any-return]

    return StageVerdict(
        name=plan["name"],
        kind=plan["kind"],
        inapplicable=plan["inapplicable"],
        note=plan.get("note"),
        tried=int(mine.sum()),
        broken=int((mine & found["broken"]).sum()),
        only=int((mine & found["alone"]).sum()),
        undecided=int((mine & (rows["status"] == "undecided")).sum()),
        errors=int((mine & (rows["status"] == "error")).sum()),
        forwards=int(total("forwards")),
        backwards=int(total("backwards")),
        queries=int(total("queries")),
        seconds=float(total("seconds")),
    )


def _reasons(rows: dict[str, np.ndarray], case: np.ndarray, unsettled: np.ndarray) -> dict[str, int]:
    """Why cases are undecided, most frequent first; a case is counted under the last reason recorded for it."""
    last: dict[int, str] = {int(i): "not every stage has run" for i in np.flatnonzero(unsettled)}
    for i in np.flatnonzero(np.isin(rows["status"], ["undecided", "error"])):
        if int(case[i]) in last:
            last[int(case[i])] = f"{rows['status'][i]}: {rows['reason'][i]}"
    counts: dict[str, int] = {}
    for reason in last.values():
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
