"""The distance to the nearest class, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mohs.detectors.base import Method
from mohs.detectors.layers import mean, seen, seen_of_all
from mohs.detectors.logistic import Logistic, fit_logistic
from mohs.models import Model

RANK = 1e-6  # of the largest: smaller eigenvalues of a covariance are taken for none, as of units that are never active


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Method):
    """Features f of a layer, averaged over places, are Gaussian around the mean of their class with one covariance for all:
    M(x) = max_c -(f - mu_c)^T S^-1 (f - mu_c). The score is a logistic regression over the M of all layers, fitted on clean
    and attacked inputs.

    magnitude: of the input preprocessing x + magnitude sign(grad M), one for each layer, in units of the inputs; 0 goes
    without. The authors choose it among 0 to 0.01 by what detects best. Attacks take the sign for a constant.

    Lee, Lee, Lee, Shin, NeurIPS 2018, arXiv:1807.03888.
    """

    magnitude: float = 0.0

    paper = "Lee, Lee, Lee, Shin, NeurIPS 2018, arXiv:1807.03888"
    attacked = True

    @property
    def differentiable(self) -> bool:
        return self.magnitude == 0

    def statistic(self, model: Model, x: Tensor, y: Tensor, attacked: Tensor, fooled: Tensor) -> nn.Module:
        gaussians = nn.ModuleList(fit_gaussian(f, y) for f in seen_of_all(model, x, mean))
        made = Statistic(gaussians, Logistic(torch.zeros(len(gaussians)), torch.zeros(())), self.magnitude)
        made.to(model.device)
        made.logistic = fit_logistic(made.of_all(model, x[fooled]), made.of_all(model, attacked[fooled])).to(model.device)
        return made


class Gaussian(nn.Module):
    """Class means [classes, features] and the precision [features, features] they share."""

    means: Tensor
    precision: Tensor

    def __init__(self, means: Tensor, precision: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means.double())
        self.register_buffer("precision", precision.double())

    def forward(self, f: Tensor) -> Tensor:
        """The squared distance [n] of features [n, features] to the nearest mean, in float64."""
        gap = f.double()[:, None] - self.means
        return ((gap @ self.precision) * gap).sum(2).amin(1)


def fit_gaussian(f: Tensor, y: Tensor) -> Gaussian:
    """Class means and tied covariance of features f [n, features] with labels y [n]."""
    classes, index = y.unique(return_inverse=True)
    means = torch.stack([f[y == c].mean(0) for c in classes])
    gap = f - means[index]
    return Gaussian(means, torch.linalg.pinv(gap.T @ gap / len(f), rtol=RANK, hermitian=True))


class Statistic(nn.Module):
    def __init__(self, gaussians: nn.ModuleList, logistic: Logistic, magnitude: float) -> None:
        super().__init__()
        self.gaussians, self.logistic, self.magnitude = gaussians, logistic, magnitude

    def forward(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, distances = self.distances(model, x)
        return logits, self.logistic(distances)

    def distances(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and of each layer -M, [n, layers] float64."""
        logits, distances = self._plain(model, x)
        if self.magnitude:
            layers = range(distances.shape[1])
            distances = torch.stack([self._plain(model, self._nearer(model, x, layer))[1][:, layer] for layer in layers], 1)
        return logits, distances

    @torch.no_grad()
    def of_all(self, model: Model, x: Tensor) -> Tensor:
        return torch.cat([self.distances(model, part)[1] for part in x.split(128)])

    def _plain(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = seen(model, x, mean)
        return logits, torch.stack([gaussian(f) for gaussian, f in zip(self.gaussians, features, strict=True)], 1)

    def _nearer(self, model: Model, x: Tensor, layer: int) -> Tensor:
        """x + magnitude sign(grad M)."""
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            distance = self._plain(model, point)[1][:, layer]
            slope = torch.autograd.grad(distance.sum(), point)[0]
        return x - self.magnitude * slope.sign()
