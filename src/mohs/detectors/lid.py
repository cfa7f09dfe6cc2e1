"""Local intrinsic dimensionality, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mohs.data.digits import held_out
from mohs.detectors.base import Method
from mohs.detectors.layers import flat, seen, seen_of_all
from mohs.detectors.logistic import Logistic, fit_logistic
from mohs.errors import DataError, RequestError
from mohs.models import Model
from mohs.rng import Stream

TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class LID(Method):
    """LID(x) = -((1/k) sum_{i <= k} log(r_i / r_k))^-1 of the distances r_1 <= ... <= r_k from the activations of x to the
    nearest of clean references, in every layer; the score is a logistic regression over the layers, fitted on clean and
    noisy inputs against attacked ones. Noise is as long as what the attack did, in l2.

    k: neighbours. references: clean inputs, spread evenly over the classes; the authors take the clean minibatch that an
    input comes in, here they stay the same, so that a row's score is not its batch mates' to say.

    Ma, Li, Wang, Erfani, Wijewickrema, Schoenebeck, Song, Houle, Bailey, ICLR 2018, arXiv:1801.02613.
    """

    k: int = 20
    references: int = 100

    paper = "Ma et al., ICLR 2018, arXiv:1801.02613"
    attacked = True

    def statistic(self, model: Model, x: Tensor, y: Tensor, attacked: Tensor, fooled: Tensor) -> nn.Module:
        if not 2 <= self.k <= self.references:
            raise RequestError(f"LID takes k neighbours among the references, from 2 to {self.references}, and k is {self.k}")
        if len(x) <= self.references:
            raise DataError(f"LID takes {self.references} references out of the data to fit on, which have {len(x)}; give more")
        aside = held_out(y.cpu(), self.references).to(x.device)
        kept, x, attacked = x[aside], x[fooled & ~aside], attacked[fooled & ~aside]
        if len(x) < self.fewest:
            raise DataError(
                f"LID is fitted on attacked inputs that fool the model, and beside the references {len(x)} do; give more"
            )
        made = Statistic(seen_of_all(model, kept, flat), self.k).to(model.device)
        clean = torch.cat([made.of_all(model, x), made.of_all(model, noisy(x, attacked, model.bounds))])
        made.logistic = fit_logistic(clean, made.of_all(model, attacked)).to(model.device)
        return made


def lid(r: Tensor) -> Tensor:
    """[n] of distances r [n, k], ascending."""
    r = r.clamp_min(TINY)
    found: Tensor = 1 / (r[:, -1:] / r).log().mean(1).clamp_min(TINY)
    return found


def noisy(x: Tensor, attacked: Tensor, bounds: tuple[float, float]) -> Tensor:
    """x with Gaussian noise as long as what the attack did to each row."""
    noise = Stream.of(0, torch.arange(len(x), device=x.device)).at("noise").normal(*x.shape[1:]).flatten(1)
    length = (attacked - x).flatten(1).norm(dim=1, keepdim=True)
    scaled: Tensor = noise / noise.norm(dim=1, keepdim=True) * length
    return (x + scaled.view_as(x)).clamp(*bounds)


class Statistic(nn.Module):
    def __init__(self, references: list[Tensor], k: int) -> None:
        super().__init__()
        self.k = k
        self.references = nn.ParameterList(nn.Parameter(layer, requires_grad=False) for layer in references)
        self.logistic = Logistic(torch.zeros(len(references)), torch.zeros(()))

    def forward(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, dimensions = self.dimensions(model, x)
        return logits, self.logistic(dimensions)

    def dimensions(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the LID in each layer, [n, layers] float64."""
        logits, layers = seen(model, x, flat)
        return logits, torch.stack([lid(self._nearest(f, there)) for f, there in zip(layers, self.references, strict=True)], 1)

    @torch.no_grad()
    def of_all(self, model: Model, x: Tensor) -> Tensor:
        return torch.cat([self.dimensions(model, part)[1] for part in x.split(128)])

    def _nearest(self, f: Tensor, there: Tensor) -> Tensor:
        far: Tensor = torch.cdist(f.double(), there, compute_mode="donot_use_mm_for_euclid_dist")
        found: Tensor = far.topk(self.k, dim=1, largest=False).values
        return found
