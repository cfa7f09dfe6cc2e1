"""LPA: the perceptual bound as a penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.geometry import per_row
from mohs.geometry.l2 import unit
from mohs.geometry.solve import clip_, length
from mohs.oracle import Oracle
from mohs.threat import PerceptualThreat, Threat


@dataclass(frozen=True, kw_only=True)
class LPA(Attack):
    """min over x of -min(margin, kappa) + lambda max(d(x, x0) - epsilon, 0), lambda ten times as large after every `steps` where
    the point is still outside. Steps along the unit gradient, of such length that d changes by
    step_size * epsilon * 0.1^(t / steps), which a difference over `h` tells. From x0 + N(0, 0.01^2).

    penalty: the first lambda. searches: values of it. h: in units of the range. The point may leave the set on its way; what lies
    inside counts, and the last point is projected. The network is asked three times a step forward and once backward beside
    the counted passes.
    Laidlaw, Singla, Feizi, ICLR 2021, arXiv:2006.12655.

    When to use: the strongest of the perceptual set, for a verdict. Twenty times the passes of `ppgd`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> both = (attack(model, x, y, threat="perceptual:0.4") for attack in (attacks.FastLPA(), attacks.LPA()))
    >>> fast, slow = (int(outcome.broken.sum()) for outcome in both)
    >>> slow >= fast + 4
    True
    """

    steps: int = 20
    searches: int = 5
    penalty: float = 0.01
    step_size: float = 1.0
    h: float = 0.1
    kappa: float = 1.0

    paper = "Laidlaw et al., ICLR 2021, arXiv:2006.12655"
    sets = ("perceptual",)
    roams = True

    def passes(self, classes: int) -> tuple[int, int]:
        most = self.searches * self.steps * self.restarts
        return most, most

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, PerceptualThreat)  # as `sets` says
        x = start(threat, x0, oracle)
        weight = torch.full((len(x0),), self.penalty, device=x0.device)
        for _ in range(self.searches):
            far = torch.zeros_like(weight)
            for t in oracle.steps(self.steps):
                size = self.step_size * threat.epsilon * 0.1 ** (t / self.steps)
                x, distance = descend(oracle, threat, x, x0, weight, size, self.h, self.kappa)
                far = (distance >= threat.epsilon).to(weight)
                x0, x, weight, far = oracle.compact(x0, x, weight, far)
            weight = torch.where(far > 0, 10 * weight, weight)
        return threat.project(x, x0)


@dataclass(frozen=True, kw_only=True)
class FastLPA(Attack):
    """LPA in one go: lambda grows with every step, penalty * 0.1^(1 - t / steps), from a tenth of `penalty` to all of it, and the
    margin has no cap. The attack of perceptual adversarial training, with 10 steps there.

    The paper leaves the last point outside where it ends there; here it is projected, as a success must lie inside.
    Laidlaw, Singla, Feizi, ICLR 2021, arXiv:2006.12655.

    When to use: inside adversarial training, for which it was made. As an evaluation it leaves too many: where its last
    point lies outside, the projection undoes the success.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.FastLPA()(model, x, y, threat="perceptual:0.5")
    >>> bool(outcome.broken.any()), float(outcome.distance[outcome.broken].max()) <= 0.5 * (1 + 1e-6)
    (True, True)
    """

    steps: int = 20
    penalty: float = 10.0
    step_size: float = 1.0
    h: float = 0.1

    paper = "Laidlaw et al., ICLR 2021, arXiv:2006.12655"
    sets = ("perceptual",)
    roams = True

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, PerceptualThreat)  # as `sets` says
        x = start(threat, x0, oracle)
        for t in oracle.steps(self.steps):
            weight = torch.full((len(x0),), self.penalty * 0.1 ** (1 - t / self.steps), device=x0.device)
            size = self.step_size * threat.epsilon * 0.1 ** (t / self.steps)
            x, _ = descend(oracle, threat, x, x0, weight, size, self.h, math.inf)
            x0, x = oracle.compact(x0, x)
        return threat.project(x, x0)


def start(threat: PerceptualThreat, x0: Tensor, oracle: Oracle) -> Tensor:
    """x0 + N(0, 0.01^2) in the box, inside the set or not."""
    return threat.random_point(x0, oracle.stream, math.inf)


def descend(
    oracle: Oracle,
    threat: PerceptualThreat,
    x: Tensor,
    x0: Tensor,
    weight: Tensor,
    size: float,
    h: float,
    kappa: float,
) -> tuple[Tensor, Tensor]:
    """x after one step down -min(margin, kappa) + weight max(d - epsilon, 0) that changes d by `size`; and d [rows] before it."""

    def loss(logits: Tensor, aim: Aim) -> Tensor:
        return oracle.goal.margin(logits, aim).clamp(max=kappa)

    up = oracle.gradient(x, loss).gradient
    with torch.no_grad():
        seen = threat.phi(x0)
    at = x.detach().requires_grad_()
    with torch.enable_grad():
        phi = threat.phi(at)
        distance = length(phi - seen)
        away = torch.autograd.grad(distance.sum(), at)[0]
    distance = distance.detach()
    over = (weight * (distance > threat.epsilon)).to(x.dtype)
    down = unit(threat.constraints.mutable(up - away * per_row(over, away)))
    far = h * (threat.bounds[1] - threat.bounds[0])
    with torch.no_grad():
        slope = length(threat.phi(x - down * far) - phi.detach()) / far
    step = down * per_row((size / (slope + 1e-8)).to(x.dtype), down)
    return clip_(x + step, *threat.constraints.box(x0, threat.bounds)), distance
