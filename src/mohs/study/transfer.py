"""Transfer of robustness: trained for one threat, tested on the others."""

from __future__ import annotations

from dataclasses import dataclass

from mohs.errors import RequestError
from mohs.study.base import Findings
from mohs.study.ways import CLEAN, Materials, Trains, Way, decided, mean, minus


@dataclass(frozen=True, kw_only=True)
class Transfer(Trains):
    """Does robustness to one threat carry over to another?

    One network is trained as usual, and by `recipe` for each of `threats`; each is attacked within all of them. That training
    for one set leaves others open is in Tramer, Boneh, NeurIPS 2019, arXiv:1904.13000, and Kang, Sun, Brown, Hendrycks,
    Steinhardt, 2019, arXiv:1908.08016.
    """

    threats: tuple[str, ...] = ("linf:0.1", "l2:0.8", "rotation:30deg+translation:1px")
    recipe: str = "pgd"
    network: str = "wk-cnn"

    corner = "trained for"

    def run(self, materials: Materials) -> Findings:
        threats = list(dict.fromkeys(self.threats))
        if len(threats) < 2:
            raise RequestError(f"two threats or more are compared, such as --threats linf:0.1,l2:0.8; not {', '.join(threats)}")
        ways = {"none": Way(self.network)} | {text: Way(self.network, self.recipe, text) for text in threats}
        n = self.attacked(materials)
        shares, notes = self.measured(materials, ways, threats)
        others = {text: [other for other in threats if other != text] for text in threats}
        own = mean([minus(shares[text][text], mean([shares[other][text] for other in others[text]])) for text in threats])
        over = {text: mean([minus(shares[text][other], shares["none"][other]) for other in others[text]]) for text in threats}
        price = mean([minus(shares["none"][CLEAN], shares[text][CLEAN]) for text in threats])
        return self.findings(
            f"{self.network} trained by {self.recipe}: a row is what it was trained for, a column what it faces.",
            shares,
            shares,
            (
                decided("A threat is withstood best by the network that was trained for it", own, n),
                *(decided(f"Training for {text} hardens against the others, on the mean", over[text], n) for text in threats),
                decided("Hardened networks pay in clean accuracy, on the mean", price, n),
            ),
            notes,
        )
