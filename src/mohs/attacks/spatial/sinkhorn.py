"""Projected Sinkhorn: steps of the image, and an entropic projection onto the Wasserstein ball after each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Threat, WassersteinThreat
from mohs.threat.wasserstein import shift


@dataclass(frozen=True, kw_only=True)
class ProjectedSinkhorn(Attack):
    """x += step_size sign(g) on the image, then onto the ball: min regularisation / 2 ||z - x||^2 + sum Pi log Pi over images z
    and plans Pi from x0 to z within the budget, both of mass 1, by coordinate ascent in the dual.

    inner: rounds of that ascent, ended early once the objective moves by less than a ten-thousandth. steps, step_size and
    regularisation are those of the authors' code for MNIST. Distances of pixels are Euclidean, as the threat has them; the
    code squares them. The point is the plan, whose rows the last update makes those of x0; what is over the budget or out of
    the box goes to the threat's exact projection, where the authors clip the image and change its mass. The entropy
    spreads every plan a little, so that its images lie inside the ball, and x0 is no fixed point. The authors' growing
    budget, which looks for the least one, is left out.
    Wong, Schmidt, Kolter, ICML 2019, arXiv:1902.07906.

    When to use: to repeat the paper that began these attacks. For a verdict take `wasserstein-dual`, which at small budgets
    breaks several times as many in less time: an entropy leaves budget unspent. Public code clips the image it ends with, which
    changes its brightness, and where its rounds end early the point may lie outside the ball: here its plan is measured.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(4)
    >>> attack = attacks.ProjectedSinkhorn(steps=10, inner=30)
    >>> near, far = (attack(model, x, y, threat=f"wasserstein:{epsilon}").broken for epsilon in (0.01, 0.5))
    >>> bool(near.any()), bool(far.any())
    (False, True)
    """

    steps: int = 200
    step_size: float = 0.1
    regularisation: float = 1000.0
    inner: int = 400
    loss: Loss = cross_entropy

    paper = "Wong et al., ICML 2019, arXiv:1902.07906"
    random = False
    sets = ("wasserstein",)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, WassersteinThreat)  # as `sets` says
        plan, here = threat.origin(x0), threat.kernel**2 // 2
        for _ in oracle.steps(self.steps):
            g = oracle.gradient(plan, self.loss).gradient[:, here]  # of what stays: that of the image
            x = threat.arrivals(plan) + self.step_size * threat.constraints.mutable(g).sign()
            plan = threat.project(sinkhorn(x, x0, threat, self.regularisation, self.inner), x0)
            x0, plan = oracle.compact(x0, plan)
        return plan


def sinkhorn(
    x: Tensor, x0: Tensor, threat: WassersteinThreat, regularisation: float, rounds: int, tolerance: float = 1e-4
) -> Tensor:
    """The plan of x0 whose image is the entropic projection of x [n, channels, height, width]: Pi_ij = exp(-alpha_i - beta_j -
    psi C_ij - 1), in logarithms and float64."""
    mass = total(x0).clamp(min=1e-12)
    y, source = (t.double() / per_row(mass, t) for t in (x, x0))
    closed, cost = ~threat.open(x0), threat.cost(y)
    alpha = beta = torch.full_like(y, -math.log(y[0].numel()))
    psi, value = torch.ones_like(mass), torch.full_like(mass, -torch.inf)
    going = torch.ones_like(mass, dtype=torch.bool)
    for _ in range(rounds):
        kernel = (-per_row(psi, cost[None]) * cost - 1).masked_fill(closed, -torch.inf)
        new_alpha = _log_sum(kernel - _gathered(beta, threat)) - source.log()
        arriving = _log_sum(_scattered(kernel - new_alpha[:, None], threat))
        new_beta = wright_omega(math.log(regularisation) + regularisation * y + arriving) - regularisation * y
        plan = (kernel - new_alpha[:, None] - _gathered(new_beta, threat)).exp()
        spent, curve = total(plan * cost), total(plan * cost.square())
        step = ((spent - threat.epsilon) / curve.clamp(min=1e-300)).nan_to_num(0.0)
        for _ in range(8):
            step = torch.where(psi + step < 0, step / 2, step)
        new_value = (
            -total(new_beta.square()) / (2 * regularisation)
            - psi * threat.epsilon
            - total(torch.where(source > 0, new_alpha * source, 0.0))
            - total(new_beta * y)
            - total(plan)
        )
        alpha, beta = (torch.where(per_row(going, old), new, old) for old, new in ((alpha, new_alpha), (beta, new_beta)))
        psi = torch.where(going, (psi + step).clamp(min=0), psi)
        going &= (new_value - value).abs() > tolerance + tolerance * new_value.abs()
        value = new_value
        if not going.any():
            break
    kernel = (-per_row(psi, cost[None]) * cost - 1).masked_fill(closed, -torch.inf) - _gathered(beta, threat)
    alpha = _log_sum(kernel) - source.log()  # the rows are those of x0
    return ((kernel - alpha[:, None]).exp() * per_row(mass, kernel)).to(x.dtype)


def _gathered(beta: Tensor, threat: WassersteinThreat) -> Tensor:
    """beta [n, channels, height, width] of where each pixel sends to, a plane an offset."""
    return torch.stack([shift(beta, -i, -j) for i, j in threat.offsets()], 1)


def _scattered(plan: Tensor, threat: WassersteinThreat) -> Tensor:
    """The logarithm of what arrives at each pixel, a plane an offset."""
    planes = zip(plan.unbind(1), threat.offsets(), strict=True)
    return torch.stack([shift(plane, i, j, fill=-torch.inf) for plane, (i, j) in planes], 1)


def _log_sum(planes: Tensor) -> Tensor:
    """log sum exp over the planes, added one by one: torch would sum a lone row in another order than in company."""
    most = planes.amax(1)
    most = torch.where(most > -torch.inf, most, 0.0)
    out = torch.zeros_like(most)
    for plane in planes.unbind(1):
        out += (plane - most).exp()
    return out.log() + most


def wright_omega(t: Tensor) -> Tensor:
    """w + log w = t, that is Lambert's W of e^t, by Newton's method on log w; 0 at -inf."""
    u = torch.where(t > 1, t.clamp(min=1).log(), t)  # log w
    for _ in range(8):
        w = u.exp()
        u = u - (w + u - t) / (1 + w)
    return u.exp().nan_to_num(0.0)
