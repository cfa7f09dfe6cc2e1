"""PGD for L0: dense steps, then the few changes that gain most."""

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
from mohs.threat import NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class PGDL0(Attack):
    """x + step g / ||g||_1, projected onto the box and the epsilon entries, or pixels, whose keeping gains most; from the
    projection of a uniform point of the box.

    step_size: the mean change of an entry before the projection, in units of the range of the model: the authors' length
    of 30000/255 for the 784 entries of MNIST and 120000/255 for the 3072 of CIFAR, divided by their numbers. Where the
    range has no end, the start is the threat's own and step_size is absolute. The authors restart 5 times (restarts=5).
    Croce & Hein, ICCV 2019, arXiv:1909.05040.

    When to use: for a budget of entries or pixels where gradients are to be had: dense steps, cut to the best few. Cheap; for
    the least number of entries take `sigma-zero`, and where only scores are given `sparse-rs`, which at thousands of queries is
    often stronger than any gradient here, as the set is not convex.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # one entry is enough
    >>> outcome = attacks.PGDL0()(model, x, y, threat="l0:1")
    >>> bool(outcome.broken), int((outcome.adversarial != x).sum())
    (True, 1)
    """

    steps: int = 100
    step_size: float = 0.15
    loss: Loss = cross_entropy
    random_start: bool = True

    paper = "Croce & Hein, ICCV 2019, arXiv:1909.05040"
    sets = ("l0",)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        side = threat.bounds[1] - threat.bounds[0]
        scale = side if math.isfinite(side) else 1.0
        x = threat.origin(x0)
        if self.random_start:
            x = threat.random_point(x0, oracle.stream)
            if math.isfinite(side):
                low, high = threat.constraints.box(x0, threat.bounds)
                u = oracle.stream.uniform(*x0.shape[1:])
                x = threat.project(low + u * (high - low), x0)
        for _ in oracle.steps(self.steps):
            g = threat.constraints.mutable(oracle.gradient(x, self.loss).gradient)
            length = total(g.abs()) / g[0].numel()
            step = g * per_row(torch.where(length > 0, self.step_size * scale / length, 0.0), g)
            x = threat.project((x + step).to(x.dtype), x0)
            x0, x = oracle.compact(x0, x)
        return x
