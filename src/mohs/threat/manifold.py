"""The manifold of the data, as an autoencoder knows it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from mohs.errors import ThreatError
from mohs.threat.transform import TransformThreat

if TYPE_CHECKING:
    from mohs.models.autoencoder import Autoencoder


@dataclass(frozen=True, kw_only=True)
class ManifoldThreat(TransformThreat):
    """x0 + dec(z + p) - dec(z), z = enc(x0), |p_i| <= epsilon: the latents of x0 move, each by up to epsilon, and x0 along the
    manifold that an autoencoder has learned.

    autoencoder: enc and dec. epsilon: in units of its latents; those of the autoencoder fitted by default are standard
    deviations over the data. A point is p [rows, *latent].
    Stutz, Hein, Schiele, CVPR 2019, arXiv:1812.00740, show dec(z + p) to the model. What the autoencoder leaves out of x0 is
    kept here, so that no change is x0 itself and the autoencoder's own error never counts as a success; on data that it gives
    back exactly the two are one. They also hold latents to the range of those seen, which is left out.
    """

    epsilon: float
    autoencoder: Autoencoder | None = field(default=None, compare=False, repr=False)
    name = "manifold"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ThreatError(f"the threat manifold has epsilon {self.epsilon}; it must be 0 or more")

    def __str__(self) -> str:
        return f"manifold:{self.epsilon:g}{self.constraints}"

    def given(self, autoencoder: Autoencoder) -> Self:
        return replace(self, autoencoder=autoencoder)

    def digest(self) -> str | None:
        parts = [part for part in (self.constraints.digest(), self.autoencoder and self.autoencoder.fingerprint()) if part]
        return " ".join(parts) or None

    @property
    def known(self) -> Autoencoder:
        if self.autoencoder is None:
            raise ThreatError(
                f"the threat {self} has no autoencoder: give it one, `threat.given(fit_autoencoder(x, bounds))`, or on the "
                "command line by --autoencoder"
            )
        return self.autoencoder

    def latents(self, x0: Tensor) -> Tensor:
        """[rows, *latent]."""
        with torch.no_grad():
            return self.known.encode(x0)

    def reach(self, x0: Tensor) -> Tensor:
        return x0.new_ones(self.known.latent(x0))

    def transform(self, p: Tensor, x0: Tensor) -> Tensor:
        z = self.latents(x0)
        with torch.no_grad():
            plain = self.known.decode(z)
        return x0 + (self.known.decode(z + p) - plain)

    def fits(self, x0: Tensor) -> None:
        self.known.check(x0)

    def describe(self) -> str:
        return f"move each latent of the input by up to {self.epsilon:g}, in an autoencoder of the data"
