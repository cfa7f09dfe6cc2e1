"""Jitter: PGD on a noisy square loss of rescaled scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Jitter(Attack):
    """PGD that climbs ||p + noise - e_y||^2, p = softmax(scale z / max|z|), noise normal at every step; where a class t is
    wanted it descends ||p + noise - e_t||^2.

    scale: the largest logit, in absolute terms, that the softmax sees. std: of the noise. step_size: in units of epsilon.
    The paper divides the loss of misclassified examples by the norm of their change, to bring it down; here such a row
    has reached its goal and is done, and in a stopped attack the division never comes about. The constants 10 and 0.1
    are the paper's; its number and size of steps were not to be had, and are those of PGD.
    A class that is far from likely has next to no gradient at this scale: take a smaller one for targeted goals.
    Schwinn, Raab, Nguyen, Zanca, Eskofier, 2021, arXiv:2105.10304.

    When to use: on models that are sure of themselves, where the cross-entropy has no gradient left: logits are brought to one
    scale, and noise keeps the steps from repeating. As cheap as `pgd` with the same steps; `apgd-t` finds more for nine times
    the passes. With targeted goals take a smaller `scale`.

    >>> import torch
    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()
    >>> with torch.no_grad():
    ...     _ = model[1].weight.mul_(1000), model[1].bias.mul_(1000)  # so sure that the cross-entropy underflows
    >>> [bool(attack(model, x, y, threat="linf:0.15").broken) for attack in (attacks.PGD(random_start=False), attacks.Jitter())]
    [False, True]
    """

    steps: int = 100
    step_size: float = 0.1
    scale: float = 10.0
    std: float = 0.1
    random_start: bool = True

    paper = "Schwinn et al., 2021, arXiv:2105.10304"
    sets = ("linf", "l2")

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        loss = partial(jittered, scale=self.scale, std=self.std)
        x = threat.random_point(x0, oracle.stream.at("start")) if self.random_start else threat.origin(x0)
        classes = oracle.judge.model.classes
        for k in oracle.steps(self.steps):
            oracle.aim = oracle.aim._replace(noise=oracle.stream.at("noise", k).normal(classes))
            gradient = oracle.gradient(x, loss).gradient
            x = threat.step(x, gradient, x0, self.step_size)
            x0, x = oracle.compact(x0, x)
        return x


def jittered(logits: Tensor, aim: Aim, *, scale: float, std: float) -> Tensor:
    """||softmax(scale z / max|z|) + std noise - e||^2 [rows], e of the true class; less that of the wanted one."""
    assert aim.noise is not None
    largest = logits.abs().amax(1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
    shown = (scale * logits / largest).softmax(1) + std * aim.noise
    towards = aim.y if aim.wanted is None else aim.wanted
    square = (shown - one_hot(towards, logits.shape[1])).square().sum(1)
    return square if aim.wanted is None else -square
