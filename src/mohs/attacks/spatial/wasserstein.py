"""Attacks in the Wasserstein ball by its dual: projected gradient and Frank-Wolfe on transport plans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Threat, WassersteinThreat

SEARCH = 30  # halvings of the bracket of the price


@dataclass(frozen=True, kw_only=True)
class WassersteinDual(Attack):
    """Pi += step_size g / max|g| on the transport plan, then its Euclidean projection onto the plans of x0 within the budget, by
    bisection on the dual price of distance: the threat's own.

    step_size: in units of the input. Wu, Wang, Yu, ICML 2020, arXiv:2008.02883; the constants are those of the
    authors' code, which clips the image on its way to the model: here the projection keeps it in the box.

    When to use: the default in the Wasserstein ball: the projection keeps all of the budget in use. It goes some thirty times
    over the plan, 25 times the input, which beside a small model is most of the cost. `pgd` on this set is the same with a
    random start and steps of another length, and needs several times as many to break as much.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.WassersteinDual(steps=40)(model, x, y, threat="wasserstein:0.1")
    >>> kept = outcome.adversarial.sum((1, 2, 3)) / x.sum((1, 2, 3))  # brightness is moved about and never made
    >>> bool(outcome.broken.any()), bool(((kept - 1).abs() < 1e-4).all())
    (True, True)
    """

    steps: int = 300
    step_size: float = 0.1
    loss: Loss = cross_entropy

    paper = "Wu et al., ICML 2020, arXiv:2008.02883"
    random = False
    sets = ("wasserstein",)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        plan = threat.origin(x0)
        for _ in oracle.steps(self.steps):
            g = scaled(oracle.gradient(plan, self.loss).gradient)
            plan = threat.project(g.mul_(self.step_size).add_(plan), x0)
            x0, plan = oracle.compact(x0, plan)
        return plan


@dataclass(frozen=True, kw_only=True)
class WassersteinFrankWolfe(Attack):
    """Pi += 2 / (t + 2) (S - Pi), S the plan of the budget that maximises <S, g> + gamma entropy(S), g the gradient over its
    largest entry: no projection, and no step size.

    For a price lambda of distance, S spreads each pixel by softmax((g - lambda C) / gamma); lambda >= 0 is bisected until
    <S, C> is the budget, from below. Iterates keep to the budget and may overfill pixels: gradients are those of the clipped
    image, as the authors take them. Success is told of the threat's projection, a forward pass a step more; theirs comes
    once, at the end.
    Wu, Wang, Yu, ICML 2020, arXiv:2008.02883; constants of the authors' code.

    When to use: beside `wasserstein-dual`, for another way into the ball at the same cost and without a step size. Where
    pixels fill up it breaks a little less, as its plans are made without the box and repaired after; where none do, a few
    steps suffice.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.WassersteinFrankWolfe(steps=40)(model, x, y, threat="wasserstein:0.1")
    >>> bool(outcome.broken.any()), bool((outcome.distance[outcome.broken] <= 0.1 * (1 + 1e-6)).all())
    (True, True)
    """

    steps: int = 300
    gamma: float = 1e-3
    loss: Loss = cross_entropy

    paper = "Wu et al., ICML 2020, arXiv:2008.02883"
    random = False
    sets = ("wasserstein",)

    def passes(self, classes: int) -> tuple[int, int]:
        steps = self.restarts * self.steps
        return 2 * steps, steps

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, WassersteinThreat)  # as `sets` says
        plan, oracle.roams = threat.origin(x0), True
        shown = plan
        for t in oracle.steps(self.steps):
            g = scaled(oracle.gradient(plan, self.loss).gradient)
            plan = plan + 2 / (t + 2) * (best_plan(g, x0, threat, self.gamma) - plan)
            shown = threat.project(plan, x0)
            oracle.scores(shown)
            x0, plan, shown = oracle.compact(x0, plan, shown)
        return shown


def best_plan(g: Tensor, x0: Tensor, threat: WassersteinThreat, gamma: float) -> Tensor:
    """The plan of x0 within the budget that maximises <., g> + gamma entropy, or a little inside it."""
    cost, closed = threat.cost(g), ~threat.open(x0)

    def spread(price: Tensor) -> Tensor:
        z = ((g - per_row(price, g) * cost) / gamma).masked_fill(closed, -torch.inf)
        weight = (z - z.amax(1, keepdim=True)).exp_()
        share = weight.unbind(1)[0]
        for plane in weight.unbind(1)[1:]:  # one by one: torch would sum a lone row in another order than in company
            share = share + plane
        return weight.mul_((x0 / share)[:, None])

    mass = total(x0)
    far = total((x0[:, None] * cost).flatten(1)) / mass.clamp(min=1e-12) / max(threat.epsilon, 1e-12)
    low = torch.zeros(len(g), dtype=g.dtype, device=g.device)
    high = 2 + gamma * far.log().clamp(min=0).to(g.dtype)  # at which no plan is too dear, since |g| <= 1
    for _ in range(SEARCH):
        middle = (low + high) / 2
        dear = threat.distance(spread(middle), x0) > threat.epsilon
        low, high = torch.where(dear, middle, low), torch.where(dear, high, middle)
    free = spread(torch.zeros_like(high))
    return torch.where(per_row(threat.distance(free, x0) <= threat.epsilon, g), free, spread(high))


def scaled(g: Tensor) -> Tensor:
    """g over its largest entry, a row at a time."""
    return g / per_row(g.flatten(1).abs().amax(1).clamp(min=1e-30), g)
