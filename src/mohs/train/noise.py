"""Training under Gaussian noise, the base of randomised smoothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Gaussian(Recipe):
    """Cross-entropy under noise N(0, sigma^2 I), added in the units of the input and not clipped, as the certificate needs it.

    sigma: 0.12, 0.25, 0.5 or 1 in the paper. Cohen, Rosenfeld, Kolter, ICML 2019, arXiv:1902.02918.
    """

    sigma: float = 0.25

    paper = "Cohen et al., ICML 2019, arXiv:1902.02918"
    cost = "F+Bw"
    sets = ()
    purpose = "a network that randomised smoothing can certify"

    def loss(self, batch: Batch) -> Tensor:
        noise = self.sigma * batch.stream.at("noise").normal(*batch.x0.shape[1:])
        return functional.cross_entropy(batch.network(batch.x0 + noise), batch.y)
