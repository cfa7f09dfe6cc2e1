"""Two runs of the same examples under the same profile, example by example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mohs.errors import RunError
from mohs.store.run import Run
from mohs.store.verdict import ThreatVerdict, verdict_of

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """One threat in two runs. lost: cases robust before and not now; won: the reverse. p: McNemar's exact test, two-sided."""

    text: str
    n: int
    before: float
    after: float
    lost: np.ndarray
    won: np.ndarray
    p: float

    @property
    def fell(self) -> bool:
        """A significant fall."""
        return len(self.lost) > len(self.won) and self.p < SIGNIFICANCE


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact test (Psychometrika 1947): could so uneven a split of the changed cases be a fair coin's?"""
    if lost + won == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won, 0.5).pvalue)


def compare(before: Run, after: Run) -> list[Comparison]:
    """Compare the threats two runs share; RunError where they cannot be compared."""
    _same(before, after, "data", lambda run: run.spec["data"]["sha256"])
    _same(before, after, "profile", lambda run: [run.spec["plan"]["profile"][k] for k in ("name", "version")])
    _same(before, after, "goal", lambda run: run.spec["plan"]["goals"])
    _same(before, after, "time limit", lambda run: run.spec["plan"]["time"])
    one = {threat.text: threat for threat in verdict_of(before).threats}
    two = {threat.text: threat for threat in verdict_of(after).threats}
    shared = [text for text in one if text in two]
    if not shared:
        raise RunError(f"the runs have no threat in common: {', '.join(one)} and {', '.join(two)}")
    return [_compare(one[text], two[text]) for text in shared]


def _compare(before: ThreatVerdict, after: ThreatVerdict) -> Comparison:
    first = {(int(g), int(i)): s == "robust" for g, i, s in zip(before.goals, before.ids, before.status, strict=True)}
    second = {(int(g), int(i)): s == "robust" for g, i, s in zip(after.goals, after.ids, after.status, strict=True)}
    both = sorted(first.keys() & second.keys())
    lost = np.array([i for g, i in both if first[g, i] and not second[g, i]], dtype=np.int64)
    won = np.array([i for g, i in both if second[g, i] and not first[g, i]], dtype=np.int64)
    return Comparison(before.text, len(both), before.score.low, after.score.low, lost, won, mcnemar(len(lost), len(won)))


def _same(before: Run, after: Run, what: str, of) -> None:  # type: ignore[no-untyped-def]
    if of(before) != of(after):
        raise RunError(
            f"{before.folder} and {after.folder} differ in {what} ({of(before)} and {of(after)}): "
            "numbers of different examples or profiles cannot be compared"
        )
