"""The battery behind `mohs curve`: one pass of minimal-norm attacks a norm, each from what is known by then."""

from __future__ import annotations

from mohs.attacks.base import Attack
from mohs.attacks.minimal.bisection import Bisection
from mohs.attacks.minimal.fab import FABT
from mohs.attacks.minimal.fmn import FMN
from mohs.attacks.minimal.pdpgd import PDPGD
from mohs.attacks.minimal.squeeze import Squeeze
from mohs.attacks.sparse.pointwise import Pointwise
from mohs.attacks.sparse.sigma_zero import SigmaZero
from mohs.engine.profiles import Profile, Step
from mohs.models import Model
from mohs.threat import Threat

# Fixed in advance, a norm each: FIRST decides whether an example falls at all and ends at its first success; CHAINS then look
# for the least change of every example. No attack is the best on each of them: on cifar_cnn_a_adv FMN alone is within 7% of the
# l2 chain's mean distance and FAB-T within 2%, by single examples that differ; in l1 PDPGD finds what both miss where gradients
# are flat (mnist_cnn_a_adv: half of their distance), as does Squeeze in linf: there 22% of 64 images stand at 0.33, and 61%
# without it. The last FMN starts from the best of the others, in steps that fit what is
# left to gain.
FIRST: dict[str, Attack] = {
    "linf": FMN(steps=20),
    "l2": FMN(steps=20),
    "l1": FMN(steps=20),
    "l0": SigmaZero(steps=20),
}
CHAINS: dict[str, tuple[Attack, ...]] = {
    "linf": (FMN(), FABT(steps=30, targets=4), Squeeze(), FMN(steps=50, warm=True, step_size=0.1, gamma=0.01), Bisection()),
    "l2": (FMN(), FABT(steps=30, targets=4), FMN(steps=50, warm=True, step_size=0.1, gamma=0.01), Bisection()),
    "l1": (PDPGD(steps=200), FABT(steps=30, targets=4), FMN(steps=50, warm=True), Bisection()),
    "l0": (SigmaZero(steps=300), SigmaZero(steps=300, tau=0.1), Pointwise(queries=300, starts=0), Bisection()),
}


def _compose(threat: Threat, model: Model) -> list[Step]:
    return [Step("first", (FIRST[threat.name],)), Step("curve", CHAINS[threat.name], kind="measure")]


CURVE = Profile("curve", "3", "the least change found of every example, by a fixed chain of minimal-norm attacks", _compose)
