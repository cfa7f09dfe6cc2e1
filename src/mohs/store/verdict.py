"""The verdict of a run, computed from its records alone.

An example counts as robust only if every stage that applies to it ended SURVIVED, or one PROVED it. Everything that is
neither broken nor robust is undecided and widens the printed interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist

import numpy as np
import pyarrow as pa

from mohs.errors import Contradiction
from mohs.store.run import Run

CONFIDENCE = 0.95


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson, JASA 1927)."""
    if n == 0:
        return (0.0, 1.0)
    z, p = NormalDist().inv_cdf(0.5 + confidence / 2), successes / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    return (low if successes else 0.0, high if successes < n else 1.0)


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
    """One stage of one threat. only: cases that this stage alone broke, of those that it and others tried. A stage that
    measures starts from what earlier stages broke: those cases are no trial of its own."""

    name: str
    kind: str
    inapplicable: str | None
    note: str | None
    tried: int
    broken: int
    only: int
    proved: int
    undecided: int
    errors: int
    forwards: int
    backwards: int
    queries: int
    seconds: float


@dataclass(frozen=True)
class ThreatVerdict:
    """One threat. Rows are (example, goal) cases to which the goal applies; arrays are parallel. Cases that a run cut
    short never saw have no row: `score` counts them as undecided.

    distance: the least at which the case was broken, inf where it never was: an upper bound on the true one.
    """

    text: str
    words: str
    epsilon: float
    rounding: float  # what a distance may exceed epsilon by
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
    proved: np.ndarray  # bool: no attack can break it
    reasons: dict[str, int] = field(default_factory=dict)  # why rows are undecided

    @property
    def natural_error(self) -> float:
        return self.natural / self.score.n if self.score.n else math.nan

    @property
    def certified(self) -> Score | None:
        """Robust accuracy by what is proved alone, and open what is neither proved nor broken; None where nothing was to be
        proved."""
        if not any(stage.kind == "prove" for stage in self.stages):
            return None
        proved = int(self.proved.sum())
        return Score(proved, self.score.robust + self.score.undecided - proved, self.score.n)

    @property
    def open(self) -> np.ndarray:
        """The ids of cases that are neither proved nor broken."""
        return np.sort(self.ids[~self.proved & (self.status != "broken")])

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
        broken = int(within(self.distance, epsilon, self.rounding).sum())
        return (self.score.n - broken) / self.score.n if self.score.n else math.nan


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
        queries = self.run.spec["plan"].get("queries")
        stamp += f", at most {queries:,} queries an example" if queries else ""
        return f"{stamp}, at most {limit:g} s" if limit else stamp

    @cached_property
    def scores(self) -> dict[str, Score]:
        """By threat, and of no attack as `clean`."""
        return {"clean": self.clean, **{threat.text: threat.score for threat in self.threats}}

    @cached_property
    def robust_accuracy(self) -> dict[str, float]:
        return {threat.text: threat.score.low for threat in self.threats}


def verdict_of(run: Run) -> Verdict:
    """Read the records of a run, finished or not."""
    columns = _columns(run.records())
    clean = columns["stage"] < 0
    first = clean & (columns["goal"] == 0)
    answered = first & ~_unsettled(columns)
    correct = columns["label"][answered] == columns["y"][answered]
    n = int(run.spec["plan"]["n"])
    score = Score(int(correct.sum()), n - int(answered.sum()), n)
    unseen = n * len(run.spec["plan"]["goals"]) - int(clean.sum())
    threats = [
        _threat(plan, {k: v[clean | (columns["threat"] == number)] for k, v in columns.items()}, unseen)
        for number, plan in enumerate(run.spec["plan"]["threats"])
    ]
    return Verdict(run, score, threats, run.complete)


def union(threats: Sequence[ThreatVerdict]) -> Score:
    """Of the same cases under several threats or adversaries: a case is robust where it is so under each of them, and broken
    where it is so under any."""

    def cases(status: str) -> list[set[tuple[int, int]]]:
        kept = [(threat, threat.status == status) for threat in threats]
        return [set(zip(threat.goals[rows].tolist(), threat.ids[rows].tolist(), strict=True)) for threat, rows in kept]

    robust, broken, n = set.intersection(*cases("robust")), set.union(*cases("broken")), threats[0].score.n
    return Score(len(robust), n - len(robust) - len(broken), n)


