"""The patch made for one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import adam
from mohs.attacks.base import Attack
from mohs.attacks.spatial.worst_of_k import worst
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import PatchThreat, Threat
from mohs.threat.patch import WHERE


@dataclass(frozen=True, kw_only=True)
class AdversarialPatch(Attack):
    """Adam on the pixels of a patch of one image's own, at the place where one of `places` random patches has the largest loss,
    or where the threat puts it: max over p of the loss of A(p, x, place, angle, factor).

    rate: Adam's, in units of the range; the authors name none. A restart draws other places. The paper's expectation over
    images and placements, for one patch that serves all, is `mohs universal --threat patch:...`.
    Brown, Mane, Roy, Abadi, Gilmer, NIPS workshop 2017, arXiv:1712.09665.
    """

    steps: int = 100
    places: int = 20
    rate: float = 0.05
    loss: Loss = cross_entropy

    paper = "Brown et al., NIPS workshop 2017, arXiv:1712.09665"
    sets = ("patch",)

    def passes(self, classes: int) -> tuple[int, int]:
        return (self.places + self.steps) * self.restarts, self.steps * self.restarts

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, PatchThreat)  # as `sets` says
        p = worst(oracle, self.places, lambda i: threat.random_point(oracle.x0, oracle.stream.at("place", i)), self.loss)
        x0 = oracle.x0
        first, second = torch.zeros_like(p), torch.zeros_like(p)
        rate = self.rate * (threat.bounds[1] - threat.bounds[0])
        for k in oracle.steps(self.steps):
            gradient = oracle.gradient(p, self.loss).gradient
            gradient[:, :WHERE] = 0
            direction, metric = adam(gradient, first, second, k)
            p = threat.project(p.addcdiv(direction, metric, value=rate), x0)
            x0, p, first, second = oracle.compact(x0, p, first, second)
        return p
