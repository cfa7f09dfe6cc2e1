"""Adversarial weight perturbation, around any recipe that attacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mohs.errors import RequestError
from mohs.train import together
from mohs.train.batch import Batch
from mohs.train.recipe import Adversarial, Around, Modifier, Recipe


@dataclass(frozen=True, kw_only=True)
class AWP(Modifier):
    """min_w max_{||v_l|| <= gamma ||w_l||} loss(w + v): after the inputs the weights are attacked, by one step along the gradient
    of the same loss, layer by layer; the gradient that the optimiser gets is that at w + v, and w is put back to the bit before
    it moves. Only weights of two dimensions and more. Running averages of batch norm do not see the pass that looks for v.

    gamma: 5e-3 for TRADES, 1e-2 for PGD. warmup: the share of the training that goes without.
    Wu, Xia, Wang, NeurIPS 2020, arXiv:2004.05884.
    """

    gamma: float = 5e-3
    warmup: float = 0.1

    paper = "Wu et al., NeurIPS 2020, arXiv:2004.05884"
    cost = "one more pass of the outer loss"
    purpose = "a flatter loss over the weights: robustness that generalises"

    def around(self, recipe: Recipe) -> Recipe:
        if not isinstance(recipe, Adversarial):
            raise RequestError(f"awp attacks the weights after the inputs, and {type(recipe).__name__} attacks no inputs")
        return _Perturbed(of=recipe, awp=self)


@dataclass(frozen=True, kw_only=True)
class _Perturbed(Around, Adversarial):
    of: Adversarial
    awp: AWP

    paper, cost, purpose = AWP.paper, AWP.cost, AWP.purpose

    @property
    def shards(self) -> bool:
        return False

    def attacked(self, batch: Batch) -> Tensor:
        return self.of.attacked(batch)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        if batch.progress < self.awp.warmup:
            return self.of.outer(batch, point)
        weights = [w for w in batch.network.parameters() if w.requires_grad and w.ndim > 1]
        with untouched_averages(batch.network):
            own = torch.autograd.grad(len(batch.x0) * self.of.outer(batch, point), weights)
        gradients = [together.summed(g) for g in own]  # of the joint batch, whose rows all processes share
        kept = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w.add_(g, alpha=float(self.awp.gamma * w.norm() / (g.norm() + 1e-20)))

        def restore() -> None:
            with torch.no_grad():
                for w, before in zip(weights, kept, strict=True):
                    w.copy_(before)

        batch.after_backward(restore)
        return self.of.outer(batch, point)


@contextmanager
def untouched_averages(network: nn.Module) -> Iterator[None]:
    """Buffers are afterwards what they were."""
    kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
