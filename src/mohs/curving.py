"""Robust accuracy against every epsilon, from one pass a norm: the least change found of every example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mohs.auditing import Result, Watcher, audit
from mohs.data import Examples
from mohs.engine.curves import CURVE
from mohs.errors import RequestError
from mohs.models import Model
from mohs.report.curves import at
from mohs.store.verdict import Score, ThreatVerdict

NORMS = ("linf", "l2", "l1", "l0")


class Curve:
    """What a run of the profile `curve` says.

    distances: by norm, [n] float64, in the order of the data: the least change found of each example, 0 where the model is
    wrong already, inf where none was found. They are upper bounds of the true ones, and so is robust accuracy.
    """

    def __init__(self, result: Result, norms: Sequence[str]) -> None:
        self.result = result
        self._threats: dict[str, ThreatVerdict] = dict(zip(norms, result.verdict.threats, strict=True))
        self.distances = {norm: _in_order(threat) for norm, threat in self._threats.items()}

    @property
    def clean_accuracy(self) -> float:
        return self.result.clean_accuracy

    def score(self, norm: str, epsilon: float) -> Score:
        """Robust accuracy at epsilon with its interval; examples in error or out of time are undecided."""
        if norm not in self._threats:
            raise RequestError(f"the curve has the norms {', '.join(self._threats)}, and not {norm!r}")
        return at(self._threats[norm], epsilon)

    def robust_accuracy(self, norm: str, epsilon: float) -> float:
        """The share of examples of which no change within epsilon was found; undecided ones count as broken."""
        return self.score(norm, epsilon).low

    def save(self, folder: str | Path) -> Path:
        """Keep the run in a folder."""
        return self.result.save(folder)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report."""
        return self.result.report(path)


def curve(
    model: str | Model | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    norms: Sequence[str] = NORMS,
    out: str | Path | None = None,
    watch: Watcher | None = None,
    **options: Any,
) -> Curve:
    """The distance of every example to the nearest wrong one found, by norm.

    model, data, out, watch, options: as of `mohs.audit`. norms: `linf`, `l2`, `l1`, `l0`, `l0px` (over pixels), with
    constraints where wanted, such as `linf+mask:mutable.npy`. Which attacks are used of each is fixed:
    `mohs.engine.curves`. Raises RequestError where the request is wrong.
    """
    for name in ("profile", "threats", "goal", "surrogates"):
        if name in options:
            raise RequestError(f"a curve takes no {name}: it is untargeted, over every epsilon of its norms")
    threats = unbounded(norms)
    result = audit(model, data, threats=threats, out=out, watch=watch, profile=CURVE.name, **options)
    return Curve(result, norms)


def unbounded(norms: Sequence[str]) -> list[str]:
    """The threats without a budget of norms, each named once: `linf:inf`, `l0:infpx`."""
    if not norms:
        raise RequestError(f"a curve needs a norm: {', '.join(NORMS)}")
    if len(set(norms)) < len(norms):
        raise RequestError(f"a norm stands twice in {', '.join(norms)}")
    found = []
    for norm in norms:
        name, plus, rest = norm.strip().partition("+")
        if ":" in name:
            raise RequestError(f"a curve is over every epsilon: give {name.partition(':')[0]!r} in place of {norm!r}")
        pixels = "px" if name == "l0px" else ""
        found.append(f"{name.removesuffix('px') if pixels else name}:inf{pixels}{plus}{rest}")
    return found


def _in_order(threat: ThreatVerdict) -> Tensor:
    """Distances in the order of the ids, which is that of the data."""
    return torch.from_numpy(threat.distance[threat.ids.argsort(kind="stable")]).double()
