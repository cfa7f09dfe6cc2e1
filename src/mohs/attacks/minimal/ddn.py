"""Decoupled direction and norm: steps on a sphere whose radius shrinks after a success and grows after a failure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.geometry import L2, per_row
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """delta goes along the unit gradient by a step that falls from 1 to 0.01 as a cosine does, then onto the sphere of radius
    epsilon, which is (1 - gamma) times its last where x + delta succeeded and (1 + gamma) times it elsewhere.

    One forward and backward pass a step, which also says whether the last step succeeded. norm: the first radius, in
    units of the input. A row without a gradient goes in a random direction of length 1. delta is clipped to the box after
    the rescaling, so that its length may fall below the radius. The authors round delta to the grid of an 8-bit file at
    every step; here a threat with `quantise` shows the model rounded inputs and the attack keeps the point itself.
    Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger, CVPR 2019, arXiv:1811.09600.

    When to use: the quick answer in L2: a hundred passes, no constant to search, distances like those of `cw`. For the last per
    cent give it 1,000 steps or take `alma` or `fmn`. A public copy replaces a vanishing gradient by noise of the wrong length,
    which throws rows off.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> round(float(attacks.DDN()(model, x, y, threat="l2:inf").distance), 3)
    0.2
    """

    steps: int = 100
    gamma: float = 0.05
    norm: float = 1.0
    loss: Loss = cross_entropy

    paper = "Rony et al., CVPR 2019, arXiv:1811.09600"
    random = False
    sets = ("l2",)
    minimal = True

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        x, farthest = threat.origin(x0), threat.farthest(x0)
        epsilon = torch.full_like(farthest, self.norm)
        for k in oracle.steps(self.steps):
            answer = oracle.gradient(x, self.loss)
            g = unit(threat.constraints.mutable(answer.gradient), oracle.stream.at("direction", k))
            alpha = 0.01 + 0.99 * cosine(k, self.steps)
            delta = g.mul_(alpha).add_(x).sub_(x0)
            epsilon = torch.where(answer.margin > 0, 1 - self.gamma, 1 + self.gamma) * epsilon
            epsilon = torch.minimum(epsilon, farthest)
            size = threat.norm.distance(delta).clamp_(min=1e-30)
            x = threat.project(delta.mul_(per_row((epsilon / size).to(x.dtype), x)).add_(x0), x0, math.inf)
            x0, x, epsilon, farthest = oracle.compact(x0, x, epsilon, farthest)
        return x


def cosine(k: int, steps: int) -> float:
    """From 1 at step 0 towards 0 at `steps`."""
    return (1 + math.cos(math.pi * k / steps)) / 2


def unit(g: Tensor, stream: Stream) -> Tensor:
    """g / ||g||_2, in place; a random unit vector in a row that is zero."""
    flat = (g.flatten(1).abs().amax(1) == 0).nonzero()[:, 0]
    if len(flat):
        g[flat] = stream.take(flat).normal(*g.shape[1:])
    return L2.steepest(g)
