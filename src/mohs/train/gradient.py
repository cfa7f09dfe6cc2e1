"""Input-gradient regularisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class GradientRegularised(Recipe):
    """CE(f(x), y) + weight * ||gradient of CE in x||_2^2, averaged over the rows: double backpropagation.

    weight: lambda, which the paper chooses for each data set; too much of it costs accuracy, and 1 made training on digits
    diverge.
    Ross & Doshi-Velez, AAAI 2018, arXiv:1711.09404; Drucker & LeCun, IEEE TNN 1992.
    """

    weight: float = 0.1

    paper = "Ross & Doshi-Velez, AAAI 2018, arXiv:1711.09404"
    cost = "2F+2Bx+2Bw"
    purpose = "a smoother loss, some robustness and gradients that can be read, without attacks"
    sets = ()

    @property
    def shards(self) -> bool:
        return False

    def loss(self, batch: Batch) -> Tensor:
        x = batch.x0.clone().requires_grad_()
        each = functional.cross_entropy(batch.network(x), batch.y, reduction="none")
        (gradient,) = torch.autograd.grad(each.sum(), x, create_graph=True)
        return (each + self.weight * gradient.flatten(1).square().sum(1)).mean()
