"""Bisection of known successes toward their origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.errors import Refused
from mohs.geometry import per_row
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class Bisection(Attack):
    """The best point of each row, projected onto ever nearer balls around x0 by halving the radius's bracket.

    Each radius asks the judge's label once. Rows without a success are left alone. Exact only where success is monotone
    in the radius along these projections; the result is an upper bound in any case.

    When to use: after any attack that overshoots, as the profiles do: ten labels an example take a distance down to its own
    ray's boundary. It finds no success by itself and is exact only where success is monotone in the radius.

    >>> import torch
    >>> from mohs import attacks, demo
    >>> from mohs.models import TorchModel, prepare
    >>> from mohs.oracle import Oracle
    >>> from mohs.threat import Untargeted, parse_threat
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> prepared = prepare(TorchModel(model, classes=4), x)
    >>> oracle = Oracle.begin(prepared, parse_threat("l2:inf"), Untargeted(), x, y, ids=torch.arange(1), stop=False)
    >>> before, after = (float(attack.on(oracle).distance) for attack in (attacks.DeepFool(), attacks.Bisection()))
    >>> round(before, 3), round(after, 3)  # what DeepFool went too far
    (0.204, 0.2)
    """

    steps: int = 10

    paper = "bisection to the boundary, as in Brendel et al., ICLR 2018, arXiv:1712.04248"
    random = False
    knowledge = Knowledge.LABEL
    sets = (*Attack.sets, "spatial", "semantic", "flow", "recolor", "wasserstein", "perceptual", "patch", "manifold", "composite")
    minimal = True

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if threat.knowledge == Knowledge.TRANSFER:
            raise Refused(f"Bisection asks the model at every radius, and the threat {threat} grants {threat.knowledge}")

    def passes(self, classes: int) -> tuple[int, int]:
        return 3 * self.steps, 0  # the judge asks again, in float64 too

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        rows = (oracle.best.broken & (oracle.best.distance > 0)).nonzero()[:, 0]
        if len(rows):
            bisect(oracle, oracle.best.point[rows], threat, rows, self.steps, lambda x: oracle.reached(x, rows))
        return oracle.best.point


def bisect(oracle: Oracle, x: Tensor, threat: Threat, rows: Tensor, steps: int, reached: Callable[[Tensor], Tensor]) -> Tensor:
    """Points x [n, ...] of `rows` on the least ball around x0 on which their projection still reaches the goal, by halving
    the bracket of radii; x itself where no smaller one did."""
    x0 = oracle.x0.index_select(0, rows)
    size = high = threat.distance(x, x0).detach()
    low = torch.zeros_like(high)
    for _ in oracle.steps(steps):
        middle = (low + high) / 2
        hit = reached(threat.shrink(x, x0, middle, size))
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return torch.where(per_row(high < size, x), threat.shrink(x, x0, high, size), x)
