"""The main job: how much can an adversary do to this model?"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mohs import attacks, certificates
from mohs.data import Examples, load_data
from mohs.defend.table import defended, shown
from mohs.engine.certified import NAME as CERTIFY
from mohs.engine.certified import certified, certifying
from mohs.engine.curves import CURVE
from mohs.engine.execute import Progress, execute
from mohs.engine.executors import most_processes
from mohs.engine.plan import Plan, make_plan
from mohs.engine.probes import NAME as PROBE
from mohs.engine.probes import probing
from mohs.engine.profiles import PROFILES, Profile, find_profile, joined, sighted
from mohs.engine.transfers import transferred
from mohs.errors import ModelError, RequestError, RunError
from mohs.models import Model, Prepared, as_model, load_model, prepare
from mohs.models.autoencoder import fit_autoencoder, load_autoencoder
from mohs.models.blinding import COPIES, Blinding, trials
from mohs.models.checks import PROBES
from mohs.models.contract import Finding, check_contract
from mohs.models.cpu import threads
from mohs.models.ensemble import surrogate
from mohs.models.findings import warning
from mohs.models.http import HttpModel, load_endpoint
from mohs.models.perception import Perception, load_lpips
from mohs.models.saliency import Method, check_saliency, saliency
from mohs.store import Run
from mohs.store.answers import NAME as ANSWERS
from mohs.store.verdict import Verdict, verdict_of
from mohs.threat import Goal, Knowledge, ManifoldThreat, NormThreat, PerceptualThreat, Threat, parse_goal, parse_threat

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

QUERIES = 5000  # an example, of a probe
HONEST = 200  # queries by which a guard's false alarms are told
Watcher = Callable[[Progress], None]
AnyModel = str | Model | nn.Module


class Request(BaseModel):
    """What was asked, as plain data; `model_fields_set` tells the given from the defaulted."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    data: str
    threats: list[str]
    profile: str = "standard"
    attacks: list[str] = []
    goal: str = "untargeted"
    limit: int | None = None
    seed: int = 0
    bounds: tuple[float, float] = (0.0, 1.0)
    outputs: Literal["logits", "probabilities", "margin"] = "logits"
    device: str = "cpu"
    rows: int = 128
    compile: bool = False
    time: float | None = None
    trust_pickle: bool = False
    surrogates: list[str] = []
    defences: list[str] = []
    perceptual_model: str | None = None
    autoencoder: str | None = None
    saliency: Method | None = None
    require: list[str] = []
    confident: list[str] = []
    describe: str | None = None
    queries: int | None = Field(default=None, ge=1)
    total: int | None = Field(default=None, ge=1)
    spend: float | None = Field(default=None, gt=0)
    rate: float | None = Field(default=None, gt=0)
    i_am_authorised: bool = False
    adapt: bool = False
    certify: bool = False
    method: str = "crown"


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


