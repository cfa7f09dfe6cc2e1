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
    """max over p of the loss of A(p, x, place, angle, factor), p a patch of one image's own, by Adam on its pixels, at the
    place of the threat, or at that of `places` random ones where the loss is largest after one whole step from grey: every
    pixel as far as it goes along the sign of its slope.

    rate: Adam's, in units of the range; the authors name no optimiser, and put their own at random places. A restart draws
    others. The paper's expectation over images and placements, for one patch of all, is `mohs universal --threat patch:...`.
    Brown, Mane, Roy, Abadi, Gilmer, NIPS workshop 2017, arXiv:1712.09665.

    When to use: where an adversary can stick something on the object or cover a corner of the lens. It finds what a few pixels
    of free colour can do to each image, which is the upper end: a printed patch is one for all images, at places it does not
    choose, and `mohs universal --threat patch:5x5` makes and judges it so.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.AdversarialPatch(steps=30)(model, x, y, threat="patch:2x2")
    >>> changed = (outcome.adversarial != x).flatten(1).sum(1)
    >>> int(outcome.broken.sum()) >= 8, int(changed.max()) <= 4
    (True, True)
    """

    steps: int = 100
    places: int = 20
    rate: float = 0.05
    loss: Loss = cross_entropy

    paper = "Brown et al., NIPS workshop 2017, arXiv:1712.09665"
    sets = ("patch",)

    def passes(self, classes: int) -> tuple[int, int]:
        return (2 * self.places + self.steps) * self.restarts, (self.places + self.steps) * self.restarts

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, PatchThreat)  # as `sets` says

        def stepped(i: int) -> Tensor:
            grey = threat.pixels(threat.origin(oracle.x0), oracle.x0)
            p = threat.project(threat.point(threat.anywhere(oracle.stream.at("place", i)).to(grey), grey), oracle.x0)
            return threat.step(p, oracle.gradient(p, self.loss).gradient, oracle.x0, 1.0)

        p, x0 = worst(oracle, self.places, stepped, self.loss), oracle.x0
        first, second = torch.zeros_like(p), torch.zeros_like(p)
        rate = self.rate * (threat.bounds[1] - threat.bounds[0])
        for k in oracle.steps(self.steps):
            gradient = oracle.gradient(p, self.loss).gradient
            gradient[:, :WHERE] = 0
            direction, metric = adam(gradient, first, second, k)
            p = threat.project(p.addcdiv(direction, metric, value=rate), x0)
            x0, p, first, second = oracle.compact(x0, p, first, second)
        return p
