"""Training of networks for randomised smoothing: against the smoothed classifier, and for its certified radius."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.train.batch import Batch
from mohs.train.recipe import Adversarial, Recipe


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(Adversarial):
    """Attack the smoothed classifier, learn at what was found: x' climbs -log(mean over i of p_y(f(x' + n_i))), whose noise
    n_i ~ N(0, sigma^2 I) stays the same during the attack, from x by `steps` steps of 2 epsilon / steps; then the mean of
    CE(f(x' + n_i), y) over the same noise is lessened. Noise is not clipped.

    sigma: of the noise. samples: m, 1 to 8. steps: 2 to 10. warmup: the share of the training in which epsilon grows from 0.
    Salman, Yang, Li, Zhang, Zhang, Razenshteyn, Bubeck, NeurIPS 2019, arXiv:1906.04584.
    """

    sigma: float = 0.25
    samples: int = 2
    steps: int = 2
    warmup: float = 0.1

    paper = "Salman et al., NeurIPS 2019, arXiv:1906.04584"
    cost = "m((k+1)(F+Bx)+Bw)"
    purpose = "larger certified radii by randomised smoothing than `gaussian`"
    sets = ("l2", "linf")

    def attacked(self, batch: Batch) -> Tensor:
        grown = min(1.0, batch.progress / self.warmup) if self.warmup else 1.0
        smoothed = Smoothed(batch.network, self._noise(batch))
        asked = replace(batch, network=smoothed, given=replace(batch.threat, epsilon=grown * batch.threat.epsilon))
        return asked.ascend(batch.misled, batch.x0, steps=self.steps, step_size=2 / self.steps)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        logits = each(batch.network, batch.shown(point), self._noise(batch))
        return functional.cross_entropy(logits.flatten(0, 1), batch.y.repeat_interleave(self.samples, 0))

    def _noise(self, batch: Batch) -> Tensor:
        return self.sigma * batch.stream.at("noise").normal(self.samples, *batch.x0.shape[1:])


@dataclass(frozen=True, kw_only=True)
class MACER(Recipe):
    """-log of the mean probability of y over noisy copies + weight * sigma / 2 * max(gamma - (r(p_1) - r(p_2)), 0), where r
    is the quantile of the normal distribution, p_1 and p_2 the two largest mean probabilities, of logits times beta: the
    certified radius grows, where the smoothed classifier is right and its radius below gamma sigma / 2. Rows whose quantile is
    infinite are left out, as in the authors' code.

    sigma: of the noise. samples: k. weight: lambda, 12 at sigma 0.25 and 4 at 0.5. beta, gamma: the paper's.
    Zhai, Dan, He, Zhang, Gong, Ravikumar, Hsieh, Wang, ICLR 2020, arXiv:2001.02378.
    """

    sigma: float = 0.25
    samples: int = 16
    weight: float = 12.0
    beta: float = 16.0
    gamma: float = 8.0

    paper = "Zhai et al., ICLR 2020, arXiv:2001.02378"
    cost = "m(F+Bw), m noisy copies"
    purpose = "larger certified radii by randomised smoothing, without attacks"
    sets = ()
    mixes = False

    def loss(self, batch: Batch) -> Tensor:
        noise = self.sigma * batch.stream.at("noise").normal(self.samples, *batch.x0.shape[1:])
        logits = each(batch.network, batch.x0, noise)
        mean = (logits.softmax(2).mean(1) + 1e-10).log()
        return (functional.nll_loss(mean, batch.y, reduction="none") + self.weight * self.narrowness(logits, batch.y)).mean()

    def narrowness(self, logits: Tensor, y: Tensor) -> Tensor:
        """sigma / 2 * the hinge [n] of logits [n, samples, classes]; 0 where it does not count."""
        top = (self.beta * logits).softmax(2).mean(1).topk(2, dim=1)
        with torch.no_grad():
            gap = quantile(top.values[:, 0]) - quantile(top.values[:, 1])
            counts = (top.indices[:, 0] == y) & gap.isfinite() & (gap <= self.gamma)
        one, two = torch.where(counts[:, None], top.values, 0.5).unbind(1)  # elsewhere a value without infinite slopes
        return counts * (self.sigma / 2) * (self.gamma - quantile(one) + quantile(two))


class Smoothed(nn.Module):
    """Log of the mean probabilities [n, classes] of inputs under noise [n, samples, *input]."""

    def __init__(self, network: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.network, self.noise = network, noise

    def forward(self, x: Tensor) -> Tensor:
        return each(self.network, x, self.noise).log_softmax(2).logsumexp(1) - math.log(self.noise.shape[1])


def each(network: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """Logits [n, samples, classes] of x [n, *input] + noise [n, samples, *input]."""
    logits: Tensor = network((x[:, None] + noise).flatten(0, 1))
    return logits.view(*noise.shape[:2], -1)


def quantile(p: Tensor) -> Tensor:
    """Of the standard normal distribution."""
    value: Tensor = torch.special.ndtri(p)
    return value
