"""Primal-dual proximal gradient descent: Adam on the margin, the norm's proximal map, and a learned weight between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mohs.aim import Aim
from mohs.attacks.adam import adam
from mohs.attacks.base import Attack
from mohs.geometry import per_row
from mohs.geometry.solve import length
from mohs.losses import Loss
from mohs.oracle import Oracle
from mohs.threat import Goal, NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class PDPGD(Attack):
    """max over weights, min over delta, of w1 ||delta||_p + w2 softplus(-margin), w1 + w2 = 1.

    A step is one of Adam on the second term, then up to `inner` steps of the proximal map of (w1 / w2) ||.||_p in Adam's
    metric, until they move by less than a hundredth. The log of w2 / w1 rises by the dual step where the goal is not
    reached and falls where it is, within what `least_ratio` allows; the weights follow it as an average of `ema`. One
    forward and backward pass a step.

    step_size: Adam's, in units of the input, falling exponentially to a hundredth. dual_step falls linearly to a tenth.
    ratio: w1 / w2 at first. In l0 the proximal map is hard thresholding, of pixels by the sum of squares of their
    channels; that of ||.||_{2/3}, and the authors' random starts and second run with smaller steps, are not here.
    Matyasko, Chau, 2021, arXiv:2106.01538.

    When to use: as a second opinion on least distances: it handles the norm by its proximal map, unlike projections, and so
    fails elsewhere. 500 passes; `fmn` is mostly as near for fewer, and in L0 `sigma-zero` is.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> nearest = float(attacks.PDPGD(steps=200)(model, x, y, threat="l2:inf").distance)
    >>> 0.2 <= nearest < 0.22
    True
    """

    steps: int = 500
    step_size: float = 0.1
    ratio: float = 0.01
    dual_step: float = 0.1
    ema: float = 0.9
    least_ratio: float = 1e-6
    inner: int = 5

    paper = "Matyasko & Chau, 2021, arXiv:2106.01538"
    random = False
    minimal = True

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        x, loss = threat.origin(x0), soft(oracle.goal)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        dual = torch.full((len(x),), -math.log(self.ratio), dtype=torch.float64, device=x.device)
        weight = dual.sigmoid()  # w2
        most = -math.log(self.least_ratio)
        for k in oracle.steps(self.steps):
            answer = oracle.gradient(x, loss)
            direction, metric = adam(threat.constraints.mutable(answer.gradient), first, second, k)
            eta = self.step_size * 0.01 ** (k / self.steps)
            moved = threat.project(x.addcdiv(direction, metric, value=eta), x0, math.inf)
            x = self._shrink(moved, x0, metric, eta * (1 - weight) / weight, threat)
            theta = self.dual_step * (1 - 0.9 * k / max(self.steps - 1, 1))
            dual = (dual - theta * answer.margin.double().sign()).clamp_(-most, most)
            weight = torch.lerp(dual.sigmoid(), weight, self.ema)
            x0, x, first, second, dual, weight = oracle.compact(x0, x, first, second, dual, weight)
        return x

    def _shrink(self, x: Tensor, x0: Tensor, metric: Tensor, scale: Tensor, threat: NormThreat) -> Tensor:
        """argmin over z of scale ||z - x0||_p + <z - x, metric (z - x)> / 2 in the box, by proximal steps.
        Melchior, Joseph, Moolekamp, 2019, arXiv:1910.10094."""
        largest = metric.flatten(1).amax(1)
        scale, h = scale / largest, metric / per_row(largest, metric)
        z, open_ = x, torch.ones_like(scale, dtype=torch.bool)
        for _ in range(self.inner):
            candidate = threat.norm.prox(z - h * (z - x) - x0, scale).add_(x0)
            candidate = threat.project(candidate, x0, math.inf)
            change = length(candidate - z) / length(candidate - x0).clamp(min=1e-30)
            z = torch.where(per_row(open_, z), candidate, z)
            open_ &= change > 0.01
            if not open_.any():
                break
        return z


def soft(goal: Goal) -> Loss:
    """-softplus(-margin)."""

    def loss(logits: Tensor, aim: Aim) -> Tensor:
        return -functional.softplus(-goal.margin(logits, aim))

    return loss
