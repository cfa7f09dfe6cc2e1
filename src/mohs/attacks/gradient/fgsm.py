"""Fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mohs.attacks.base import Attack
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One steepest step of the whole budget from x0; in norms other than Linf, the step of that norm.

    Goodfellow, Shlens, Szegedy, ICLR 2015, arXiv:1412.6572.
    """

    loss: Loss = cross_entropy

    paper = "Goodfellow et al., ICLR 2015, arXiv:1412.6572"

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        x = threat.origin(x0)
        gradient = oracle.gradient(x, self.loss).gradient
        return threat.step(x, gradient, x0, 1.0)
