"""The battery of an adversary who never asks the model: one attack on surrogates, judged once an example."""

from __future__ import annotations

from dataclasses import replace

from mohs.attacks.base import Attack
from mohs.attacks.gradient.apgd import APGD
from mohs.attacks.gradient.mifgsm import MIFGSM
from mohs.attacks.gradient.pgd import PGD
from mohs.attacks.transfer.fgsm import VMIFGSM
from mohs.engine.profiles import Profile, Step
from mohs.losses import logit_difference
from mohs.models import Model
from mohs.threat import Threat


def transferred(profile: Profile) -> Profile:
    """What stands for a profile where the attack is made elsewhere. A second attack, a restart or a bisection would ask the
    model again, and so there is none."""
    quick = profile.name == "quick"

    def compose(threat: Threat, model: Model) -> list[Step]:
        return [Step("transfer", (_attack(threat, quick),))]

    words = "one attack on surrogate models, of which the model judges the last point of each example, once"
    return replace(profile, name=f"{profile.name}-transfer", words=words, compose=compose)


def _attack(threat: Threat, quick: bool) -> Attack:
    """Momentum, and with time gradients tuned by their variance, where the transfer family moves; else what is strongest on
    the surrogates themselves."""
    match threat.name:
        case "linf" | "l2":
            return MIFGSM() if quick else VMIFGSM()
        case "l1":
            return APGD(steps=20 if quick else 100, multi_epsilon=True)
    return PGD(steps=20 if quick else 100, step_size=1.0, loss=logit_difference)