class Result:
    """A run and what it says."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def verdict(self) -> Verdict:
        return verdict_of(self.run)

    @property
    def clean_accuracy(self) -> float:
        return self.verdict.clean.low

    @property
    def robust_accuracy(self) -> dict[str, float]:
        """By threat; undecided examples count as broken."""
        return self.verdict.robust_accuracy

    def table(self) -> pa.Table:
        """One row an example, threat and goal."""
        from mohs.report.tables import table

        return table(self.verdict)

    def frame(self) -> pd.DataFrame:
        """`table` as a pandas DataFrame."""
        return self.table().to_pandas()

    def save(self, folder: str | Path) -> Path:
        """Keep the run in a folder."""
        return self.run.copy(folder).folder

    def report(self, path: str | Path) -> Path:
        """Write the HTML report."""
        from mohs.report import write_report

        return write_report(self.run, Path(path))

    def __str__(self) -> str:
        lines = [f"clean accuracy {self.verdict.clean}"]
        lines += [f"robust accuracy at {threat.text}: {threat.score}" for threat in self.verdict.threats]
        return "\n".join([*lines, f"profile {self.verdict.profile}, n = {self.verdict.clean.n}"])


def audit(
    model: str | Model | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    threats: Sequence[str | Threat],
    surrogates: Sequence[AnyModel] = (),
    out: str | Path | None = None,
    watch: Watcher | None = None,
    **options: Any,
) -> Result:
    """Audit a model on data under every threat.

    model: a module in evaluation mode, a Model, or what `mohs audit` takes. data: (x [n, *input] in the bounds, y [n]),
    or what `--data` takes. surrogates: models of the adversary's own; given any, the threats' knowledge is `transfer`: one
    attack on their mean, which `model` judges once an example (a probe goes on from there). out: the run folder; without it
    the run lives as long as the result. watch: called after every unit. options: the fields of `Request`; `defences` among them
    stand before the model, such as `jpeg:75`, in the order in which an input passes them. Raises RequestError where the request
    is wrong, before anything is written.
    """
    job = make_job(model, data, threats=threats, surrogates=surrogates, **options)
    if out is not None:
        run = Run.create(out, describe(job))
        carry_out(run, job, watch)
        return Result(run)
    held = tempfile.mkdtemp(prefix="mohs-")
    result = Result(Run.create(held, describe(job)))
    weakref.finalize(result, shutil.rmtree, held, ignore_errors=True)
    carry_out(result.run, job, watch)
    return result


def resume(
    folder: str | Path,
    *,
    model: str | Model | nn.Module | None = None,
    data: str | tuple[Tensor, Tensor] | Examples | None = None,
    threats: Sequence[str | Threat] | None = None,
    surrogates: Sequence[AnyModel] | None = None,
    watch: Watcher | None = None,
) -> Result:
    """Go on with a run. model, data, threats, surrogates: only where the run was made from objects, not from names."""
    run = Run.open(folder)
    asked = Request.model_validate({**run.spec["request"]["given"], **run.spec["request"]["defaulted"]})
    if run.complete and (asked.saliency is None or run.saliency()):
        return Result(run)
    options = asked.model_dump(exclude={"model", "data", "threats", "surrogates"})
    options |= {"threats": threats or asked.threats, "surrogates": surrogates or asked.surrogates}
    job = make_job(model or asked.model, data or asked.data, answers=run.folder / ANSWERS, **options)
    plan = Plan.model_validate(run.spec["plan"])
    _same(run, "data", job.data.sha256(), run.spec["data"]["sha256"])
    _same(run, "model", job.prepared.judge.model.fingerprint(), run.spec["model"]["sha256"])
    _same(run, "surrogates", [m.fingerprint() for m in job.surrogates], [m["sha256"] for m in run.spec.get("surrogates", [])])
    _same(run, "threats' arrays or networks", [t.constraints for t in job.plan.threats], [t.constraints for t in plan.threats])
    run.event("resumed")
    carry_out(run, job, watch)
    return Result(run)


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
    examples = data if isinstance(data, Examples) else load_data(data, limit=options.get("limit"), seed=options.get("seed", 0))
    if not threats:
        raise RequestError("an audit needs a threat, such as linf:8/255")
    carried = bool(surrogates) and options.get("profile") != PROBE  # a probe asks on from what its surrogates found
    parsed = dict(_named(threat, carried) for threat in threats)
    if surrogates:
        options["surrogates"] = [_name(part) for part in surrogates]
    request = make_request(model, data, list(parsed), options)
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
        profile = sighted(profile, list(bound.values()), subject)
    if request.attacks:
        profile = joined(profile, [attacks.parse(text) for text in request.attacks])
    goals = _goals(parse_goal(request.goal), subject)
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


def alone(model: AnyModel, x: Tensor, request: Request, answers: Path | None = None) -> Model:
    """The model of a request without its defences, which takes what they make of inputs x [n, *input]."""
    if request.defences and request.describe is not None:
        raise RequestError("an endpoint has its own defences: those of --with stand before models that run here")
    return load(model, shown(x[:PROBES].float(), request.defences, request.bounds), request, answers)


def load(model: str | Model | nn.Module, x: Tensor, request: Request, answers: Path | None = None) -> Model:
    """A Model from whatever was given."""
    if isinstance(model, str) and request.describe is not None:
        return load_http(model, request, answers)
    if not isinstance(model, str):
        return as_model(model, x, request.bounds, outputs=request.outputs)
    return load_model(
        model,
        x=x,
        bounds=request.bounds,
        outputs=request.outputs,
        device=request.device,
        trust_pickle=request.trust_pickle,
    )


def load_http(url: str, request: Request, answers: Path | None = None) -> HttpModel:
    """The endpoint of a request; RequestError where it is another's and nobody said that they may."""
    assert request.describe is not None
    endpoint = load_endpoint(request.describe, url)
    if not (endpoint.loopback or request.i_am_authorised):
        raise RequestError(
            f"{endpoint.host} is another machine: a probe sends it thousands of attacks. Say --i-am-authorised where whoever "
            "runs it has agreed to that"
        )
    return HttpModel(
        endpoint, bounds=request.bounds, rate=request.rate, total=request.total, spend=request.spend, answers=answers
    )


