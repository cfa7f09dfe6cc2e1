"""The plan of a run: everything that shapes the work, written down before any of it is done."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from mohs import attacks, certificates
from mohs.engine.probes import choose
from mohs.engine.profiles import Profile, Step
from mohs.errors import Refused, RequestError
from mohs.models import Prepared
from mohs.threat import Goal, Threat

IN_FLOATS = "float32, successes confirmed in float64"
AS_SENT = "as the endpoint answers: what was sent is what was judged"
LEAST_COHORT = 32  # examples: with fewer in lockstep, what a step costs beside the model is spread too thinly


class StagePlan(BaseModel):
    """attacks: specs. certificate: of a stage that proves. inapplicable: why the stage is not run, else None. closest_first:
    units by falling margin."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    kind: str
    attacks: list[dict[str, Any]]
    inapplicable: str | None = None
    note: str | None = None
    closest_first: bool = False
    certificate: dict[str, Any] | None = None


class ThreatPlan(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    text: str
    name: str
    epsilon: float
    rounding: float  # what a distance may exceed epsilon by: one float32 ulp of the bounds
    knowledge: str
    words: str
    constraints: str | None  # a hash of what the set is made of beside its text: arrays, a network
    stages: list[StagePlan]
    notes: list[str] = []


class Plan(BaseModel):
    """micro-batch `rows`, padded to multiples of `quantum`; `cohort` examples move in lockstep, a cohort in each of
    `processes`, of `threads` each."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    profile: dict[str, str]
    n: int
    seed: int
    rows: int
    quantum: int
    cohort: int
    threads: int
    processes: int = 1
    precision: str = IN_FLOATS
    slack: float
    noise: float
    draws: int
    time: float | None
    queries: int | None = None  # that an example may cost
    guide: list[str]
    goals: list[str]
    threats: list[ThreatPlan]


def make_plan(
    profile: Profile,
    threats: dict[str, Threat],
    goals: list[Goal],
    prepared: Prepared,
    *,
    n: int,
    seed: int,
    time: float | None,
    queries: int | None = None,
    processes: int = 1,
) -> Plan:
    """Compose the stages of every threat (keyed by its text) for a model; RequestError where none can be run."""
    judge, guide, model = prepared.judge, prepared.guide, prepared.judge.model
    return Plan(
        profile={"name": profile.name, "version": profile.version, "words": profile.words},
        n=n,
        seed=seed,
        rows=judge.rows,
        quantum=judge.quantum,
        cohort=2 * judge.rows if processes == 1 else max(2 * judge.rows // processes, LEAST_COHORT),
        threads=torch.get_num_threads(),
        processes=processes,
        slack=guide.slack,
        noise=judge.noise,
        draws=profile.draws if model.random else 1,
        time=time,
        queries=queries,
        precision=AS_SENT if model.remote else IN_FLOATS,
        guide=[*guide.log, *(prepared.surrogate.log if prepared.surrogate else ())],
        goals=[str(goal) for goal in goals],
        threats=[_threat(text, threat, profile, goals[0], prepared) for text, threat in threats.items()],
    )


def _threat(text: str, threat: Threat, profile: Profile, goal: Goal, prepared: Prepared) -> ThreatPlan:
    stages = [_stage(step, threat, goal, prepared) for step in profile.compose(threat, prepared.judge.model)]
    deciding = [stage for stage in stages if stage.kind == "decide"]
    if all(stage.inapplicable for stage in deciding) and not (stages and not deciding):
        whose = {reason: [s.name for s in deciding if s.inapplicable == reason] for reason in (s.inapplicable for s in deciding)}
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in whose.items())
        instead = _instead(threat, goal, prepared)
        raise RequestError(f"no attack of `{profile.name}` can be run against {text}: {reasons}{instead}")
    return ThreatPlan(
        text=text,
        name=threat.name,
        epsilon=threat.epsilon,
        rounding=threat.rounding(),
        knowledge=str(threat.knowledge),
        words=threat.words(),
        constraints=threat.digest(),
        stages=stages,
    )


def _instead(threat: Threat, goal: Goal, prepared: Prepared) -> str:
    """What to ask for where a profile has nothing: an attack by queries, if one serves."""
    try:
        name, _ = choose(threat, prepared.judge.model)
        attacks.find(name)().admit(threat, goal, prepared)
    except RequestError:
        return ""
    return f"; `{name}` serves: say --attack {name}"


def _stage(step: Step, threat: Threat, goal: Goal, prepared: Prepared) -> StagePlan:
    reason = None
    try:
        for attack in step.attacks:
            attack.admit(threat.minimal() if step.kind == "measure" else threat, goal, prepared)
    except Refused as refusal:
        reason = str(refusal)
    specs = [{"attack": attacks.name_of(attack), **attack.spec()} for attack in step.attacks]
    return StagePlan(
        name=step.name,
        kind=step.kind,
        attacks=specs,
        inapplicable=reason,
        note=step.note,
        closest_first=step.closest_first,
        certificate=None if step.certificate is None else certificates.spec_of(step.certificate),
    )
