"""The curves of a run of `mohs curve`, as data and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mohs.report.tables import finite
from mohs.report.words import count, number, score
from mohs.store.verdict import Score, ThreatVerdict, Verdict

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def at(threat: ThreatVerdict, epsilon: float) -> Score:
    """Robust accuracy at epsilon: what is not known to break within it stands, but for what is undecided."""
    broken = threat.distance <= epsilon * (1 + 1e-6) + threat.rounding
    waiting = (threat.status == "undecided") & ~broken
    unseen = threat.score.n - len(threat.distance)  # by a run cut short
    return Score(int((~broken & ~waiting).sum()), int(waiting.sum()) + unseen, threat.score.n)


def as_json(verdict: Verdict, norms: Sequence[str], asked: Sequence[tuple[str, float]] = ()) -> dict[str, Any]:
    """Of each norm the quantiles and the distance of every example, null where none was found. asked: (norm, epsilon)."""
    return {
        "profile": verdict.profile,
        "finished": verdict.finished,
        "n": verdict.clean.n,
        "clean_accuracy": finite(verdict.clean.low),
        "norms": {norm: _norm(threat) for norm, threat in zip(norms, verdict.threats, strict=True)},
        "robust_accuracy": [
            {"norm": norm, "epsilon": epsilon, **_score(at(verdict.threats[norms.index(norm)], epsilon))}
            for norm, epsilon in asked
        ],
    }


def summary(verdict: Verdict, norms: Sequence[str], asked: Sequence[tuple[str, str, float]] = ()) -> RenderableType:
    """A row a norm: the distances at which so many of all examples are broken. asked: (text, norm, epsilon)."""
    stamp = f"profile {verdict.profile}, n = {verdict.clean.n}; ∞: so many were not broken at any distance"
    table = Table(box=None, pad_edge=False, header_style="bold", caption=escape(stamp), caption_justify="left")
    table.add_column("norm")
    table.add_column("clean", justify="right")
    for share in QUANTILES:
        table.add_column(f"{share:.0%} broken within", justify="right")
    table.add_column("undecided", justify="right")
    table.add_column("passes", justify="right")
    for norm, threat in zip(norms, verdict.threats, strict=True):
        passes = sum(stage.forwards + stage.backwards for stage in threat.stages)
        cells = [norm, score(verdict.clean), *map(number, _quantiles(threat)), count(threat.score.undecided), count(passes)]
        table.add_row(*map(escape, cells))
    lines = [
        Text(f"robust accuracy at {text}: {at(verdict.threats[norms.index(norm)], epsilon)}") for text, norm, epsilon in asked
    ]
    return Group(table, *lines)


def _norm(threat: ThreatVerdict) -> dict[str, Any]:
    order = threat.ids.argsort(kind="stable")
    return {
        "quantiles": {f"{share:g}": finite(value) for share, value in zip(QUANTILES, _quantiles(threat), strict=True)},
        "undecided": threat.score.undecided,
        "ids": threat.ids[order].tolist(),
        "distances": [finite(value) for value in threat.distance[order].tolist()],
    }


def _quantiles(threat: ThreatVerdict) -> list[float]:
    """The least distance within which a share of the examples is broken."""
    if not len(threat.distance):
        return [np.inf] * len(QUANTILES)
    return [float(value) for value in np.quantile(threat.distance, QUANTILES, method="inverted_cdf")]


def _score(value: Score) -> dict[str, Any]:
    return {"low": finite(value.low), "high": finite(value.high), "interval95": list(value.interval), "n": value.n}
