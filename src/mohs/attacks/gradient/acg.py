"""Auto-CG: conjugate directions at Auto-PGD's step sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.gradient.apgd import adopt, checkpoints
from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.losses import Loss, logit_difference
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class ACG(Attack):
    """Steepest steps along s_k = g_k + beta_k s_{k-1}, beta_k of Hestenes and Stiefel, whose size halves, from the best
    point so far, where APGD's would. 1 + steps forward and backward passes a try.

    g is the gradient of the loss, y_k = g_{k-1} - g_k, and beta_k = -<g_k, y_k> / <s_{k-1}, y_k>, which makes s_k
    conjugate (<s_k, y_k> = 0); 0 where it is undefined. A row that returns to its best point takes the gradient before
    it and the direction that led to it along. The authors' code, and ART's after it, have the opposite sign of beta.
    rho: the share of rising steps below which progress has stalled. The start is uniform in the ball; the step of norms
    other than Linf is theirs.
    Yamamura, Sato, Tateiwa, Hata, Mitsutake, Oe, Ishikura, Fujisawa, ICML 2022, arXiv:2206.09628.

    When to use: beside `apgd`, where a second climber of the same cost is wanted: its directions differ, and so do the examples
    it breaks. By itself it is about as strong; the union of both is worth more than either with a restart.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> [bool(attacks.ACG()(model, x, y, threat=f"l2:{epsilon}").broken) for epsilon in (0.199, 0.202)]
    [False, True]
    """

    steps: int = 100
    loss: Loss = logit_difference
    rho: float = 0.75

    paper = "Yamamura et al., ICML 2022, arXiv:2206.09628"
    sets = ("linf", "l2")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.restarts * (1 + self.steps), self.restarts * (1 + self.steps)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        ends, last = checkpoints(self.steps), 0
        x = threat.random_point(x0, oracle.stream.at("start"))
        answer = oracle.gradient(x, self.loss)
        f, g = answer.loss, answer.gradient
        g_old, s = g, g  # of the step before: the first direction is g_0
        x_best, f_best, g_best, g_old_best, s_best = x.clone(), f.clone(), g.clone(), g.clone(), g.clone()
        eta, rises, halved, f_last = torch.full_like(f, 2.0), torch.zeros_like(f), torch.ones_like(f, dtype=torch.bool), f
        for k in oracle.steps(self.steps):
            s = g + per_row(hestenes_stiefel(g, g_old, s), g) * s if k > 0 else g
            x = threat.step(x, s.clone(), x0, eta)
            f_old, g_old = f, g
            answer = oracle.gradient(x, self.loss)
            f, g = answer.loss, answer.gradient
            rises += f > f_old
            adopt(f > f_best, (x_best, x), (g_best, g), (g_old_best, g_old), (s_best, s), (f_best, f))
            if k + 1 in ends:
                halved = (rises <= self.rho * (k + 1 - last)) | ~halved & (f_best <= f_last)
                eta[halved] /= 2
                g, g_old, s = g.clone(), g_old.clone(), s.clone()
                adopt(halved, (x, x_best), (g, g_best), (g_old, g_old_best), (s, s_best))
                f_last, last = f_best.clone(), k + 1
                rises.zero_()
            state = (x0, x, f, g, g_old, s, x_best, f_best, g_best, g_old_best, s_best, eta, rises, halved, f_last)
            x0, x, f, g, g_old, s, x_best, f_best, g_best, g_old_best, s_best, eta, rises, halved, f_last = oracle.compact(*state)
        return x_best


def hestenes_stiefel(g: Tensor, g_old: Tensor, s_old: Tensor) -> Tensor:
    """-<g, y> / <s_old, y> [rows], y = g_old - g; 0 where <s_old, y> is. Hestenes & Stiefel, 1952."""
    y = g_old - g
    beta = -total(g * y) / total(s_old * y)
    return beta.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).to(g.dtype)
