"""Adam, written out so that every row has its own state: in lockstep, and with a clock a row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mohs.geometry import per_row

BETA1, BETA2, TINY = 0.9, 0.999, 1e-8


def adam(g: Tensor, mean: Tensor, square: Tensor, k: int, *, tiny: float = TINY) -> tuple[Tensor, Tensor]:
    """Direction and metric of step k: m / (1 - beta1^(k+1)) and sqrt(v / (1 - beta2^(k+1))) + tiny, after g is taken into
    the averages m = `mean` and v = `square`, in place. Kingma & Ba, ICLR 2015, arXiv:1412.6980."""
    mean.lerp_(g, 1 - BETA1)
    square.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    metric = square.sqrt().div_(math.sqrt(1 - BETA2 ** (k + 1))).add_(tiny)
    return mean / (1 - BETA1 ** (k + 1)), metric


class Adam:
    """Kingma & Ba, ICLR 2015, arXiv:1412.6980, for rows [n, ...] that start, restart and leave by themselves.

    rate: the step size. The powers of beta are kept as products, whose bits do not depend on a row's place.
    """

    def __init__(self, like: Tensor, rate: float) -> None:
        self.rate = rate
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.power1 = torch.ones(len(like), dtype=torch.float64, device=like.device)
        self.power2 = self.power1.clone()

    def step(self, g: Tensor) -> Tensor:
        """What to add to descend along g."""
        self.power1 *= BETA1
        self.power2 *= BETA2
        self.mean.mul_(BETA1).add_(g, alpha=1 - BETA1)
        self.square.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        scale = (1 - self.power2).sqrt()
        size = per_row((-self.rate * scale / (1 - self.power1)).to(g.dtype), g)
        tiny = per_row((TINY * scale).to(g.dtype), g)
        return self.square.sqrt().add_(tiny).reciprocal_().mul_(self.mean).mul_(size)

    def restart(self, rows: Tensor) -> None:
        """Forget what these rows [n] bool have seen."""
        self.mean[rows], self.square[rows] = 0.0, 0.0
        self.power1[rows], self.power2[rows] = 1.0, 1.0

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.mean, self.square = self.mean[rows], self.square[rows]
        self.power1, self.power2 = self.power1[rows], self.power2[rows]
