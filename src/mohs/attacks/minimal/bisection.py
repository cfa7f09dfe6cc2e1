"""Bisection of known successes toward their origin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.geometry import per_row
from mohs.oracle import Oracle
from mohs.threat import Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class Bisection(Attack):
    """The best point of each row, projected onto ever nearer balls around x0 by halving the radius's bracket.

    Each radius asks the judge's label once. Rows without a success are left alone. Exact only where success is monotone
    in the radius along these projections; the result is an upper bound in any case.
    """

    steps: int = 10

    paper = "bisection to the boundary, as in Brendel et al., ICLR 2018, arXiv:1712.04248"
    knowledge = Knowledge.LABEL
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        return 3 * self.steps, 0  # the judge asks again, in float64 too

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        rows = (oracle.best.broken & (oracle.best.distance > 0)).nonzero()[:, 0]
        x, origin = oracle.best.point[rows], x0[rows]
        low, high = torch.zeros_like(oracle.best.distance[rows]), oracle.best.distance[rows]
        for _ in oracle.steps(self.steps) if len(rows) else ():
            middle = (low + high) / 2
            candidate = threat.project(x.clone(), origin, middle.to(x.dtype))
            reached = oracle.reached(candidate, rows)
            x = torch.where(per_row(reached, x), candidate, x)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return oracle.best.point
