"""Noise on the input."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mohs.defend.base import Defence
from mohs.errors import ModelError
from mohs.models import Model
from mohs.rng import Stream


class GaussianNoise(Defence):
    """x + sigma n, n standard normal and fresh at every pass; not clipped. sigma: in the units of the input.

    As in Cohen, Rosenfeld, Kolter, ICML 2019, arXiv:1902.02918, but for their vote over many draws.

    When to use: before a network that was trained under the same noise, as the cheap half of `smooth`. A single draw proves
    nothing: take `smooth` for a certificate.
    """

    def __init__(self, model: Model, *, sigma: float = 0.1) -> None:
        if not 0 <= sigma < math.inf:
            raise ModelError(f"a noise of sigma {sigma} should be 0 or more, and finite")
        super().__init__(model, f"Gaussian noise {sigma:g}", random=True)
        self.sigma = sigma

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        return x + stream.normal(*x.shape[1:]).to(x) * self.sigma


def gaussian(out: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return out.normal_(0.0, sigma, generator=generator)


def laplace(out: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """The difference of two exponential draws has a Laplace distribution."""
    rate = math.sqrt(2) / sigma
    other = torch.empty_like(out).exponential_(rate, generator=generator)
    return out.exponential_(rate, generator=generator).sub_(other)


def uniform(out: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return out.uniform_(-math.sqrt(3) * sigma, math.sqrt(3) * sigma, generator=generator)


# Independent draws of mean 0 and standard deviation sigma, in place.
NOISES: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "gaussian": gaussian,
    "laplace": laplace,
    "uniform": uniform,
}
