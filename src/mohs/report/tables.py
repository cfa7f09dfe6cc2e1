"""A verdict as data: for `--json`, and as a table of one row an example, threat and goal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from mohs.report import queries
from mohs.report.policy import Requirement
from mohs.store.verdict import Score, StageVerdict, ThreatVerdict, Verdict


def as_json(verdict: Verdict, requirements: Sequence[Requirement] = ()) -> dict[str, Any]:
    """Every number of a verdict and its policy, as JSON knows them: what is not finite is null."""
    spec = verdict.run.spec
    plan = spec["plan"]
    return {
        "id": spec.get("id"),
        "created": spec.get("created"),
        "mohs": spec.get("mohs"),
        "profile": verdict.profile,
        "finished": verdict.finished,
        "n": plan["n"],
        "seed": plan["seed"],
        "goals": plan["goals"],
        "clean_accuracy": _score(verdict.clean),
        "threats": [_threat(threat) for threat in verdict.threats],
        **({"probe": asked} if (asked := queries.as_json(verdict)) is not None else {}),
        "policy": [_plain(requirement) for requirement in requirements],
    }


def table(verdict: Verdict) -> pa.Table:
    """One row an (example, threat, goal). distance: the least at which it was broken, inf where it never was; label: the
    class reached, -1 where it was not broken; by: the stage that broke it first, `clean` where no attack was needed; proved:
    no attack can."""
    goals = np.array(verdict.run.spec["plan"]["goals"], object)
    parts = [
        pa.table(
            {
                "id": pa.array(threat.ids, pa.int64()),
                "threat": pa.array([threat.text] * len(threat.ids), pa.string()),
                "goal": pa.array(goals[threat.goals], pa.string()),
                "y": pa.array(threat.y, pa.int32()),
                "status": pa.array(threat.status, pa.string()),
                "by": pa.array(threat.by, pa.string()),
                "label": pa.array(threat.label, pa.int32()),
                "distance": pa.array(threat.distance, pa.float64()),
                "proved": pa.array(threat.proved, pa.bool_()),
            }
        )
        for threat in verdict.threats
    ]
    return pa.concat_tables(parts)


def broken_by(threat: ThreatVerdict) -> dict[str, int]:
    """Stage -> cases that it was the first to break, most first; what needed no attack is left out."""
    names, counts = np.unique(threat.by[threat.by != ""].astype(str), return_counts=True)
    pairs = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return {name: count for name, count in pairs if name != "clean"}


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _score(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {
        "low": finite(score.low),
        "high": finite(score.high),
        "interval95": [finite(low), finite(high)],
        "robust": score.robust,
        "undecided": score.undecided,
        "n": score.n,
    }


def _threat(threat: ThreatVerdict) -> dict[str, Any]:
    broken = threat.distance[np.isfinite(threat.distance)]
    return {
        "text": threat.text,
        "words": threat.words,
        "epsilon": finite(threat.epsilon),
        "robust_accuracy": _score(threat.score),
        "natural": threat.natural,
        "boundary": threat.boundary,
        "natural_error": finite(threat.natural_error),
        "boundary_error": finite(threat.boundary_error),
        "robust_error": finite(threat.robust_error),
        "median_distance": finite(float(np.median(threat.distance))) if len(broken) else None,
        "undecided_reasons": threat.reasons,
        **({} if threat.certified is None else {"proved": _score(threat.certified), "open": threat.open.tolist()}),
        "broken_by": broken_by(threat),
        "spent": {
            "forwards": sum(stage.forwards for stage in threat.stages),
            "backwards": sum(stage.backwards for stage in threat.stages),
            "queries": sum(stage.queries for stage in threat.stages),
            "seconds": finite(sum(stage.seconds for stage in threat.stages)),
        },
        "stages": [_plain(stage) for stage in threat.stages],
    }


def _plain(fields: StageVerdict | Requirement) -> dict[str, Any]:
    return {name: finite(value) if isinstance(value, float) else value for name, value in asdict(fields).items()}
