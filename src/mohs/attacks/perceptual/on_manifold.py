"""The on-manifold attack: gradients in the latents of an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import adam
from mohs.attacks.base import Attack
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class OnManifold(Attack):
    """max over |p|_inf <= epsilon of the loss at dec(z + p), by Adam from a random p, projected onto the ball after every step.

    rate: Adam's, in units of the latents, 0.005 as the authors have it, with which 40 steps go 0.2 at most; restarts: their
    attempts, 5.
    Stutz, Hein, Schiele, CVPR 2019, arXiv:1812.00740.

    When to use: to ask for errors among inputs that look like data, as good as the autoencoder is. With these constants it moves
    slowly: `pgd` in the same set breaks more, and the two together tell what the set holds.

    >>> from mohs import attacks, demo, parse_threat
    >>> from mohs.models.autoencoder import fit_autoencoder
    >>> model, x, y = demo.example(16)
    >>> threat = parse_threat("manifold:0.3").given(fit_autoencoder(x, (0.0, 1.0)))
    >>> outcome = attacks.OnManifold(restarts=2)(model, x, y, threat=threat)
    >>> list(outcome.point.shape), float(outcome.point.abs().max()) <= 0.3 + 1e-6  # changes of ten latents
    ([16, 10], True)
    """

    steps: int = 40
    rate: float = 0.005
    restarts: int = 5
    loss: Loss = cross_entropy

    paper = "Stutz et al., CVPR 2019, arXiv:1812.00740"
    sets = ("manifold",)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        p = threat.random_point(x0, oracle.stream)
        first, second = torch.zeros_like(p), torch.zeros_like(p)
        for k in oracle.steps(self.steps):
            gradient = oracle.gradient(p, self.loss).gradient
            direction, metric = adam(gradient, first, second, k)
            p = threat.project(p.addcdiv(direction, metric, value=self.rate), x0)
            x0, p, first, second = oracle.compact(x0, p, first, second)
        return p
