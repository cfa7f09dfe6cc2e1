"""The universal patch: one for all images, wherever it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mohs.attacks.adam import adam
from mohs.attacks.universal.craft import Craft, batches, reached
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import PatchThreat, Threat
from mohs.threat.patch import WHERE


@dataclass(frozen=True, kw_only=True)
class UniversalPatch(Craft):
    """max over p of E_{x, t, l} [loss(A(p, x, l, t))] by Adam, from grey: over the images x of a batch, each with a place l and
    an angle and factor t of its own, drawn anew every time within what the threat allows. With a targeted goal the loss is the
    log-probability of the target, as printed; without one, it drives away from the model's own prediction.

    epochs: over all examples at most; the patch that moves most of them, at places drawn for the count, is kept, and the one that
    moves `rate` of them ends the search. step_size: Adam's, in units of the range; the authors name no optimiser. They also
    hold a patch near a picture of choice, which is left out.
    Brown, Mane, Roy, Abadi, Gilmer, NIPS workshop 2017, arXiv:1712.09665.
    """

    epochs: int = 40
    batch: int = 64
    step_size: float = 0.05
    loss: Loss = cross_entropy

    paper = "Brown et al., NIPS workshop 2017, arXiv:1712.09665"
    sets: ClassVar[tuple[str, ...]] = ("patch",)

    def run(self, oracle: Oracle, threat: Threat, rate: float) -> Tensor:
        assert isinstance(threat, PatchThreat)  # as `sets` says
        low, high = threat.bounds
        patch = threat.pixels(threat.origin(oracle.x0[:1]), oracle.x0[:1])
        first, second = torch.zeros_like(patch), torch.zeros_like(patch)
        best, most, k = patch, -1.0, 0
        for epoch in oracle.steps(self.epochs):
            for rows in batches(oracle, epoch, self.batch):
                x0 = oracle.x0[rows]
                points = threat.shared(patch, x0, oracle.stream.take(rows).at("placed", epoch))
                slope = oracle.gradient(points, self.loss, rows).gradient[:, WHERE:].mean(0).view_as(patch)
                direction, metric = adam(slope, first, second, k)
                patch = patch.addcdiv(direction, metric, value=self.step_size * (high - low)).clamp(low, high)
                k += 1
            share = float(reached(oracle, patch, threat).double().mean())
            if share >= most:
                best, most = patch, share
            if share >= rate:
                break
        return best
