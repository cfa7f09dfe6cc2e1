"""Universal adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mohs.threat import NormThreat
from mohs.train import together
from mohs.train.batch import Batch
from mohs.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Universal(Recipe):
    """min over weights, max over one change d of the mean of CE(f(x + d), y): the backward pass of every batch moves the weights
    and d, by a steepest step, projected onto the ball. The simultaneous method of the paper, which costs what standard training
    does; its alternating one, with a pass of its own for d, costs twice that.

    step_size: of d, in epsilons; the paper's was not to be read, and this one is ours.
    Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein, AAAI 2020, arXiv:1811.11304.
    """

    step_size: float = 0.25

    paper = "Shafahi et al., AAAI 2020, arXiv:1811.11304"
    cost = "F+Bx+Bw"
    purpose = "against one change for all inputs (`mohs universal`); changes made for an input get through"
    sets = ("linf", "l2", "l1")
    hardens = False

    def loss(self, batch: Batch) -> Tensor:
        return next(self.losses(batch))

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        threat = batch.threat
        assert isinstance(threat, NormThreat)  # as `sets` says
        kept = batch.memory.setdefault("change", torch.zeros_like(batch.x0[:1]))
        change = kept.clone().requires_grad_()
        yield functional.cross_entropy(batch.network(threat.shown(batch.x0 + change, batch.x0)), batch.y)
        assert change.grad is not None
        gradient = together.summed(change.grad).nan_to_num()  # one change for all; half precision now and then overflows
        step = self.step_size * threat.epsilon * threat.norm.steepest(gradient)
        kept.copy_(threat.norm.project(kept + step, torch.zeros_like(step), threat.epsilon, -torch.inf, torch.inf))
