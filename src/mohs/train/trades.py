"""TRADES: accuracy against robustness, traded by a weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mohs.train.batch import Batch, crafting
from mohs.train.recipe import Adversarial


@dataclass(frozen=True, kw_only=True)
class TRADES(Adversarial):
    """CE(f(x), y) + beta KL(p(x) || p(x')), where x' climbs that divergence from x and a little noise (at x itself its gradient
    is zero). The gradient of the outer loss flows through both p(x) and p(x').

    beta: 6 for CIFAR-10, 1 for MNIST. steps, step_size: of the inner maximisation, the size in units of epsilon; the
    crafting is in evaluation mode, as in the authors' code. noise: of the start, in the units of the input.
    Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, ICML 2019, arXiv:1901.08573.
    """

    beta: float = 6.0
    steps: int = 10
    step_size: float = 0.25
    noise: float = 0.001

    paper = "Zhang et al., ICML 2019, arXiv:1901.08573"
    cost = "k(F+Bx)+3F+2Bx+2Bw"
    purpose = "the best known trade of accuracy for robustness among the simple recipes"
    sets = ("linf", "l2", "l1", "l0")

    def attacked(self, batch: Batch) -> Tensor:
        with crafting(batch.network), torch.no_grad():
            clean = batch.network(batch.x0)
        noise = self.noise * batch.stream.at("start").normal(*batch.x0.shape[1:])
        start = batch.threat.project(batch.x0 + noise, batch.x0)
        return batch.ascend(lambda logits: divergence(clean, logits), start, steps=self.steps, step_size=self.step_size)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        clean, attacked = batch.network(batch.x0), batch.network(batch.shown(point))
        return functional.cross_entropy(clean, batch.y) + self.beta * divergence(clean, attacked).mean()


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(p || q) [n] of the probabilities of logits [n, classes]."""
    return functional.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
