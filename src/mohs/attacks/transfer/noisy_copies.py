"""Gradients of copies of the model whose weights are shaken, put to the model itself at every step."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.losses import Loss, logit_difference
from mohs.models import Guide, TorchModel
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class NoisyCopies(Attack):
    """PGD on one of `copies` copies of the model in turn, normal noise added to their weights, of `noise` times the standard
    deviation of each tensor. Where the model's own gradients vanish or mislead, those of its neighbours may not.

    step_size: in units of epsilon. The copies are the same whatever the seed. Each step costs two forward passes, one of a copy
    and one of the model.
    Our own, after the copies of LGV (Gubri et al., ECCV 2022, arXiv:2207.13129), which are trained on.

    When to use: on a defended model whose own gradients lead nowhere although small changes of its weights would change little
    of what it says. On honestly trained networks it finds nothing that PGD does not.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.NoisyCopies(steps=20)(model, x, y, threat="linf:0.3")
    >>> int(outcome.broken.sum()) >= 8
    True
    """

    steps: int = 50
    copies: int = 5
    noise: float = 0.02
    step_size: float = 0.1
    loss: Loss = logit_difference

    paper = "our own, after Gubri et al., ECCV 2022, arXiv:2207.13129"
    sets = ("linf", "l2", "l1")
    opens = True

    def passes(self, classes: int) -> tuple[int, int]:
        return 2 * self.steps * self.restarts, self.steps * self.restarts

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        judge = oracle.judge
        assert isinstance(judge.model, TorchModel)  # as `check` says
        shaken = [Guide(_shaken(judge.model, self.noise, i), judge.rows, judge.quantum) for i in range(self.copies)]
        x = threat.random_point(x0, oracle.stream)
        for k in oracle.steps(self.steps):
            unjudged = replace(oracle.guided_by(shaken[k % self.copies]), judged=False)
            x = threat.step(x, unjudged.gradient(x, self.loss).gradient, x0, self.step_size)
            oracle.scores(x)
            x0, x = oracle.compact(x0, x)
        return x


def _shaken(model: TorchModel, noise: float, number: int) -> TorchModel:
    module = copy.deepcopy(model.module).requires_grad_(False)
    generator = torch.Generator().manual_seed(number)
    for weight in module.parameters():
        if weight.numel() > 1:
            weight.add_(torch.randn(weight.shape, generator=generator).to(weight), alpha=noise * float(weight.std()))
    return model.twin(module)
