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

    When to use: for a first look and inside cheap training: one pass says how far a model goes along its own gradient. It is
    exact on a linear model and weak on any other: its success is a finding, its failure says nothing. Follow it by `pgd` or
    `apgd`; a model that stops FGSM and not PGD was trained on single steps.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # its boundary is 1/7 = 0.1429 away in linf
    >>> [bool(attacks.FGSM()(model, x, y, threat=f"linf:{epsilon}").broken) for epsilon in (0.142, 0.144)]
    [False, True]
    """

    loss: Loss = cross_entropy

    paper = "Goodfellow et al., ICLR 2015, arXiv:1412.6572"
    random = False

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        x = threat.origin(x0)
        gradient = oracle.gradient(x, self.loss).gradient
        return threat.step(x, gradient, x0, 1.0)
