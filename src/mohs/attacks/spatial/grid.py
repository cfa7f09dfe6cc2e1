"""Every rotation and translation of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.spatial.worst_of_k import worst
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Knowledge, SpatialThreat, Threat


@dataclass(frozen=True, kw_only=True)
class SpatialGrid(Attack):
    """A grid of `angles` rotations and `shifts` translations each way, evenly spaced over the whole of the budget, all of
    which are tried; the nearest first, so that the first success of a row is the grid's nearest. One forward pass each.

    Engstrom, Tran, Tsipras, Schmidt, Madry, ICML 2019, arXiv:1712.02779: 31 x 5 x 5 = 775 points, the paper's strongest
    attack; the order makes no difference to what it finds.

    When to use: the strongest attack on small rotations and shifts: the space has three dimensions, and trying 775 of its
    points beats a gradient, whose landscape is rough. Forward passes alone. For a quick look take `worst-of-k`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.SpatialGrid(angles=7, shifts=3)(model, x, y, threat="rotation:30deg+translation:1px")
    >>> bool(outcome.broken.any()), int(outcome.forwards.max()) <= 7 * 3 * 3
    (True, True)
    """

    angles: int = 31
    shifts: int = 5
    loss: Loss = cross_entropy

    paper = "Engstrom et al., ICML 2019, arXiv:1712.02779"
    random = False
    knowledge = Knowledge.SCORES
    sets = ("spatial",)

    def passes(self, classes: int) -> tuple[int, int]:
        return self.angles * self.shifts**2 * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, SpatialThreat)  # as `sets` says
        grid = self.grid(threat, x0)
        return worst(oracle, len(grid), lambda i: grid[i].expand(len(oracle.x0), -1), self.loss)

    def grid(self, threat: SpatialThreat, x0: Tensor) -> Tensor:
        """Points [n, 3] by their distance, those that are alike (where a budget is 0) once."""
        turns, shifts = (torch.arange(1 - n, n, 2) / max(n - 1, 1) for n in (self.angles, self.shifts))  # 0 is 0 to the bit
        unit = torch.cartesian_prod(turns, shifts, shifts).to(x0)
        points = torch.unique(unit * (threat.reach(x0) * threat.epsilon) + 0.0, dim=0)  # + 0.0: there is one zero
        nearest: Tensor = points[threat.distance(points, x0[:1]).argsort(stable=True)]
        return nearest
