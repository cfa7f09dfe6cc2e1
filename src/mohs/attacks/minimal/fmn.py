"""Fast minimum norm: projected gradient steps in a ball whose radius follows the boundary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.minimal.ddn import cosine
from mohs.attacks.minimal.deepfool import LEAST
from mohs.geometry import L2, per_row
from mohs.oracle import Oracle
from mohs.threat import L0, NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """x += alpha g / ||g||_2, g the gradient of the margin, then projected onto the ball of radius epsilon.

    Until a row has succeeded, epsilon is the distance so far and the linearised distance to the boundary, |margin| / ||g||_q
    with q the dual exponent. From then on it shrinks by gamma, to the best distance at most, at points that succeed, and
    grows by gamma at others. In l0 it starts at 1 and moves by at least 1. alpha falls from `step_size` to a hundredth of
    it, gamma from `gamma` to `gamma_final`, both as a cosine does.

    One forward and backward pass a step. step_size is in units of the input, the same in every norm, as the step has
    length alpha in l2. The projection is onto ball and box together, where the authors clip after projecting. Before
    a success the radius grows by a thousandth of the distance at least, or a boundary met exactly would not be crossed. Rows
    start at x0; with `warm`, those that earlier attacks of the same stage have broken start at the nearest success known and
    at its radius, as the authors start from adversarial points.
    Pintor, Roli, Brendel, Biggio, NeurIPS 2021, arXiv:2102.12827.

    When to use: the default for least distances: all four norms, a hundred passes, one gradient each. More steps, or a larger
    `step_size` in Linf, bring it nearer; `brendel-bethge` polishes what it found. Where gradients are flat at the input, as in
    networks trained adversarially on MNIST, it stops far off: run `fab-t` first and this one, `warm`, from there. A public copy
    has a projection in L2 that projects nothing: do not take it for an oracle.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/7 away in linf, 1/5 in l2, 1/4 in l1, one entry in l0
    >>> threats = ("linf:inf", "l2:inf", "l1:inf", "l0:inf")
    >>> [round(float(attacks.FMN()(model, x, y, threat=threat).distance), 2) for threat in threats]
    [0.14, 0.2, 0.25, 1.0]
    """

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    gamma_final: float = 0.001
    warm: bool = False

    paper = "Pintor et al., NeurIPS 2021, arXiv:2102.12827"
    random = False
    minimal = True

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        counts = isinstance(threat, L0)
        x, farthest = threat.origin(x0), threat.farthest(x0)
        best = torch.full_like(farthest, torch.inf)
        epsilon = torch.ones_like(farthest) if counts else best.clone()
        if self.warm:
            known = oracle.best.broken
            x = torch.where(per_row(known, x), oracle.best.point, x)
            best = torch.where(known, oracle.best.distance, best)
            epsilon = torch.where(known, best, epsilon)
        for k in oracle.steps(self.steps):
            alpha = self.step_size * (0.01 + 0.99 * cosine(k, self.steps))
            gamma = self.gamma_final + (self.gamma - self.gamma_final) * cosine(k, self.steps)
            answer = oracle.gradient(x, oracle.goal.margin)
            hit, g = answer.margin > 0, threat.constraints.mutable(answer.gradient)
            distance = threat.norm.distance(x - x0)
            best = torch.where(hit, torch.minimum(best, distance), best)
            smaller, larger = epsilon * (1 - gamma), epsilon * (1 + gamma)
            if counts:
                smaller = torch.minimum(epsilon - 1, smaller.floor()).clamp_(min=0)
                larger = torch.maximum(epsilon + 1, larger.floor())
            else:
                gap = answer.loss.double().abs() / threat.norm.dual(g).double().clamp_(min=1e-12)
                larger = torch.where(best < torch.inf, larger, distance + torch.maximum(gap, LEAST * distance))
            epsilon = torch.where(hit, torch.minimum(smaller, best), larger).minimum(farthest)
            x = threat.project(L2.steepest(g).mul_(alpha).add_(x), x0, epsilon)
            x0, x, best, epsilon, farthest = oracle.compact(x0, x, best, epsilon, farthest)
        return x
