"""Activations: smooth ones in the place of ReLU, under adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

from mohs.errors import RequestError
from mohs.networks import activation
from mohs.study.base import Findings
from mohs.study.ways import CLEAN, Materials, Trains, Way, decided, minus

LOSS = -0.01  # of clean accuracy: what "no loss" allows


@dataclass(frozen=True, kw_only=True)
class Activations(Trains):
    """Do smooth activations make adversarial training stronger?

    One network, trained by `recipe` within `threat` with ReLU and with each of `activations` in its place, forward and
    backward. The claim is that of Xie, Tan, Gong, Yuille, Le, 2020, arXiv:2006.14536: more robust, at no loss of accuracy. They
    show it on ImageNet. No loss is tested as a loss of less than one point.

    activations: of `silu`, `gelu`, `elu`, `softplus:10`, `smooth-relu`.
    """

    threat: str = "linf:0.1"
    recipe: str = "pgd"
    network: str = "wk-cnn"
    activations: tuple[str, ...] = ("silu", "gelu", "softplus:10")

    corner = "activation"

    def run(self, materials: Materials) -> Findings:
        smooth = [name for name in dict.fromkeys(self.activations) if name != "relu"]
        if not smooth:
            raise RequestError("name an activation to compare with ReLU, such as --activations silu,gelu")
        for name in smooth:
            activation(name)
        ways = {"relu": Way(self.network, self.recipe, self.threat)}
        ways |= {name: Way(self.network, f"{self.recipe}+smooth", self.threat, {"activation": name}) for name in smooth}
        n = self.attacked(materials)
        shares, notes = self.measured(materials, ways, [self.threat])

        def ahead(name: str, what: str) -> tuple[float, ...]:
            return minus(shares[name][what], shares["relu"][what])

        claims = []
        for name in smooth:
            claims.append(decided(f"{name} is more robust than ReLU", ahead(name, self.threat), n))
            claims.append(decided(f"{name} is as accurate as ReLU on clean inputs", ahead(name, CLEAN), n, LOSS))
        return self.findings(
            f"{self.network} trained by {self.recipe}, within {self.threat}.",
            shares,
            {name: {"clean": by[CLEAN], "robust": by[self.threat]} for name, by in shares.items()},
            claims,
            notes,
        )
