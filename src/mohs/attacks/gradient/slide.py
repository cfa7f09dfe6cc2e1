"""SLIDE: sparse L1 descent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.errors import RequestError
from mohs.geometry import L1Norm
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class SLIDE(Attack):
    """PGD in L1 whose steps share step_size epsilon among the entries with the largest |g|: those at or above `quantile`.

    Entries that the box stops are left out of the choice, as in the authors' code; the projection is exact, onto ball and
    box together. The paper's number and size of steps were not to be had; these are 2.5 epsilon in 50 steps.
    Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000.

    When to use: in L1, and inside training there: a step moves a hundredth of the entries, where the one entry of a steepest
    step is far too slow and one on all of them too dense. `apgd` with `multi_epsilon` adapts how many it moves and is stronger.
    Public code clips the step of the start point in place of the point, and so loses its random start.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/4 away in l1
    >>> [bool(attacks.SLIDE()(model, x, y, threat=f"l1:{epsilon}").broken) for epsilon in (0.249, 0.252)]
    [False, True]
    """

    steps: int = 50
    step_size: float = 0.05
    quantile: float = 0.99
    loss: Loss = cross_entropy
    random_start: bool = True

    paper = "Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000"
    sets = ("l1",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.quantile <= 1:
            raise RequestError(f"SLIDE: quantile should be between 0 and 1, not {self.quantile}")

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        norm = L1Norm(quantile=self.quantile)
        x = threat.random_point(x0, oracle.stream) if self.random_start else threat.origin(x0)
        for _ in oracle.steps(self.steps):
            g = threat.constraints.mutable(oracle.gradient(x, self.loss).gradient)
            low, high = threat.constraints.box(x0, threat.bounds)
            stopped = (x >= high) & (g > 0) | (x <= low) & (g < 0)
            direction = norm.steepest(torch.where(stopped, 0.0, g))
            x = threat.project(direction.mul_(self.step_size * threat.epsilon).add_(x), x0)
            x0, x = oracle.compact(x0, x)
        return x
