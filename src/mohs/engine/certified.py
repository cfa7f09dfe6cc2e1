"""Profiles with a certificate: before the attacks of another one, or by itself behind `mohs certify`."""

from __future__ import annotations

from dataclasses import replace

from mohs import certificates
from mohs.attacks.gradient.from_bound import FromBound
from mohs.certificates import Certificate
from mohs.engine.profiles import Profile, Step
from mohs.models import Model
from mohs.threat import Threat

NAME = "certify"


def certifying(certificate: Certificate) -> Profile:
    """The profile that attacks nothing."""
    step = _step(certificate)
    words = f"{step.name}: proofs that no input of the threat reaches the goal; what is not proved is open"
    return Profile(f"{NAME}-{step.name}", "1", words, lambda threat, model: [step])


def certified(profile: Profile, certificate: Certificate) -> Profile:
    """A profile that attacks only what the certificate leaves open; `deep` also from where the bound leaves it open."""
    step = _step(certificate)

    def compose(threat: Threat, model: Model) -> list[Step]:
        own = profile.compose(threat, model)
        if profile.name != "deep" or threat.name not in FromBound.sets:
            return [step, *own]
        *decide, measure = own
        return [step, *decide, Step("from-bound", (FromBound(),), closest_first=True), measure]

    words = f"{profile.words}; before it {step.name}, and what that proves is not attacked"
    return replace(profile, name=f"{profile.name}+{step.name}", words=words, compose=compose)


def _step(certificate: Certificate) -> Step:
    return Step(str(certificates.spec_of(certificate)["method"]), (), kind="prove", certificate=certificate)
