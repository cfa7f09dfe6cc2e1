"""Helper-based adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.recipe import Trainer
from mohs.train.standard import Standard
from mohs.train.trades import TRADES


@dataclass(frozen=True, kw_only=True)
class HAT(TRADES):
    """TRADES' loss + gamma * CE(f(x + h (x' - x)), argmax of g(x')): inputs further along the attack have the label that a
    network g of standard training gives at x', so that the margin grows no wider than it must. x' is TRADES'; what lies beyond
    the bounds is not clipped, as in the authors' code.

    beta 2.5, gamma 0.5, h 2: those of the paper for CIFAR-10 at 8/255, as far as they could be read. g is trained first.
    Rade & Moosavi-Dezfooli, ICLR 2022.
    """

    beta: float = 2.5
    gamma: float = 0.5
    h: float = 2.0

    paper = "Rade & Moosavi-Dezfooli, ICLR 2022"
    cost = "k(F+Bx)+5F+3Bx+3Bw, after a standard training"
    purpose = "the robustness of TRADES at less loss of accuracy"

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        return {"standard": train.fit("standard", Standard())}

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        shown = batch.shown(point)
        with torch.no_grad():
            label = batch.aids["standard"](shown).argmax(1)
        helped = batch.network(batch.x0 + self.h * (shown - batch.x0))
        return super().outer(batch, point) + self.gamma * functional.cross_entropy(helped, label)