def _columns(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def within(distance: np.ndarray, epsilon: float, rounding: float) -> np.ndarray:
    """[n] bool: whether distances lie within a budget, up to rounding."""
    return np.asarray(distance <= epsilon * (1 + 1e-6) + rounding)


def _unsettled(rows: dict[str, np.ndarray]) -> np.ndarray:
    return np.isin(rows["status"].astype(str), ["undecided", "error"])


def _threat(plan: dict, rows: dict[str, np.ndarray], unseen: int) -> ThreatVerdict:  # type: ignore[type-arg]
    """Fold the records of a threat into one row a case; unseen: cases of the plan without any record."""
    key = rows["goal"].astype(np.int64) << 40 | rows["id"]
    cases, case = np.unique(key, return_inverse=True)
    n = len(cases)
    clean, broken = rows["stage"] < 0, rows["status"] == "broken"
    inside = broken & within(rows["distance"], plan["epsilon"], plan["rounding"])

    applies = np.ones(n, bool)
    applies[case[clean & (rows["status"] == "inapplicable")]] = False
    natural, hit = _any(case, clean & broken, n), _any(case, inside, n)
    proved = _any(case, rows["status"] == "proved", n)
    if (proved & hit).any():
        ids = ", ".join(str(i) for i in cases[proved & hit] & ((1 << 40) - 1))
        raise Contradiction(
            f"at {plan['text']} examples are proved safe and were attacked: {ids}. A bound or a judgement is wrong: please "
            "report this run"
        )
    robust = _robust(plan, rows, case, n) & ~hit
    status = np.where(hit, "broken", np.where(robust, "robust", "undecided"))

    distance, label, by = np.full(n, np.inf), np.full(n, -1), np.full(n, "", object)
    order = np.argsort(rows["stage"], kind="stable")[::-1]
    for i in order[broken[order]]:  # later stages first, so that the first to break is named
        distance[case[i]] = min(distance[case[i]], rows["distance"][i])
        if inside[i]:
            label[case[i]], by[case[i]] = rows["label"][i], rows["attack"][i]
    alone = _alone(plan, rows, case, inside)
    unsettled = (status == "undecided") & applies
    score = Score(int((robust & applies).sum()), int(unsettled.sum()) + unseen, int(applies.sum()) + unseen)
    return ThreatVerdict(
        text=plan["text"],
        words=plan["words"],
        epsilon=plan["epsilon"],
        rounding=plan["rounding"],
        score=score,
        natural=int((natural & applies).sum()),
        boundary=int((hit & ~natural & applies).sum()),
        stages=[_stage(i, stage, rows, inside, alone) for i, stage in enumerate(plan["stages"])],
        ids=(cases & ((1 << 40) - 1))[applies],
        goals=(cases >> 40)[applies],
        y=_first(case, rows["y"], n)[applies],
        label=label[applies],
        distance=distance[applies],
        status=status[applies],
        by=by[applies],
        proved=proved[applies],
        reasons=_reasons(plan, rows, case, unsettled, unseen),
    )


def _deciding(plan: dict) -> list[int]:  # type: ignore[type-arg]
    return [i for i, stage in enumerate(plan["stages"]) if stage["kind"] == "decide" and stage["inapplicable"] is None]


def _robust(plan: dict, rows: dict[str, np.ndarray], case: np.ndarray, n: int) -> np.ndarray:  # type: ignore[type-arg]
    """[cases] bool: proved; or withstood every deciding stage that applies, one at least, and no error befell it."""
    survived, passed = np.zeros(n, int), np.zeros(n, int)
    for i in _deciding(plan):
        mine = rows["stage"] == i
        survived += _any(case, mine & (rows["status"] == "survived"), n)
        passed += _any(case, mine & np.isin(rows["status"].astype(str), ["survived", "inapplicable"]), n)
    unknown = _any(case, (rows["status"] == "error") | ((rows["stage"] < 0) & _unsettled(rows)), n)
    withstood = (survived > 0) & (passed == len(_deciding(plan))) & ~unknown
    return np.asarray(_any(case, rows["status"] == "proved", n) | withstood)


def _alone(
    plan: dict,  # type: ignore[type-arg]
    rows: dict[str, np.ndarray],
    case: np.ndarray,
    inside: np.ndarray,
) -> np.ndarray:
    """[rows] bool: broken here, and nowhere else where it was tried."""
    measures = np.array([stage["kind"] == "measure" for stage in plan["stages"]] + [False])  # the clean stage is -1
    earliest = np.full(case.max(initial=-1) + 1, len(plan["stages"]))
    np.minimum.at(earliest, case[inside], rows["stage"][inside])
    recalled = measures[rows["stage"]] & (earliest[case] < rows["stage"])
    trial = (rows["stage"] >= 0) & ~recalled & (rows["status"] != "inapplicable")
    tried = np.bincount(case, weights=trial, minlength=len(earliest))
    broke = np.bincount(case, weights=trial & inside, minlength=len(earliest))
    return np.asarray(trial & inside & (broke[case] == 1) & (tried[case] > 1))


def _any(case: np.ndarray, where: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros(n, bool)
    found[case[where]] = True
    return found


def _first(case: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    taken = np.zeros(n, values.dtype)
    taken[case[::-1]] = values[::-1]
    return taken


def _stage(
    number: int,
    plan: dict,  # type: ignore[type-arg]
    rows: dict[str, np.ndarray],
    inside: np.ndarray,
    alone: np.ndarray,
) -> StageVerdict:
    mine = rows["stage"] == number

    def total(name: str) -> float:
        return rows[name][mine].sum()  # type: ignore[no-any-return]

    return StageVerdict(
        name=plan["name"],
        kind=plan["kind"],
        inapplicable=plan["inapplicable"],
        note=plan.get("note"),
        tried=int((mine & (rows["status"] != "inapplicable")).sum()),
        broken=int((mine & inside).sum()),
        only=int((mine & alone).sum()),
        proved=int((mine & (rows["status"] == "proved")).sum()),
        undecided=int((mine & (rows["status"] == "undecided")).sum()),
        errors=int((mine & (rows["status"] == "error")).sum()),
        forwards=int(total("forwards")),
        backwards=int(total("backwards")),
        queries=int(total("queries")),
        seconds=float(total("seconds")),
    )


def _reasons(
    plan: dict,  # type: ignore[type-arg]
    rows: dict[str, np.ndarray],
    case: np.ndarray,
    unsettled: np.ndarray,
    unseen: int,
) -> dict[str, int]:
    """Why cases are undecided, most frequent first; a case is counted under the last reason recorded for it."""
    waits = "not every stage has run" if _deciding(plan) else "no attack of the profile that decides applies"
    last = {int(i): waits for i in np.flatnonzero(unsettled)}
    for i in np.flatnonzero(_unsettled(rows)):
        if int(case[i]) in last:
            last[int(case[i])] = f"{rows['status'][i]}: {rows['reason'][i]}"
    counts: dict[str, int] = {"the run has not reached them": unseen} if unseen else {}
    for reason in last.values():
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