def evade(model: Model, threats: dict[str, Threat], x: Tensor, findings: list[Finding]) -> Blinding:
    """Noise under which a guard answers, by trial; what it does to honest clients and to queries that look alike is told."""
    if not isinstance(model, HttpModel) or model.endpoint.guard is None:
        raise RequestError("--adapt is for an endpoint whose description has a section [guard]: how a query is refused")
    for text, threat in threats.items():
        if not isinstance(threat, NormThreat) or threat.knowledge == Knowledge.TRANSFER:
            raise RequestError(f"--adapt blinds queries that move in a norm, and the threat is {text}")
    honest = model.logits(x[:HONEST].float()).isnan().any(1)
    tried = list(trials(model.logits, x.float(), model.bounds))
    first, last = tried[0], tried[-1]
    findings += [
        warning("guard", f"the guard refused {int(honest.sum())} of {len(honest)} honest queries"),
        warning(
            "guard",
            f"of {COPIES} copies of an example, {first.refused} were refused under noise of {first.blinding.size:.3g} on "
            f"{first.blinding.share:.0%} of the entries, and {last.refused} under {last.blinding.size:.3g} on "
            f"{last.blinding.share:.0%}, where {last.kept} of {COPIES - last.refused} kept their label"
            + (": queries go out under that" if last.refused == 0 else ": nothing tried passes, and queries go out under that"),
        ),
    ]
    return last.blinding


def check_grid(model: Model, threats: dict[str, Threat]) -> None:
    """RequestError where an endpoint rounds what a threat does not: another input would be judged than the one recorded."""
    bits = model.bits if isinstance(model, HttpModel) else None
    for text, threat in threats.items():
        if bits is not None and threat.constraints.bits != bits:
            raise RequestError(f"the endpoint takes {bits}-bit inputs, and so must the threat: say {text}+quantise:{bits}bit")


def facing(threat: Threat, model: Model, x: Tensor, request: Request) -> Threat:
    """A threat as one against the model: seen by the request's perceptual model, along the manifold of its autoencoder or of
    one fitted to x."""
    if isinstance(threat, PerceptualThreat) and request.perceptual_model is not None:
        threat = replace(threat, network=_eyes(request.perceptual_model, model, threat.layers, x, request))
    if isinstance(threat, ManifoldThreat) and threat.autoencoder is None:
        source = request.autoencoder
        made = fit_autoencoder(x, model.bounds, model.device) if source is None else load_autoencoder(source, model.device)
        threat = threat.given(made)
    return threat.facing(model)


def check_aids(request: Request, threats: Iterable[Threat]) -> None:
    """RequestError where a network was given that no threat is made with."""
    names = [threat.name for threat in threats]
    for given, kind, what in (
        (request.perceptual_model, PerceptualThreat, "a perceptual model"),
        (request.autoencoder, ManifoldThreat, "an autoencoder"),
    ):
        if given is not None and kind.name not in names:
            raise RequestError(f"{what} is for the threat {kind.name}, and the threat is {', '.join(names)}: leave it out")


def _eyes(source: str, model: Model, layers: tuple[str, ...], x: Tensor, request: Request) -> Perception:
    if source.startswith("lpips:"):
        return load_lpips(source.removeprefix("lpips:"), model.bounds, model.device)
    return load(source, x, request).perception(layers)


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


def command(request: Request) -> str:
    """The command line that asks for the same."""
    import shlex

    own = request.profile in (PROBE, CERTIFY)
    words = ["mohs", request.profile if own else "audit", request.model, "--data", request.data]
    for threat in request.threats:
        words += ["--threat", threat]
    for other in request.surrogates:
        words += ["--surrogate", other]
    lists = {"defences": "with", "attacks": "attack", "require": "require", "confident": "confident"}
    for name in sorted(request.model_fields_set - {"model", "data", "threats", "surrogates", *lists}):
        value = getattr(request, name)
        if own and name in ("profile", "certify"):
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            words += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    for name, flag in lists.items():
        for line in getattr(request, name):
            words += [f"--{flag}", line]
    return shlex.join(words)


def carry_out(run: Run, job: Job, watch: Watcher | None) -> None:
    """Execute under the run's lock and its own plan, with its number of threads."""
    plan = Plan.model_validate(run.spec["plan"])
    prepared = job.prepared.pinned(plan.rows, plan.quantum, plan.slack, plan.noise)
    model = job.prepared.judge.model
    if isinstance(model, HttpModel) and not (run.folder / ANSWERS).exists():
        model.keep(run.folder / ANSWERS)
    with run.locked(), threads(plan.threads), closing(execute(run, prepared, list(job.threats.values()), job.data)) as steps:
        for progress in steps:
            if watch:
                watch(progress)
        if job.request.saliency is not None:
            keep_saliency(run, model, job.request.saliency)


