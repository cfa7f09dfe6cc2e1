"""sigma-zero: a smooth count of changed features, and a threshold that learns how small a change may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import adam
from mohs.attacks.base import Attack
from mohs.attacks.minimal.ddn import cosine
from mohs.geometry import per_row
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class SigmaZero(Attack):
    """min max(-margin, 0) + (1/d) sum_i delta_i^2 / (delta_i^2 + sigma) by Adam on the gradient over its largest entry; after
    each step the features with |delta_i| < tau go back to x0.

    tau grows by `adapt` times the step size at points that succeed and falls by as much elsewhere, within [0, 1]. The step
    size falls from `step_size` to a tenth of it as a cosine does. One forward and backward pass a step. step_size, tau
    and sqrt(sigma) are in units of the input. The authors' attack is untargeted; the margin is any goal's here. Features
    count, in l0 over pixels too, where a pixel is given up once all of its channels are.
    Cina, Villani, Pintor, Schonherr, Biggio, Pelillo, ICLR 2025, arXiv:2402.01879.

    When to use: the default for the least number of changed entries: 1,000 steps give counts below those of older attacks, and
    it has few settings. It counts entries; for whole pixels take `sparse-rs` or `pgd-l0` with a budget.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # one entry is enough
    >>> attacks.SigmaZero(steps=100)(model, x, y, threat="l0:inf").distance.tolist()
    [1.0]
    """

    steps: int = 1000
    step_size: float = 1.0
    sigma: float = 1e-3
    tau: float = 0.3
    adapt: float = 0.01

    paper = "Cina et al., ICLR 2025, arXiv:2402.01879"
    random = False
    sets = ("l0",)
    minimal = True

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        x = threat.origin(x0)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        tau = x.new_full((len(x),), self.tau)
        for k in oracle.steps(self.steps):
            answer = oracle.gradient(x, oracle.goal.margin)
            hit = answer.margin > 0
            g = self._count(x - x0) - answer.gradient * per_row(~hit, x)
            g = threat.constraints.mutable(g)
            g = g / per_row(g.flatten(1).abs().amax(1).clamp(min=1e-12), g)
            eta = self.step_size * (0.1 + 0.9 * cosine(k, self.steps))
            direction, metric = adam(g, first, second, k)
            x = threat.project(x.addcdiv(direction, metric, value=-eta), x0, math.inf)
            tau = torch.where(hit, tau + self.adapt * eta, tau - self.adapt * eta).clamp_(0, 1)
            x = torch.where((x - x0).abs() < per_row(tau, x), x0, x)
            x0, x, first, second, tau = oracle.compact(x0, x, first, second, tau)
        return x

    def _count(self, delta: Tensor) -> Tensor:
        """The gradient of the mean of delta_i^2 / (delta_i^2 + sigma)."""
        return 2 * self.sigma * delta / (delta.square() + self.sigma).square() / delta[0].numel()
