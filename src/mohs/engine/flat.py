"""Profiles of gradients for a model whose gradients vanish at some inputs: behind them, what needs none."""

from __future__ import annotations

from dataclasses import replace

from mohs.engine.profiles import Profile, Step, scores
from mohs.errors import RequestError
from mohs.models import Model
from mohs.threat import Knowledge, Threat

NOTE = "gradients vanish at some examples: attacks that need none stand behind those that follow them"


def backed(profile: Profile, model: Model) -> Profile:
    """A profile with the attacks of `scores` on what its own left standing; itself where the model's gradients never vanish."""
    if not model.flat or profile.name == "scores":
        return profile

    def compose(threat: Threat, model: Model) -> list[Step]:
        own = profile.compose(threat, model)
        known = {step.name for step in own}
        more = [replace(step, note=NOTE) for step in _by_scores(threat, model) if step.name not in known]
        measures = [step for step in own if step.kind == "measure"]
        return [*(step for step in own if step.kind != "measure"), *more, *measures]

    return replace(profile, name=f"{profile.name}+scores", compose=compose)


def _by_scores(threat: Threat, model: Model) -> list[Step]:
    """The deciding stages of `scores`; none where the adversary has not both to choose from, or none moves in the threat."""
    if threat.knowledge < Knowledge.GRADIENT:
        return []
    try:
        return [step for step in scores(threat, model) if step.kind == "decide"]
    except RequestError:
        return []
