"""PGD from where a bound says that the margin might be lowest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.certificates.crown import attained, margins
from mohs.certificates.graph import network_of
from mohs.certificates.region import region_of
from mohs.losses import Loss, logit_difference
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class FromBound(Attack):
    """PGD from the solutions of CROWN's relaxation: for each of the `targets` classes whose margin is bounded lowest, it starts
    where in the set the linear function below that margin is least.

    step_size: in units of epsilon; steps: from each start. Needs a network that `mohs certify` bounds.
    Our own, with the bounds of Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866.

    When to use: on small and medium networks whose gradients are flat at the input, after `apgd-t`: its starts lie in corners
    that no gradient at the input leads to. The profile `deep` runs it too where certificates are asked for. It costs a bound
    an example, which large networks do not repay, and of networks that no bound covers there is none.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.FromBound(targets=3, steps=10)(model, x, y, threat="linf:0.3")
    >>> int(outcome.broken.sum()) >= 8
    True
    """

    targets: int = 9
    steps: int = 50
    step_size: float = 0.1
    loss: Loss = logit_difference

    paper = "our own, after Zhang et al., NeurIPS 2018, arXiv:1811.00866"
    random = False
    sets = ("linf", "l2", "l1")
    opens = True

    def passes(self, classes: int) -> tuple[int, int]:
        each = min(self.targets, classes - 1) * self.steps * self.restarts
        return each, each

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        x, starts = x0, self.starts(oracle, x0, threat)
        for k in oracle.steps(starts.shape[1] * self.steps):
            if k % self.steps == 0:
                x = threat.project(starts[:, k // self.steps], x0)
            x = threat.step(x, oracle.gradient(x, self.loss).gradient, x0, self.step_size)
            x0, x, starts = oracle.compact(x0, x, starts)
        return x

    def starts(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        """[rows, targets, *input], by rising bound; one, of the goal's class, where the goal names one."""
        network, aim = network_of(oracle.judge.model, x0), oracle.aim
        A = margins(network.classes, aim.y, network.dtype)
        if aim.target is not None:
            at = (aim.target - (aim.target > aim.y).long()).clamp(0, network.classes - 2)
            A = A.take_along_dim(at.view(-1, 1, 1), 1)
        found = []
        for x, functions in zip(x0.to(network.dtype).split(1), A.split(1), strict=True):  # alone: others would change its bits
            lower, points = attained(network, region_of(threat, x), functions)
            found.append(points[:, lower[0].argsort()[: self.targets]])
        return torch.cat(found).to(x0.dtype)
