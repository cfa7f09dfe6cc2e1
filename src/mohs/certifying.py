"""Certificates of many examples: what is proved, and what stays open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mohs.auditing import Result, Watcher, audit
from mohs.data import Examples
from mohs.engine.certified import NAME
from mohs.errors import RequestError
from mohs.models import Model
from mohs.store.verdict import Score
from mohs.threat import Threat


class Certified:
    """What a run of `certify` says.

    Of the n examples that the goal speaks of, in the order of the data: proved [n] bool: no input of the threat changes the
    class. bounds: [n], what the margin of the true class comes to at least over the threat, -inf where the model is wrong
    already: above 0 is a proof. open: the ids of those that are neither proved nor wrong. Where a goal has several cases, such
    as a target each, these are of the worst of an example's, and scores count cases.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        threat = result.verdict.threats[0]
        records = result.run.records()
        mine = records.filter(np.asarray(records["stage"].to_numpy() >= 0))
        columns = (mine[name].to_pylist() for name in ("goal", "id", "margin"))
        margins = {(goal, i): margin for goal, i, margin in zip(*columns, strict=True)}
        cases = zip(threat.goals.tolist(), threat.ids.tolist(), strict=True)
        ids, row = np.unique(threat.ids, return_inverse=True)
        bounds = np.full(len(ids), np.inf, np.float32)
        np.minimum.at(bounds, row, [-margins.get(case, np.inf) for case in cases])
        proved, standing = np.ones((2, len(ids)), bool)
        np.logical_and.at(proved, row, threat.proved)
        np.logical_and.at(standing, row, threat.status != "broken")
        self.bounds, self.proved = torch.from_numpy(bounds), torch.from_numpy(proved)
        self.open: list[int] = ids[standing & ~proved].tolist()

    @property
    def clean_accuracy(self) -> float:
        return self.result.clean_accuracy

    @property
    def score(self) -> Score:
        """Robust accuracy: what is proved for certain, what is open perhaps."""
        return self.result.verdict.threats[0].score

    @property
    def certified_accuracy(self) -> float:
        """The share of cases that are proved."""
        return self.score.low

    def save(self, folder: str | Path) -> Path:
        """Keep the run in a folder."""
        return self.result.save(folder)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report."""
        return self.result.report(path)

    def __str__(self) -> str:
        return f"clean accuracy {self.clean_accuracy:.1%}, proved {self.certified_accuracy:.1%}, {len(self.open)} open"


def certify(
    model: str | Model | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    threat: str | Threat,
    method: str = "crown",
    out: str | Path | None = None,
    watch: Watcher | None = None,
    **options: Any,
) -> Certified:
    """Prove of examples that no input of a threat changes the class.

    model, data, out, watch, options: as of `mohs.audit`. threat: an Linf, L2 or L1 ball, with constraints where wanted.
    method: `interval`, `crown`, `alpha-crown`, `branch-and-bound` (`mohs.certificates`), with settings as in
    `branch-and-bound seconds=20`. Raises RequestError where the request is wrong, an
    operator of the model has no bound, or the method does not know the threat.
    """
    for name in ("profile", "surrogates", "certify"):
        if name in options:
            raise RequestError(f"a certificate takes no {name}: nothing is attacked")
    result = audit(model, data, threats=[threat], out=out, watch=watch, profile=NAME, certify=True, method=method, **options)
    return Certified(result)
