"""Smooth adversarial training: other activations in the place of ReLU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import ModelError, RequestError
from mohs.networks import activation
from mohs.train.batch import Batch
from mohs.train.recipe import Around, Modifier, Recipe


@dataclass(frozen=True, kw_only=True)
class Smooth(Modifier):
    """Every ReLU of the network becomes a smooth activation, in the forward and the backward pass, for good: its derivative at 0
    gives the inner maximisation better gradients.

    activation: `silu`, `gelu`, `elu`, `softplus:10`, or `smooth-relu` with a learned sharpness. anneal: the beta that a softplus
    grows to, geometrically, over the training, so that it ends nearer to ReLU; 0 leaves it.
    Xie, Tan, Gong, Yuille, Le, 2020, arXiv:2006.14536.
    """

    activation: str = "silu"
    anneal: float = 0.0

    paper = "Xie et al., 2020, arXiv:2006.14536"
    cost = "that of the activation"
    purpose = "better gradients for the attacks of the training: robustness at no loss of accuracy"

    def architecture(self, network: nn.Module) -> nn.Module:
        make = activation(self.activation)
        places = [(parent, name) for parent in network.modules() for name, part in parent.named_children() if is_relu(part)]
        if not places:
            raise ModelError("the network has no nn.ReLU to replace; one that calls torch.relu in its code has to be rewritten")
        for parent, name in places:
            setattr(parent, name, Sharpening(self.first) if self.anneal else make())
        return network

    @property
    def first(self) -> float:
        """The beta that annealing begins with."""
        made = activation(self.activation)()
        if not isinstance(made, nn.Softplus):
            raise RequestError(f"only a softplus can be annealed, not {self.activation}: say --activation softplus:5 --anneal 50")
        return made.beta

    def around(self, recipe: Recipe) -> Recipe:
        return _Annealed(of=recipe, smooth=self) if self.anneal else recipe


def is_relu(part: nn.Module) -> bool:
    return isinstance(part, nn.ReLU)


class Sharpening(nn.Module):
    """log(1 + exp(beta x)) / beta, whose beta is kept with the weights."""

    beta: Tensor

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta))

    def forward(self, x: Tensor) -> Tensor:
        return functional.softplus(x * self.beta) / self.beta


@dataclass(frozen=True, kw_only=True)
class _Annealed(Around):
    smooth: Smooth

    paper, cost, purpose = Smooth.paper, Smooth.cost, Smooth.purpose

    def loss(self, batch: Batch) -> Tensor:
        return next(self.losses(batch))

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        beta = self.smooth.first * (self.smooth.anneal / self.smooth.first) ** batch.progress
        for part in batch.network.modules():
            if isinstance(part, Sharpening):
                part.beta.fill_(beta)
        return self.of.losses(batch)
