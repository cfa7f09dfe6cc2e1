"""Augmented Lagrangian: the distance and a penalty on the margin, whose multiplier is learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.attacks.minimal.ddn import unit
from mohs.errors import Refused
from mohs.geometry import per_row
from mohs.losses import Loss
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, NormThreat, Threat

FIRST = {"l2": 0.1, "l1": 0.5}  # the authors' distances of the first step


@dataclass(frozen=True, kw_only=True)
class ALMA(Attack):
    """min ||delta|| + P(c, rho, mu) by gradient steps in RMSProp's metric with momentum. c = (tolerance - margin) / spread is
    positive until the goal is reached; its spread is that of the DLR losses. P is the penalty P2 of the paper:
    mu c + mu rho c^2 + rho^2 c^3 / 6 for c >= 0, mu c / (1 - rho c) below. mu follows dP/dc; rho grows by `growth` every
    `every` steps in which c has not fallen by a twentieth, until the first success.

    One forward and backward pass a step; the first step follows the penalty alone, and its size is such that the distance
    becomes `first` (0: the authors' 0.1 in l2 and 0.5 in l1), with a random direction where there is no gradient. From the
    first success on, the steps fall exponentially to `final` of their size. alpha: of the averages, of mu, of RMSProp and of
    the momentum; 0.9 is for 1000 steps.

    The authors also minimise SSIM, CIEDE2000 and LPIPS, which are no threats here. In their code the tolerance of a
    targeted attack has the wrong sign, so that points just short of the boundary count; here it is as printed.
    Rony, Granger, Pedersoli, Ben Ayed, ICCV 2021, arXiv:2011.11857.

    When to use: for the nearest points in L2 and L1 when a thousand passes an example are to be had: the multiplier is learned,
    so that no search over c is needed. With fewer steps `fmn` and `ddn` are nearer; at 1,000 it matches `cw` for a fraction of
    its passes.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> round(float(attacks.ALMA(steps=300, alpha=0.5)(model, x, y, threat="l2:inf").distance), 2)
    0.2
    """

    steps: int = 1000
    first: float = 0.0
    final: float = 0.01
    alpha: float = 0.9
    every: int = 10
    growth: float = 1.2
    tolerance: float = 1e-4

    paper = "Rony et al., ICCV 2021, arXiv:2011.11857"
    random = False
    sets = ("l2", "l1")
    minimal = True

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if model.classes < 3:
            raise Refused(f"ALMA divides the margin by a spread of 3 logits, and the model {model.name} has {model.classes}")

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        x, violation = threat.origin(x0), violated(oracle.goal, self.tolerance)
        square, momentum = torch.ones_like(x), torch.zeros_like(x)
        mu, rho, size = (x.new_ones(len(x), dtype=torch.float64) for _ in range(3))
        last, found = mu, torch.full_like(mu, torch.inf)  # the step of the first success
        for k in oracle.steps(self.steps):
            answer = oracle.gradient(x, violation)
            c = answer.loss.double()
            if k == 0:
                last = c
            elif (k + 1) % self.every == 0:
                stuck = (found == torch.inf) & (c >= 0.95 * last)
                rho, last = torch.where(stuck, self.growth * rho, rho), c
            if k > 0:
                mu = torch.lerp(slope(c, rho, mu), mu, self.alpha).clamp(1e-6, 1e12)
            found = torch.where((c < 0) & (found == torch.inf), float(k), found)
            g = answer.gradient.mul(per_row(slope(c, rho, mu).to(x.dtype), x))
            if k == 0:
                flat = g.flatten(1).norm(dim=1) <= 1e-6
                g = torch.where(per_row(flat, x), unit(torch.zeros_like(g), oracle.stream.at("direction")), g)
                size = self._first(threat.constraints.mutable(g), x0, threat)
            else:
                g = g + pull(x, x0, threat)
            g = threat.constraints.mutable(g)
            decay = self.final ** ((k - found).clamp(min=0) / (self.steps - found)).nan_to_num(0.0)
            square.mul_(self.alpha).addcmul_(g, g, value=1 - self.alpha)
            momentum.mul_(self.alpha).addcdiv_(g, square.sqrt().add_(1e-8))
            x = threat.project(x - momentum * per_row((size * decay).to(x.dtype), x), x0, math.inf)
            x0, x, square, momentum, mu, rho, size, last, found = oracle.compact(
                x0, x, square, momentum, mu, rho, size, last, found
            )
        return x

    def _first(self, g: Tensor, x0: Tensor, threat: Threat) -> Tensor:
        """[rows]: the s at which x0 - s g, clipped to the box, is `first` away from x0; what comes nearest to it where the box
        is too small."""
        goal = self.first or FIRST[threat.name]

        def short(s: Tensor) -> Tensor:
            return threat.distance(threat.project(x0 - g * per_row(s.to(g.dtype), g), x0, math.inf), x0) <= goal

        high = torch.ones(len(x0), dtype=torch.float64, device=x0.device)
        for _ in range(64):
            high = torch.where(short(high), 2 * high, high)
        low = torch.where(high > 1, high / 2, 0.0)
        for _ in range(20):
            middle = (low + high) / 2
            nearer = short(middle)
            low, high = torch.where(nearer, middle, low), torch.where(nearer, high, middle)
        return (low + high) / 2


def violated(goal: Goal, tolerance: float) -> Loss:
    """(tolerance - margin) / spread of the logits, which falls below 0 where the goal is reached by `tolerance`."""

    def loss(logits: Tensor, aim: Aim) -> Tensor:
        most = 3 if aim.target is None else min(4, logits.shape[1])
        top = logits.topk(most, dim=1).values
        low = top[:, 2] if aim.target is None else (top[:, 2] + top[:, -1]) / 2
        return (tolerance - goal.margin(logits, aim)) / (top[:, 0] - low + 1e-8)

    return loss


def slope(c: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """dP/dc."""
    above = c.clamp(min=0)
    return torch.where(c >= 0, mu + 2 * mu * rho * above + rho**2 * above**2 / 2, mu / (1 - rho * c.clamp(max=0)) ** 2)


def pull(x: Tensor, x0: Tensor, threat: NormThreat) -> Tensor:
    """The gradient of the distance."""
    delta = (x - x0).requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(threat.norm.distance(delta).sum(), delta)[0]
