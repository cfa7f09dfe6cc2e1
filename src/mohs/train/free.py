"""Adversarial training for free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mohs.threat import NormThreat
from mohs.train.batch import Batch
from mohs.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Free(Recipe):
    """Every batch is replayed; the one backward pass of a replay moves the weights and the perturbation, which goes on from
    batch to batch. The perturbation lives in the ball; what the network sees is clipped to the box.

    replays: m; epochs are divided by it, so that the whole costs as much as standard training. step_size: in epsilons.
    Shafahi et al., NeurIPS 2019, arXiv:1904.12843.
    """

    replays: int = 8
    step_size: float = 1.0

    paper = "Shafahi et al., NeurIPS 2019, arXiv:1904.12843"
    cost = "F+Bx+Bw a replay, epochs/m"
    purpose = "robustness for the price of standard training, with some loss of accuracy"
    sets = ("linf", "l2", "l1", "l0")

    @property
    def updates(self) -> int:
        return self.replays

    def loss(self, batch: Batch) -> Tensor:
        return next(self.losses(batch))

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        threat = batch.threat
        assert isinstance(threat, NormThreat)
        n = len(batch.x0)
        kept = batch.memory.setdefault("change", torch.zeros_like(batch.x0))
        if len(kept) < n:  # the first batch was a shorter one
            kept = batch.memory["change"] = torch.cat([kept, torch.zeros_like(batch.x0[len(kept) :])])
        for _ in range(self.replays):
            shown = threat.shown(batch.x0 + kept[:n], batch.x0).detach().requires_grad_()
            yield functional.cross_entropy(batch.network(shown), batch.y)
            assert shown.grad is not None
            gradient = shown.grad.nan_to_num()  # half precision now and then overflows
            step = self.step_size * threat.epsilon * threat.norm.steepest(gradient)
            kept[:n] = threat.norm.project(kept[:n] + step, torch.zeros_like(step), threat.epsilon, -torch.inf, torch.inf)
