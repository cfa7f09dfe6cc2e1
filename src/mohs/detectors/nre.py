"""Neighbourhood-relational encoding: what a model sees of an input, against what it sees of its reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mohs.detectors.base import Method
from mohs.detectors.layers import flat, seen, seen_of_all
from mohs.errors import DataError
from mohs.models import Model
from mohs.models.autoencoder import BATCH, Autoencoder, fit_autoencoder
from mohs.rng import Stream

RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class NRE(Method):
    """An autoencoder X' = D(E(X)) trained so that the model A sees X' as it sees X and its neighbours, and unlike what is far:
    `nre_loss`, with R_A the last activations of A.

    The score, mohs's own, is the reconstruction mismatch D(R_A(X), R_A(X')): an attacked input's reconstruction lies near the
    clean data, and is seen as the class it came from. l1, l2, l3 weigh the terms of the loss; T: near and far samples of each
    input. The source gives no values for the four, nor says by what distance samples are near: here by the Euclidean one of
    inputs. steps: of Adam on batches of 64, from an autoencoder fitted to the squared error: ours too.

    Sabokrou, Khalooei, Adeli, ICCV 2019, arXiv:1908.10455.
    """

    l1: float = 1.0
    l2: float = 0.1
    l3: float = 0.1
    T: int = 4
    steps: int = 300

    paper = "Sabokrou, Khalooei, Adeli, ICCV 2019, arXiv:1908.10455"

    def statistic(self, model: Model, x: Tensor, y: Tensor, attacked: Tensor, fooled: Tensor) -> nn.Module:
        if len(x) <= 2 * self.T:
            raise DataError(f"NRE takes {self.T} near and {self.T} far samples of each of {len(x)} inputs; give more data")
        r = seen_of_all(model, x, flat)[-1]
        near, far = relations(x, self.T)
        autoencoder = fit_autoencoder(x, model.bounds, model.device)
        parameters = list(autoencoder.module.requires_grad_(True).parameters())
        adam = torch.optim.Adam(parameters, lr=RATE)
        order = Stream.of(0, torch.arange(self.steps)).at("nre").integers(len(x), BATCH).to(x.device)
        with torch.enable_grad():
            for rows in order:
                back = autoencoder.decode(autoencoder.encode(x[rows]))
                r_back = seen(model, back, flat)[1][-1].double()
                loss = nre_loss(r[rows], r_back, r[near[rows]], r[far[rows]], self.l1, self.l2, self.l3).mean()
                for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    parameter.grad = gradient
                adam.step()
        return Statistic(autoencoder)


def nre_loss(r: Tensor, back: Tensor, near: Tensor, far: Tensor, l1: float, l2: float, l3: float) -> Tensor:
    """[n]: l1 D(R(X), R(X')) + l2 sum_i D(R(X'), R(near_i)) + l3 sum_i S(R(X'), R(far_i)), S the cosine similarity and D = 1 - S.

    r, back [n, features] of X and of X'; near, far [n, T, features]."""
    drawn = l1 * (1 - cosine_similarity(r, back, dim=1))
    drawn = drawn + l2 * (1 - cosine_similarity(back[:, None], near, dim=2)).sum(1)
    return drawn + l3 * cosine_similarity(back[:, None], far, dim=2).sum(1)


def relations(x: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """The rows [n, T] of the nearest others and of the farthest, of inputs x [n, *input]."""
    flattened = x.flatten(1)
    near, far = [], []
    for rows in torch.arange(len(x), device=x.device).split(256):
        distance = torch.cdist(flattened[rows], flattened)
        far.append(distance.topk(T, dim=1).indices)
        near.append(distance.scatter_(1, rows[:, None], torch.inf).topk(T, dim=1, largest=False).indices)
    return torch.cat(near), torch.cat(far)


class Statistic(nn.Module):
    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder, self.network = autoencoder, autoencoder.module

    def forward(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, layers = seen(model, x, flat)
        back = self.autoencoder.decode(self.autoencoder.encode(x))
        r, r_back = layers[-1].double(), seen(model, back, flat)[1][-1].double()
        return logits, 1 - cosine_similarity(r, r_back, dim=1)
