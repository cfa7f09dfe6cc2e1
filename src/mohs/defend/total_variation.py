"""Total variation minimisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mohs.defend.base import Defence, back, unit
from mohs.errors import ModelError
from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.models import Model
from mohs.rng import Stream

TAU, SIGMA = 2.0, 1 / 18  # steps of the solver: TAU * SIGMA * ||K||^2 <= 1, and ||K||^2 <= 1 + 4 + 4


class TotalVariation(Defence):
    """An image becomes the smoothest one that agrees with a random choice of its pixels: z = argmin ||X (z - x)||_2 +
    weight TV(z), with X zero at `dropped` of the pixels and TV(z) the sum over channels of the lengths of the differences
    between neighbouring rows and between neighbouring columns. No derivative: attacks pass it as the identity.

    dropped: the chance of a pixel, with all its channels, to be left out; drawn at every pass. weight: lambda_TV, in units of
    the range. steps: of the solver, the primal-dual method of Chambolle & Pock (JMIV 2011), in place of the authors' split
    Bregman; at 100 the objective lies within about 1% of its least. Whether channels share a mask the paper does not say: here
    they do.
    Images [n, channels, height, width]. Guo, Rana, Cisse, van der Maaten, ICLR 2018, arXiv:1711.00117.

    When to use: on photographs, against somebody who does not know of it. What it paints over is not there to be read either,
    and its solver is slow.
    """

    def __init__(self, model: Model, *, dropped: float = 0.5, weight: float = 0.03, steps: int = 100) -> None:
        if not (0 <= dropped < 1 and 0 <= weight < math.inf and steps >= 1):
            raise ModelError(f"dropped {dropped}, weight {weight}, steps {steps}: should be in [0, 1), >= 0 and finite, and >= 1")
        name = f"total variation (dropped {dropped:g}, weight {weight:g}, {steps} steps)"
        super().__init__(model, name, differentiable=False, random=True)
        self.dropped, self.weight, self.steps = dropped, weight, steps

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        if x.ndim != 4:
            raise ModelError(f"total variation takes images [n, channels, height, width], and the inputs are {list(x.shape)}")
        kept = (stream.uniform(1, *x.shape[2:]) >= self.dropped).to(x)
        return back(minimise(unit(x, self.bounds), kept, self.weight, self.steps), self.bounds)


def minimise(x: Tensor, kept: Tensor, weight: float, steps: int) -> Tensor:
    """z [n, channels, height, width] of least `objective`; no row looks at another."""
    z = ahead = x * kept
    data, down, right = torch.zeros_like(x), torch.zeros_like(x[:, :, 1:]), torch.zeros_like(x[..., 1:])
    for _ in range(steps):
        data = data + SIGMA * kept * (ahead - x)
        data = data / per_row(total(data * data).sqrt().clamp_min(1).to(x.dtype), data)
        down, right = (_within(v + SIGMA * ahead.diff(dim=d), d, weight) for v, d in ((down, 2), (right, 3)))
        before, z = z, z - TAU * (kept * data - _spread(down, 2) - _spread(right, 3))
        ahead = 2 * z - before
    return z.clamp(0, 1)


def objective(z: Tensor, x: Tensor, kept: Tensor, weight: float) -> Tensor:
    """||X (z - x)||_2 + weight TV(z), [n]."""
    lengths: list[Tensor] = [torch.linalg.vector_norm(z.diff(dim=d), dim=5 - d).flatten(1).sum(1) for d in (2, 3)]
    data: Tensor = torch.linalg.vector_norm((kept * (z - x)).flatten(1), dim=1)
    return data + weight * (lengths[0] + lengths[1])


def _within(v: Tensor, dim: int, radius: float) -> Tensor:
    """Each difference of two rows (dim 2) or columns (dim 3) into the ball of that radius."""
    return v / (v.square().sum(5 - dim, keepdim=True).sqrt() / max(radius, 1e-12)).clamp_min(1)


def _spread(v: Tensor, dim: int) -> Tensor:
    """Minus the adjoint of `diff`."""
    edge = torch.zeros_like(v.narrow(dim, 0, 1))
    return torch.cat([v, edge], dim) - torch.cat([edge, v], dim)
