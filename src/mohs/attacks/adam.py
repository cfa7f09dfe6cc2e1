"""Adam's averages, a row by itself."""

from __future__ import annotations

import math

from torch import Tensor


def adam(g: Tensor, first: Tensor, second: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Direction and metric of step k: m / (1 - 0.9^(k+1)) and sqrt(v / (1 - 0.999^(k+1))) + 1e-8, after g is taken into the
    averages m = `first` and v = `second`, in place. Kingma & Ba, ICLR 2015, arXiv:1412.6980."""
    first.lerp_(g, 0.1)
    second.mul_(0.999).addcmul_(g, g, value=0.001)
    metric = second.sqrt().div_(math.sqrt(1 - 0.999 ** (k + 1))).add_(1e-8)
    return first / (1 - 0.9 ** (k + 1)), metric
