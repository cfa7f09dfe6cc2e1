"""The worst of k random points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.geometry import per_row
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class WorstOfK(Attack):
    """k random points of the set, and of these the one of largest loss: one forward pass each.

    Engstrom, Tran, Tsipras, Schmidt, Madry, ICML 2019, arXiv:1712.02779, who take k = 10 rotations and translations.

    When to use: for a quick figure in rotations, shifts and colours, and inside training against them: ten forward passes. Ten
    random points miss much of what `spatial-grid` finds, so that its survivors are not robust yet.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> few, many = (attacks.WorstOfK(k=k)(model, x, y, threat="rotation:30deg+translation:1px").broken.sum() for k in (1, 30))
    >>> bool(few <= many)
    True
    """

    k: int = 10
    loss: Loss = cross_entropy

    paper = "Engstrom et al., ICML 2019, arXiv:1712.02779"
    knowledge = Knowledge.SCORES
    sets = ("spatial", "semantic")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.k * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        return worst(oracle, self.k, lambda i: threat.random_point(oracle.x0, oracle.stream.at("point", i)), self.loss)


def worst(oracle: Oracle, n: int, candidate: Callable[[int], Tensor], loss: Loss) -> Tensor:
    """Of n points of every row the one of largest loss; candidate(i) gives the i-th of the rows that are left."""
    point = oracle.threat.origin(oracle.x0)
    value = oracle.x0.new_full((len(point),), -torch.inf)
    for i in oracle.steps(n):
        p = candidate(i)
        answer = oracle.scores(p, loss)
        point = torch.where(per_row(answer.loss > value, p), p, point)
        value = torch.maximum(answer.loss, value)
        point, value = oracle.compact(point, value)
    return point
