"""GAMA-PGD: a margin of probabilities, guided at first away from the scores of the clean input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.losses import logit_difference
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class GAMA(Attack):
    """PGD in steps of 2 epsilon, a tenth of it from 60% of the steps and a hundredth from 85%, from a random corner of the
    ball. It climbs max_{j != y} p_j - p_y + weight ||p - p(x0)||^2 on probabilities p, weight falling linearly to 0 over
    the first quarter of the steps.

    step_size: in units of epsilon. p(x0): of the clean input, as in the paper; the authors' code takes that of the random
    start. Where a class t is wanted, p_t - p_y is the margin.
    Sriramanan, Addepalli, Baburaj, Babu, NeurIPS 2020, arXiv:2011.14969.

    When to use: for a strong answer in Linf from few restarts: the guide pulls away from the clean scores before the margin
    takes over, which finds other basins than `pgd`. 100 passes; `apgd-t` is stronger where the budget allows it. The paper's
    smaller variant in training, GAT, is another thing.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/7 = 0.1429 away in linf
    >>> [bool(attacks.GAMA()(model, x, y, threat=f"linf:{epsilon}").broken) for epsilon in (0.142, 0.144)]
    [False, True]
    """

    steps: int = 100
    step_size: float = 2.0
    weight: float = 50.0

    paper = "Sriramanan et al., NeurIPS 2020, arXiv:2011.14969"
    sets = ("linf",)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        guided, drops = self.steps / 4, (0.6 * self.steps, 0.85 * self.steps)
        x = threat.project(oracle.stream.signs(*x0.shape[1:]).mul_(threat.epsilon).add_(x0), x0)
        for k in oracle.steps(self.steps):
            weight = self.weight * max(0.0, 1 - k / guided)
            size = self.step_size / 10 ** sum(k >= drop for drop in drops)
            gradient = oracle.gradient(x, partial(guided_margin, weight=weight)).gradient
            x = threat.step(x, gradient, x0, size)
            x0, x = oracle.compact(x0, x)
        return x


def guided_margin(logits: Tensor, aim: Aim, *, weight: float) -> Tensor:
    """The margin of probabilities plus weight ||p - p(x0)||^2 [rows]."""
    p = logits.softmax(1)
    margin = logit_difference(p, aim)
    if weight == 0:
        return margin
    assert aim.reference is not None
    return margin + weight * (p - torch.softmax(aim.reference, 1)).square().sum(1)