def keep_saliency(run: Run, model: Model, method: Method) -> None:
    """Write what the answers to the examples that the report pictures hang on, before and after."""
    from mohs.report.pictures import choose

    hits = [(number, hit) for number, hits in enumerate(choose(run, verdict_of(run).threats)) for hit in hits]
    if not hits:
        shape = (0, *run.spec["data"]["shape"])
        clean = adversarial = np.zeros(shape, np.float32)
    else:
        shown, rows = run.gallery(), [hit.row for _, hit in hits]
        after, reached = np.stack([hit.adversarial for _, hit in hits]), np.array([hit.label for _, hit in hits])
        clean, adversarial = (
            saliency(model, torch.from_numpy(x), torch.from_numpy(label), method).numpy()
            for x, label in ((shown["x"][rows], shown["label"][rows]), (after, reached))
        )
    threat, ids = np.array([number for number, _ in hits], np.int64), np.array([hit.id for _, hit in hits], np.int64)
    run.keep_saliency({"threat": threat, "ids": ids, "clean": clean, "adversarial": adversarial}, method)


def check_pictured(examples: Examples) -> None:
    """RequestError where the report tells examples by their features."""
    from mohs.report.pictures import is_image

    if not is_image(examples.x[0].numpy()):
        shape = list(examples.x.shape[1:])
        raise RequestError(f"saliency is drawn beside pictures, and examples {shape} are no images: leave --saliency out")


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the plan."""
    packages = ("torch", "numpy", "scikit-learn", "pyarrow", "onnxruntime", "scipy")
    installed = {name: metadata.version(name) for name in packages if _installed(name)}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": installed,
        "git": _git(),
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git() -> dict[str, object] | None:
    """Commit and state of the caller's repository, where there is one."""
    try:
        ask = {"capture_output": True, "text": True, "timeout": 5, "check": True}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **ask).stdout.strip()  # type: ignore[call-overload]
        dirty = subprocess.run(["git", "status", "--porcelain"], **ask).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(dirty)}


def make_request(model: object, data: object, threats: list[str], options: dict[str, Any]) -> Request:
    """The request as plain data; RequestError where an option is unknown or does not fit."""
    from pydantic import ValidationError

    named = {
        "model": _name(model),
        "data": data if isinstance(data, str) else "<tensors>",
        "threats": threats,
    }
    try:
        return Request(**named, **options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        fields = ", ".join(sorted(set(Request.model_fields) - set(named)))
        raise RequestError(f"option {where}: {first['msg']} (given: {first.get('input')!r}); the options are {fields}") from None


def _name(model: object) -> str:
    return model if isinstance(model, str) else f"<{type(model).__name__}>"


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


def _profile(request: Request) -> Profile:
    if request.attacks and (request.surrogates or request.profile in (PROBE, CURVE.name)):
        what = "an attack on surrogates" if request.surrogates else f"the profile {request.profile}"
        raise RequestError(f"{what} is one battery, fixed: attacks of your own go beside the profiles of `mohs audit`")
    if request.profile == PROBE:
        return probing(request.queries or QUERIES, aided=bool(request.surrogates))
    if request.profile == CERTIFY:
        return certifying(certificates.make(request.method))
    profile = CURVE if request.profile == CURVE.name else find_profile(request.profile)
    profile = transferred(profile) if request.surrogates else profile
    return certified(profile, certificates.make(request.method)) if request.certify else profile


def load_surrogate(model: AnyModel, x: Tensor, request: Request) -> Model:
    """A surrogate that takes the same examples, and gives gradients."""
    try:
        loaded = load(model, x, request.model_copy(update={"describe": None}))
    except ModelError as error:
        raise ModelError(f"the surrogate {_name(model)} does not fit: {error}") from error
    if loaded.gives < Knowledge.GRADIENT:
        raise ModelError(f"the surrogate {loaded.name} gives {loaded.gives}, and an attack is made on its gradients")
    return loaded


def _goals(goal: Goal, model: Model) -> list[Goal]:
    goal.check(model.classes)
    return goal.cases(model.classes)


def _same(run: Run, what: str, now: object, then: object) -> None:
    if now != then:
        raise RunError(
            f"the {what} of {run.folder} changed since the run began (then {then}, now {now}); "
            "resume with what it was begun with, or begin a new run"
        )
