"""MagNet: what is far from what an autoencoder knows is suspicious; what is near is moved onto it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mohs.detectors.base import Method, in_parts
from mohs.errors import RequestError
from mohs.models import Model
from mohs.models.autoencoder import Autoencoder, fit_autoencoder

TEMPERATURES = (10.0, 40.0)
QUANTILE = 0.95


@dataclass(frozen=True, kw_only=True)
class MagNet(Method):
    """Detectors: the reconstruction error mean |x - AE(x)|^p, and the Jensen-Shannon divergences of the model's answers to x
    and to AE(x) at temperatures 10 and 40. The reformer: the model then classifies AE(x).

    The authors give each detector a threshold of its own; here the score is the largest of the three in units of its 95%
    quantile on the clean data. The autoencoder is a small one fitted to the data, where theirs are convolutional and chosen at
    random from many: on images larger than digits it blurs, and clean accuracy pays for it. p: 1 or 2.

    Meng, Chen, CCS 2017, arXiv:1705.09064.
    """

    p: int = 1

    paper = "Meng, Chen, CCS 2017, arXiv:1705.09064"

    def statistic(self, model: Model, x: Tensor, y: Tensor, attacked: Tensor, fooled: Tensor) -> nn.Module:
        if self.p not in (1, 2):
            raise RequestError(f"MagNet takes p of 1 or 2, the power of the reconstruction error, and p is {self.p}")
        made = Statistic(fit_autoencoder(x, model.bounds, model.device), self.p)
        with torch.no_grad():
            errors = in_parts(lambda part: made.errors(model, part)[1], x, model.device)
        made.scale = errors.quantile(QUANTILE, dim=0).clamp_min(1e-12)
        return made


class Statistic(nn.Module):
    scale: Tensor

    def __init__(self, autoencoder: Autoencoder, p: int) -> None:
        super().__init__()
        self.autoencoder, self.network, self.p = autoencoder, autoencoder.module, p
        self.register_buffer("scale", torch.ones(1 + len(TEMPERATURES), dtype=torch.float64))

    def forward(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, errors = self.errors(model, x)
        return logits, (errors / self.scale).amax(1)

    def errors(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        """The model's logits of AE(x), and what each detector says, [n, 3] float64."""
        reformed = self.autoencoder.decode(self.autoencoder.encode(x))
        z, there = model.logits(x).double(), model.logits(reformed)
        error = (x - reformed).double().abs().pow(self.p).flatten(1).mean(1)
        return there, torch.stack([error, *(divergence(z / t, there.double() / t) for t in TEMPERATURES)], 1)


def divergence(one: Tensor, two: Tensor) -> Tensor:
    """Jensen-Shannon, in nats, [n], of the distributions that logits [n, classes] stand for."""
    p, q = one.log_softmax(1), two.log_softmax(1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    return 0.5 * ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1))
