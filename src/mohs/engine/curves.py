"""The battery behind `mohs curve`: one pass of minimal-norm attacks a norm, in which each starts from what is known."""

from __future__ import annotations

from mohs.attacks.base import Attack
from mohs.attacks.minimal.bisection import Bisection
from mohs.attacks.minimal.fab import FABT
from mohs.attacks.minimal.fmn import FMN
from mohs.attacks.sparse.sigma_zero import SigmaZero
from mohs.engine.profiles import Profile, Step
from mohs.models import Model
from mohs.threat import Threat

# Fixed in advance, a norm each: what decides whether an example falls at all, and what then looks for the least change.
FIRST: dict[str, Attack] = {
    "linf": FMN(steps=20),
    "l2": FMN(steps=20),
    "l1": FMN(steps=20),
    "l0": SigmaZero(steps=20),
}
CHAINS: dict[str, tuple[Attack, ...]] = {
    "linf": (FMN(steps=100), FABT(steps=30, targets=4), Bisection()),
    "l2": (FMN(steps=100), FABT(steps=30, targets=4), Bisection()),
    "l1": (FMN(steps=100), FABT(steps=30, targets=4), Bisection()),
    "l0": (SigmaZero(steps=300), FMN(steps=100), Bisection()),
}


def _compose(threat: Threat, model: Model) -> list[Step]:
    return [Step("first", (FIRST[threat.name],)), Step("curve", CHAINS[threat.name], kind="measure")]


CURVE = Profile("curve", "1", "the least change found of every example, by a fixed chain of minimal-norm attacks", _compose)
