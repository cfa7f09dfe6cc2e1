"""A request made concrete: loaded, checked and planned, and nothing written yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mohs import attacks, certificates
from mohs.data import Examples, load_data
from mohs.defend.table import defended
from mohs.engine.certified import NAME as CERTIFY
from mohs.engine.certified import certified, certifying
from mohs.engine.curves import CURVE
from mohs.engine.executors import most_processes
from mohs.engine.flat import backed
from mohs.engine.plan import Plan, make_plan
from mohs.engine.probes import NAME as PROBE
from mohs.engine.probes import probing
from mohs.engine.profiles import PROFILES, Profile, find_profile, joined, sighted
from mohs.engine.transfers import transferred
from mohs.environment import environment
from mohs.errors import RequestError
from mohs.models import Model, Prepared, prepare
from mohs.models.contract import Finding, check_contract
from mohs.models.cpu import threads
from mohs.models.ensemble import surrogate
from mohs.models.http import HttpModel
from mohs.models.saliency import check_saliency
from mohs.request import Request, command, make_request, name_of
from mohs.rng import Stream
from mohs.subjects import AnyModel, alone, check_aids, check_grid, evade, facing, load_surrogate
from mohs.threat import Goal, Knowledge, Threat, parse_goal, parse_threat

QUERIES = 5000  # an example, of a probe


@dataclass(frozen=True)
class Job:
    """A request made concrete: everything a run is executed with."""

    request: Request
    prepared: Prepared
    data: Examples
    threats: dict[str, Threat]
    plan: Plan
    findings: list[Finding]
    surrogates: list[Model] = field(default_factory=list)


def make_job(
    model: str | Model | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    threats: Sequence[str | Threat],
    surrogates: Sequence[AnyModel] = (),
    answers: Path | None = None,
    **options: Any,
) -> Job:
    """Load, check and plan; nothing is written. answers: the file of what an endpoint has answered in this run so far."""
    if not threats:
        raise RequestError("an audit needs a threat, such as linf:8/255")
    carried = bool(surrogates) and options.get("profile") != PROBE  # a probe asks on from what its surrogates found
    parsed = _apart(_named(threat, carried) for threat in threats)
    if surrogates:
        options["surrogates"] = [name_of(part) for part in surrogates]
    request = make_request(model, data, list(parsed), options)
    examples = (
        data if isinstance(data, Examples) else load_data(data, limit=request.limit, seed=request.seed, bounds=request.bounds)
    )
    profile = _profile(request)
    subject = defended(alone(model, examples.x, request, answers), request.defences)
    check_grid(subject, parsed)
    findings = check_contract(subject, examples.x, examples.y)
    blinding = evade(subject, parsed, examples.x, findings) if request.adapt else None
    check_aids(request, parsed.values())
    if request.saliency is not None:
        check_saliency(subject, request.saliency)
        check_pictured(examples)
    bound = {text: facing(threat, subject, examples.x, request) for text, threat in parsed.items()}
    for threat in bound.values():
        threat.check(examples.x)
    if not surrogates and profile.name in PROFILES:
        profile = backed(sighted(profile, list(bound.values()), subject), subject)
    if request.attacks:
        profile = joined(profile, [attacks.parse(text) for text in request.attacks])
    goals = _goals(parse_goal(request.goal), subject, examples.y)
    if request.certify:
        for threat in bound.values():
            certificates.make(request.method).check(threat, goals[0], subject, examples.x[:2])
    processes = 1 if request.compile else most_processes(subject, torch.get_num_threads(), request.rows)
    with threads(1 if processes > 1 else torch.get_num_threads()):  # bits depend on it: prepared as it will be used
        prepared = replace(prepare(subject, examples.x[:8], rows=request.rows, compile=request.compile), blinding=blinding)
        others = [load_surrogate(part, examples.x, request) for part in surrogates]
        if others:
            prepared = surrogate(prepared, others, examples.x[:8])
            assert prepared.surrogate is not None
            judge, guide = prepared.judge, prepared.guide
            quantum = 1 if subject.remote else max(judge.quantum, prepared.surrogate.quantum)  # one for all, as a plan has it
            prepared = prepared.pinned(judge.rows, quantum, guide.slack, judge.noise)
        plan = make_plan(
            profile,
            bound,
            goals,
            prepared,
            n=len(examples),
            seed=request.seed,
            time=request.time,
            queries=request.queries or (QUERIES if request.profile == PROBE else None),
            processes=processes,
        )
    return Job(request, prepared, examples, bound, plan, findings, others)


def _named(threat: str | Threat, transfers: bool) -> tuple[str, Threat]:
    """A threat with its text; of knowledge `transfer` where it `transfers`."""
    text = str(threat)
    parsed = parse_threat(threat) if isinstance(threat, str) else threat
    if not transfers or (parsed.knowledge == Knowledge.TRANSFER and "+knowledge:" in text):
        return text, parsed
    if "+knowledge:" in text:
        raise RequestError(
            f"the threat {text} grants {parsed.knowledge}, and an attack on surrogates asks for nothing: leave it out"
        )
    return f"{text}+knowledge:transfer", replace(parsed, knowledge=Knowledge.TRANSFER)


def _apart(threats: Iterable[tuple[str, Threat]]) -> dict[str, Threat]:
    """Threats by their texts; RequestError where one is written in two ways, or two in one."""
    found: dict[str, Threat] = {}
    texts: dict[tuple[object, ...], str] = {}
    for text, threat in threats:
        first = texts.setdefault((str(threat), threat.epsilon, threat.knowledge, threat.digest()), text)
        if first != text:
            raise RequestError(f"the threat {text} is {first} again, and would be attacked twice: leave one of them out")
        found[text] = threat
    if len(found) < len(texts):
        raise RequestError(f"of the threats {', '.join(texts.values())} two differ in their arrays alone: audit one at a time")
    return found


def _profile(request: Request) -> Profile:
    if request.attacks and (request.surrogates or request.profile in (PROBE, CURVE.name)):
        what = "an attack on surrogates" if request.surrogates else f"the profile {request.profile}"
        raise RequestError(f"{what} is one battery, fixed: attacks of your own go beside the profiles of `mohs audit`")
    if not request.certify and request.method != Request.model_fields["method"].default:
        raise RequestError(
            f"the method {request.method!r} is of a certificate, and none is asked for: give --certify (certify=True) too, "
            "or leave it out"
        )
    if request.profile == PROBE:
        return probing(request.queries or QUERIES, aided=bool(request.surrogates))
    if request.profile == CERTIFY:
        return certifying(certificates.make(request.method))
    profile = CURVE if request.profile == CURVE.name else find_profile(request.profile)
    profile = transferred(profile) if request.surrogates else profile
    return certified(profile, certificates.make(request.method)) if request.certify else profile


def _goals(goal: Goal, model: Model, y: Tensor) -> list[Goal]:
    """The cases of a goal; RequestError where none exists for any of the labels y [n]."""
    goal.check(model.classes)
    cases = goal.cases(model.classes)
    unknown, stream = torch.zeros(len(y), model.classes), Stream.of(0, torch.arange(len(y)))
    if not any(bool(case.applies(case.aim(y, unknown, stream)).any()) for case in cases):
        held = y.unique().tolist()
        shown = ", ".join(map(str, held[:10])) + (f" and {len(held) - 10} more" if len(held) > 10 else "")
        raise RequestError(
            f"the goal {goal} applies to none of the {len(y)} examples, which are of class {shown}: take other examples (--data, "
            "--limit, --seed), or another goal"
        )
    return cases


def check_pictured(examples: Examples) -> None:
    """RequestError where the report tells examples by their features."""
    from mohs.report.pictures import is_image

    if not is_image(examples.x[0].numpy()):
        shape = list(examples.x.shape[1:])
        raise RequestError(f"saliency is drawn beside pictures, and examples {shape} are no images: leave --saliency out")


def describe(job: Job) -> dict[str, Any]:
    """What `run.json` holds."""
    given = job.request.model_fields_set
    model, data = job.prepared.judge.model, job.data
    asked = job.request.model_dump()
    return {
        "id": datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "mohs": metadata.version("mohs"),
        "request": {
            "given": {k: v for k, v in asked.items() if k in given},
            "defaulted": {k: v for k, v in asked.items() if k not in given},
            "command": command(job.request),
        },
        "plan": job.plan.model_dump(),
        "data": {
            "name": data.name,
            "n": len(data),
            "sha256": data.sha256(),
            "shape": list(data.x.shape[1:]),
            "class_names": data.class_names,
            "bounds": list(model.bounds),
        },
        "model": {
            "name": model.name,
            "source": job.request.model,
            "sha256": model.fingerprint(),
            "classes": model.classes,
            "bounds": list(model.bounds),
            "gives": str(model.gives),
            "random": model.random,
        },
        "surrogates": [{"name": m.name, "sha256": m.fingerprint()} for m in job.surrogates],
        **({"endpoint": model.endpoint.model_dump(by_alias=True)} if isinstance(model, HttpModel) else {}),
        "findings": [{"severity": f.severity, "code": f.code, "message": f.message} for f in job.findings],
        "environment": environment(),
    }
