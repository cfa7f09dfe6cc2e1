"""Gaussian noise on the input."""

from __future__ import annotations

from torch import Tensor

from mohs.defend.base import Defence
from mohs.errors import ModelError
from mohs.models import Model
from mohs.rng import Stream


class GaussianNoise(Defence):
    """x + sigma n, n standard normal and fresh at every pass; not clipped. sigma: in the units of the input.

    As in Cohen, Rosenfeld, Kolter, ICML 2019, arXiv:1902.02918, but for their vote over many draws.
    """

    def __init__(self, model: Model, *, sigma: float = 0.1) -> None:
        if not sigma >= 0:
            raise ModelError(f"a noise of sigma {sigma} should be 0 or more")
        super().__init__(model, f"Gaussian noise {sigma:g}", random=True)
        self.sigma = sigma

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        return x + stream.normal(*x.shape[1:]).to(x) * self.sigma
