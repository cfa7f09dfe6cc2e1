"""Momentum iterative FGSM, its look-ahead form, and the core of the transfer attacks built on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.transfer.transforms import diversify, jump, shrink, smooth
from mohs.errors import Refused, RequestError
from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.losses import Loss, cross_entropy
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class MIFGSM(Attack):
    """g_{k+1} = decay g_k + u / mean|u|, x_{k+1} = project(x_k + step_size * steepest(g_{k+1})), u the gradient, from x0.

    step_size: in units of epsilon. u / mean|u| is the paper's u / ||u||_1 times the number of entries, as in the authors'
    code. The other fields change u, any of them together; `ni-fgsm`, `di-fgsm`, `ti-fgsm`, `si-fgsm`, `vmi-fgsm` and
    `vni-fgsm` are this attack under the settings of their papers:

    lookahead: u is taken at x + step_size decay g_k (Linf alone, where entries of g are of the size of a step's signs).
    diversity: the probability that a row is shown smaller, at `resize` of its size or more, at a random place on black.
    kernel: the side of the Gaussian that u is smoothed with, 0 for none. scales: u is the mean of the gradients of
    x / 2^i, i < scales, with respect to x. neighbours: so many gradients at x plus a uniform draw of the ball of
    `radius` epsilon, whose mean less u is added to the next u.
    A step costs `scales` forward and backward passes, and `neighbours` more. Where the input is changed on its way to the
    model, successes on the way are not seen: the last point is judged, as in a transfer.
    Dong, Liao, Pang, Su, Zhu, Hu, Li, CVPR 2018, arXiv:1710.06081.

    When to use: to transfer from a surrogate at little cost: momentum keeps the steps from following what is special to it.
    Against a model whose gradients are to be had `apgd` is stronger, and of the transfer family `vmi-fgsm` transfers better at
    twenty times the passes. Code that averages the gradient's size over the batch lets batch mates change a result.

    >>> from mohs import attacks, demo
    >>> prepared, x, y = demo.transfer_example()  # guided by a surrogate; the victim is asked once an example, at the end
    >>> outcome = attacks.MIFGSM()(prepared, x, y, threat="linf:0.2+knowledge:transfer")
    >>> bool(outcome.broken.any())
    True
    """

    steps: int = 10
    step_size: float = 0.1
    decay: float = 1.0
    loss: Loss = cross_entropy
    lookahead: bool = False
    diversity: float = 0.0
    resize: float = 0.9
    kernel: int = 0
    scales: int = 1
    neighbours: int = 0
    radius: float = 1.5

    paper = "Dong et al., CVPR 2018, arXiv:1710.06081"
    random = False
    sets: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.resize <= 1 or not 0 <= self.diversity <= 1:
            raise RequestError(f"{type(self).__name__}: resize and diversity are parts of 1, not {self.resize}, {self.diversity}")
        if self.kernel and self.kernel % 2 == 0:
            raise RequestError(f"{type(self).__name__}: kernel should be odd, so that it has a middle, not {self.kernel}")

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if self.lookahead and threat.name != "linf":
            raise Refused(f"{type(self).__name__}: looking ahead is defined for linf, and the threat is {threat}")

    def passes(self, classes: int) -> tuple[int, int]:
        each = self.restarts * self.steps * (self.scales + self.neighbours)
        return each, each

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        if (self.diversity or self.kernel) and x0.ndim < 3:
            raise Refused(f"{type(self).__name__} resizes or smooths images, and an input has shape {list(x0.shape[1:])}")
        oracle.roams = self.lookahead  # where it looks may lie outside the set
        x = threat.origin(x0)
        momentum, variance = torch.zeros_like(x), torch.zeros_like(x)
        for k in oracle.steps(self.steps):
            ahead = x + self.step_size * threat.epsilon * self.decay * momentum if self.lookahead else x
            u = self._gradient(oracle, ahead, k)
            around = self._around(oracle, x, threat, k) - u if self.neighbours else variance
            u = smooth(u + variance, self.kernel) if self.kernel else u + variance
            momentum, variance = self.decay * momentum + _scaled(u), around
            x = threat.step(x, momentum.clone(), x0, self.step_size)
            x0, x, momentum, variance = oracle.compact(x0, x, momentum, variance)
        return x

    def _gradient(self, oracle: Oracle, x: Tensor, step: int) -> Tensor:
        """The mean gradient over the scales, each of a resized input where rows are diverse."""
        if self.scales == 1 and not self.diversity:
            return oracle.gradient(x, self.loss).gradient
        u = torch.zeros_like(x)
        for i in range(self.scales):
            change = partial(shrink, power=i)
            if self.diversity:
                change = partial(diversify, power=i, probability=self.diversity, resize=self.resize, step=step)
            u += oracle.gradient(x, self.loss, transform=change).gradient
        return u / self.scales

    def _around(self, oracle: Oracle, x: Tensor, threat: Threat, step: int) -> Tensor:
        """The mean gradient over the neighbours."""
        u = torch.zeros_like(x)
        assert isinstance(threat, NormThreat)
        for i in range(self.neighbours):
            change = partial(jump, ball=threat.norm.ball, radius=self.radius * threat.epsilon, step=step, number=i)
            u += oracle.gradient(x, self.loss, transform=change).gradient
        return u / self.neighbours


@dataclass(frozen=True, kw_only=True)
class NIFGSM(MIFGSM):
    """MI-FGSM whose gradient is that of where the momentum leads. Linf.

    Lin, Song, He, Wang, Hopcroft, ICLR 2020, arXiv:1908.06281.

    When to use: as `mi-fgsm`, where its steps overshoot: the look-ahead corrects them for no further pass. The gain over
    `mi-fgsm` is small by itself; it is meant to be joined with `scales`, which is `si-fgsm`.

    >>> from mohs import attacks, demo
    >>> attacks.NIFGSM() == attacks.NIFGSM(lookahead=True), attacks.NIFGSM().passes(10)
    (True, (10, 10))
    >>> model, x, y = demo.linear_example()
    >>> bool(attacks.NIFGSM()(model, x, y, threat="linf:0.144").broken)
    True
    """

    lookahead: bool = True

    paper = "Lin et al., ICLR 2020, arXiv:1908.06281"
    sets = ("linf",)


def _scaled(u: Tensor) -> Tensor:
    """u / mean|u|; zero rows stay zero."""
    mean = total(u.abs()) / u[0].numel()
    return u / per_row(torch.where(mean > 0, mean, 1.0), u).to(u.dtype)
