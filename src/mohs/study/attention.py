"""Attention: self-attention against convolution in networks that are the same but for it."""

from __future__ import annotations

from dataclasses import dataclass

from mohs.study.base import Findings
from mohs.study.ways import CLEAN, Materials, Trains, Way, decided, minus


@dataclass(frozen=True, kw_only=True)
class Attention(Trains):
    """Does self-attention withstand attacks better than convolution of equal size?

    Two networks of as many parameters, of which only what mixes the places differs, are trained as usual and by `recipe`.
    That transformers are more robust than convolutional networks was claimed by Bhojanapalli et al., ICCV 2021,
    arXiv:2103.14586, and by others; Bai, Mei, Yuille, Xie, NeurIPS 2021, arXiv:2111.05464, found no difference where both are
    trained alike.

    attention, convolution: the two networks, by name: `vit-tiny` and `convformer-tiny` for images of 32x32 and an accelerator.
    """

    threat: str = "linf:0.1"
    recipe: str = "pgd"
    attention: str = "vit-2-32"
    convolution: str = "convformer-2-32"

    corner = "network"

    def run(self, materials: Materials) -> Findings:
        networks = (self.attention, self.convolution)
        ways = {f"{name}, standard": Way(name) for name in networks}
        ways |= {f"{name}, {self.recipe}": Way(name, self.recipe, self.threat) for name in networks}
        n = self.attacked(materials)
        shares, notes = self.measured(materials, ways, [self.threat])

        def ahead(how: str, what: str) -> tuple[float, ...]:
            return minus(*(shares[f"{name}, {how}"][what] for name in networks))

        return self.findings(
            f"Trained as usual and by {self.recipe}, within {self.threat}.",
            shares,
            {
                name: {
                    f"{title}, {how}": shares[f"{name}, {how}"][what]
                    for how in ("standard", self.recipe)
                    for title, what in ((CLEAN, CLEAN), ("robust", self.threat))
                }
                for name in networks
            },
            (
                decided("Trained as usual, self-attention is more robust than convolution", ahead("standard", self.threat), n),
                decided(f"Trained by {self.recipe}, self-attention is more robust", ahead(self.recipe, self.threat), n),
                decided("Self-attention is more accurate on clean inputs, trained as usual", ahead("standard", CLEAN), n),
            ),
            notes,
        )
