"""Capacity: what width and depth are worth, without and with adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

from mohs.errors import RequestError
from mohs.study.base import Findings
from mohs.study.ways import CLEAN, Materials, Trains, Way, decided, minus

FAMILIES = ("mlp", "wrn")


@dataclass(frozen=True, kw_only=True)
class Capacity(Trains):
    """How much network does robustness need?

    Networks of every width and depth are trained as usual and by `recipe` within `threat`. The claims are those of Madry,
    Makelov, Schmidt, Tsipras, Vladu, ICLR 2018, arXiv:1706.06083, section 4; theirs is a convolutional network of MNIST and a
    ResNet of CIFAR-10.

    family: `mlp`, of `depths` hidden layers that are `widths` wide, or `wrn`, the wide residual networks of `depths` layers
    (10, 16, 22 and so on) and `widths` times as wide as the first.
    """

    threat: str = "linf:0.1"
    recipe: str = "pgd"
    family: str = "mlp"
    widths: tuple[int, ...] = (8, 32, 128)
    depths: tuple[int, ...] = (1, 3)

    corner = "network"

    def run(self, materials: Materials) -> Findings:
        if self.family not in FAMILIES:
            raise RequestError(f"the family of networks should be {' or '.join(FAMILIES)}, not {self.family!r}")
        widths, depths = sorted(set(self.widths)), sorted(set(self.depths))
        if len(widths) * len(depths) < 2 or min(*widths, *depths) < 1:
            raise RequestError(f"two sizes or more are compared, each 1 or more; not widths {widths} and depths {depths}")
        networks = [self._network(width, depth) for depth in depths for width in widths]
        ways = {f"{name}, standard": Way(name) for name in networks}
        ways |= {f"{name}, {self.recipe}": Way(name, self.recipe, self.threat) for name in networks}
        n = self.attacked(materials)
        shares, notes = self.measured(materials, ways, [self.threat])

        def standard(name: str, what: str) -> tuple[float, ...]:
            return shares[f"{name}, standard"][what]

        def hardened(name: str, what: str) -> tuple[float, ...]:
            return shares[f"{name}, {self.recipe}"][what]

        least, most = networks[0], networks[-1]
        gained = minus(hardened(most, self.threat), hardened(least, self.threat))
        usual = minus(standard(most, CLEAN), standard(least, CLEAN))
        return self.findings(
            f"Networks of {len(networks)} sizes, trained as usual and by {self.recipe}, within {self.threat}.",
            shares,
            {
                name: {
                    "clean, standard": standard(name, CLEAN),
                    "robust, standard": standard(name, self.threat),
                    f"clean, {self.recipe}": hardened(name, CLEAN),
                    f"robust, {self.recipe}": hardened(name, self.threat),
                }
                for name in networks
            },
            (
                decided(
                    f"Capacity alone helps: trained as usual, {most} is more robust than {least}",
                    minus(standard(most, self.threat), standard(least, self.threat)),
                    n,
                ),
                decided(f"Trained by {self.recipe}, {most} is more robust than {least}", gained, n),
                decided(
                    f"Robustness needs more capacity: from {least} to {most}, {self.recipe} gains more robust accuracy than "
                    "standard training gains clean accuracy",
                    minus(gained, usual),
                    n,
                ),
                decided(
                    f"A small network pays for it: trained by {self.recipe}, {least} is less accurate on clean inputs",
                    minus(standard(least, CLEAN), hardened(least, CLEAN)),
                    n,
                ),
            ),
            notes,
        )

    def _network(self, width: int, depth: int) -> str:
        return f"wrn-{depth}-{width}" if self.family == "wrn" else "-".join(["mlp", *[str(width)] * depth])
