"""What the report draws: robustness curves and who is taken for whom, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mohs.report.words import units
from mohs.store.verdict import ThreatVerdict, wilson

STEPS = 400  # most steps of a curve; what is left out lies between two that are kept
CLASSES = 16  # most classes a matrix has a row for


def curve(threat: ThreatVerdict) -> dict[str, Any]:
    """Accuracy against epsilon: x in the units that the threat is written in, y and its 95% interval in percent, from each x on
    until the next. An upper bound everywhere: distances come from attacks."""
    scale, unit = units(threat.text)
    n, epsilon = threat.score.n, threat.epsilon
    distance = np.where(_inside(threat), np.minimum(threat.distance, epsilon), threat.distance)
    distance = np.sort(distance[np.isfinite(distance)])
    end = _end(distance, epsilon)
    x = np.unique(np.concatenate([[0.0], distance[distance <= end]]))
    if len(x) > STEPS:
        keep = np.unique(np.linspace(0, len(x) - 1, STEPS).round().astype(int))
        x = np.unique(np.concatenate([x[keep], x[x == epsilon]]))
    standing = n - np.searchsorted(distance, x, side="right")
    bounds = [wilson(int(k), n) for k in standing]
    return {
        "name": threat.text,
        "unit": unit,
        "epsilon": _round(epsilon * scale) if math.isfinite(epsilon) else None,
        "end": _round(end * scale),
        "x": [_round(value * scale) for value in x.tolist()],
        "y": [_round(100 * int(k) / n) if n else 0.0 for k in standing],
        "low": [_round(100 * low) for low, _ in bounds],
        "high": [_round(100 * high) for _, high in bounds],
        "robust": [_round(100 * value) for value in (threat.score.low, threat.score.high) if n],
        "interval": [_round(100 * value) for value in threat.score.interval],
    }


def sample(drawn: dict[str, Any], rows: int = 8) -> list[dict[str, float]]:
    """The curve as a short table, for who cannot see it: evenly spaced, the audited epsilon among them."""
    wanted = set(np.linspace(0, drawn["end"], rows).tolist())
    if drawn["epsilon"] is not None:
        wanted.add(drawn["epsilon"])
    found = []
    for x in sorted(wanted):
        at = int(np.searchsorted(drawn["x"], x, side="right")) - 1
        found.append({"x": x, "y": drawn["y"][at], "low": drawn["low"][at], "high": drawn["high"][at]})
    return found


@dataclass(frozen=True)
class Matrix:
    """Cases broken, by true class (rows) and class reached (columns). attacked: cases of each true class."""

    classes: list[int]
    counts: list[list[int]]
    attacked: list[int]
    broken: list[int]
    left_out: int

    @property
    def most(self) -> int:
        return max((max(row) for row in self.counts), default=0)


def matrix(threat: ThreatVerdict) -> Matrix:
    """From the successes of a threat, with the classes that occur most often in them, in their own order."""
    broken = (threat.status == "broken") & (threat.label >= 0)
    y, label = threat.y[broken], threat.label[broken]
    seen, often = np.unique(np.concatenate([y, label]), return_counts=True)
    classes = np.sort(seen[np.argsort(-often, kind="stable")[:CLASSES]])
    kept = np.isin(y, classes) & np.isin(label, classes)
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (np.searchsorted(classes, y[kept]), np.searchsorted(classes, label[kept])), 1)
    return Matrix(
        classes=classes.tolist(),
        counts=counts.tolist(),
        attacked=[int((threat.y == c).sum()) for c in classes],
        broken=[int((y == c).sum()) for c in classes],
        left_out=int((~kept).sum()),
    )


def _inside(threat: ThreatVerdict) -> np.ndarray:
    return np.asarray((threat.status == "broken") & np.isfinite(threat.distance))


def _end(distance: np.ndarray, epsilon: float) -> float:
    """How far the curve is drawn: past the audited epsilon, and to where nearly all that was broken is."""
    far = float(np.quantile(distance, 0.98)) * 1.05 if len(distance) else 0.0
    return max(far, 1.5 * epsilon if math.isfinite(epsilon) else 0.0) or 1.0


def _round(value: float) -> float:
    """Six digits: what a screen shows, and half the bytes."""
    return float(f"{value:.6g}")
