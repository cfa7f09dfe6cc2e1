"""Hardening: train a network by a recipe, and measure again what an adversary can do to it."""

from __future__ import annotations

import copy
import json
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from mohs.auditing import Result, Watcher, audit
from mohs.data import Examples, load_data
from mohs.environment import environment
from mohs.errors import DataError, ModelError, RequestError, RunError
from mohs.models import TorchModel
from mohs.models.trainable import network_of
from mohs.report.training import write_page
from mohs.request import Request as AuditRequest
from mohs.rng import Stream
from mohs.store.faults import write_durably
from mohs.store.run import locked
from mohs.subjects import check_aids, facing
from mohs.threat import PerceptualThreat, Threat, parse_threat
from mohs.train import Recipe, parse
from mohs.train.loop import Epoch, Standing, Task, fit, launched
from mohs.train.recipe import Trainer
from mohs.train.tracking import tracker
from mohs.train.training import Training

SPEC, WEIGHTS, MODEL = "train.json", "{}.safetensors", "model.pt2"
SCHEMA_VERSION = 1


class Request(BaseModel):
    """What was asked, as plain data. options: of the recipe. test: what the audits before and after are on; None: the held-out
    part of the data. perceptual_model, autoencoder: what threats of these kinds are made with. profile: of those audits."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    data: str
    recipe: str = "pgd"
    options: dict[str, Any] = {}
    threat: str | None = None
    test: str | None = None
    limit: int | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    perceptual_model: str | None = None
    autoencoder: str | None = None
    profile: str = "quick"
    trust_pickle: bool = False
    training: Training = Training()


@dataclass(frozen=True)
class Job:
    """A request made concrete. test: the examples of the audits."""

    request: Request
    task: Task
    test: Examples
    spec: dict[str, Any]


class Hardened:
    """A training that is done. network: the weights that were asked for, in evaluation mode; before, after: the audits, None
    where the recipe was given no threat, and before also where the first weights could not be audited. notes: what could not
    be had, and why."""

    def __init__(
        self,
        folder: Path,
        network: nn.Module,
        standing: Standing,
        before: Result | None,
        after: Result | None,
        notes: Sequence[str] = (),
    ) -> None:
        self.folder, self.network, self.standing, self.before, self.after = folder, network, standing, before, after
        self.notes = list(notes)

    @property
    def facts(self) -> dict[str, Any]:
        """Clean and robust accuracy before and after, and a row an epoch, as JSON and the page know them."""
        spec = json.loads((self.folder / SPEC).read_text())
        asked = spec["request"]
        audits = {"before": _scores(self.before), "after": _scores(self.after)}
        return {
            "folder": str(self.folder),
            **{name: asked[name] for name in ("model", "data", "recipe", "threat", "profile", "training")},
            "recipes": spec["recipe"],
            "keep": asked["training"]["keep"],
            "test": asked["test"] or "the held-out part",
            "chosen": asked["test"] is None,
            "n": None if self.after is None else self.after.verdict.clean.n,
            **audits,
            "best_epoch": self.standing.best_epoch + 1,
            "epochs": self.history,
            "notes": self.notes,
            "mohs": spec["mohs"],
        }

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """A row an epoch: loss, rate, seconds, clean and robust accuracy on the held-out part, what recipes of certified training
        prove of it, and what happened."""
        return self.standing.history


def harden(
    model: str | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    out: str | Path,
    threat: str | Threat | None = None,
    test: str | tuple[Tensor, Tensor] | Examples | None = None,
    watch: Callable[[Epoch], None] | None = None,
    watch_audit: Watcher | None = None,
    allow_drift: bool = False,
    log: Sequence[str] = (),
    **options: Any,
) -> Hardened:
    """Train a model by a recipe against a threat, and audit it before and after.

    model: a module (it is copied), or what `mohs train` takes. data: (x [n, *input], y [n]), or what `--data` takes. out: the
    folder; the same call goes on with what is in it. options: the fields of `Request`, of `Training`, and of the recipe.
    allow_drift: go on with another number of threads, whose bits differ. log: `tensorboard`, `mlflow`, which get every epoch's
    figures (`mohs.train.tracking`). Raises RequestError where the request is wrong, and then nothing is written.
    """
    job = make_job(model, data, threat=threat, test=test, **options)
    return carry_out(job, Path(out), watch=watch, watch_audit=watch_audit, allow_drift=allow_drift, log=log)


def carry_out(
    job: Job,
    folder: Path,
    *,
    watch: Callable[[Epoch], None] | None = None,
    watch_audit: Watcher | None = None,
    allow_drift: bool = False,
    log: Sequence[str] = (),
) -> Hardened:
    """Carry out a job in a folder, or go on with it; `harden` says what is what. Of several processes the first one audits and
    writes; the others train with it, and know of no audit."""
    trackers = [tracker(name) for name in log]
    processes = launched(job.request.training)
    if not processes.is_global_zero:
        processes.barrier()
        network, _, standing = _trained(job, folder)
        return Hardened(folder, network, standing, None, None)
    _begin(folder, job, allow_drift)
    with locked(folder), ExitStack() as open_:
        told = [open_.enter_context(each(folder, job.spec)) for each in trackers]

        def tell(epoch: Epoch) -> None:
            for call in (*told, *([watch] if watch else ())):
                call(epoch)

        notes: list[str] = []
        before = None
        try:
            before = _audit(
                job, job.task.network, folder / "audit-before", watch_audit
            )  # of the weights that training begins with
        except ModelError as error:  # such as weights of zero, which training mends
            notes.append(f"the first weights were not audited: {error}")
        processes.barrier()
        network, last, standing = _trained(job, folder, tell)
        for name, weights in (("last", last), ("best", standing.best)):
            write_durably(folder / WEIGHTS.format(name), _safe(weights))
        if not export(network, job.test.x, folder / MODEL):
            notes.append(
                f"{MODEL} was not written, since torch.export cannot follow the network's code: load {WEIGHTS.format('best')} or "
                f"{WEIGHTS.format('last')} in a factory of yours"
            )
        after = _audit(job, network, folder / "audit-after", watch_audit)
    found = Hardened(folder, network, standing, before, after, notes)
    write_page(found.facts, folder / "report.html")
    for result in filter(None, (before, after)):
        result.report(result.run.folder / "report.html")
    return found


def _trained(
    job: Job, folder: Path, watch: Callable[[Epoch], None] | None = None
) -> tuple[nn.Module, dict[str, Tensor], Standing]:
    """The network with the weights that were asked for, the last weights, and what is known of the training."""
    task = replace(job.task, aids=job.task.recipe.aids(trainer(job, folder)))
    standing = fit(task, folder, watch)
    last = {name: value.detach().cpu() for name, value in task.network.state_dict().items()}
    task.network.load_state_dict(standing.best if job.request.training.keep == "best" else last)
    return task.recipe.deployed(task.network.cpu().eval()), last, standing


def make_job(
    model: str | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    threat: str | Threat | None = None,
    test: str | tuple[Tensor, Tensor] | Examples | None = None,
    **options: Any,
) -> Job:
    """Load and check; nothing is written."""
    request = make_request(model, data, threat, test, options)
    training = request.training
    recipe, modifiers = parse(request.recipe, request.options)
    against = _threat(threat, recipe)
    examples = data if isinstance(data, Examples) else load_data(data, limit=request.limit, seed=training.seed)
    classes = _classes(examples)
    network = network_of(model, examples.x, classes, training.seed, request.trust_pickle)
    whole = recipe
    for modifier in modifiers:
        network, whole = modifier.architecture(network), modifier.around(whole)
    _check(network, examples, recipe, training, classes)
    whole.suits(network, examples.x[: training.batch])
    if against is not None:
        against = _facing(against, network.eval(), examples.x, classes, request)
        against.check(examples.x[:64])
    elif request.perceptual_model or request.autoencoder:
        raise RequestError("a perceptual model and an autoencoder are for threats made of them: give --threat, or leave them out")
    order = Stream.of(training.seed, torch.arange(1)).at("split").permutation(len(examples))[0]
    held = max(1, round(training.validate_share * len(examples)))
    kept, out = order[held:].sort().values, order[:held].sort().values
    task = Task(
        network=network,
        recipe=whole,
        x=examples.x[kept],
        y=examples.y[kept],
        held_x=examples.x[out],
        held_y=examples.y[out],
        classes=classes,
        training=training,
        threat=against,
    )
    held_out = Examples(task.held_x, task.held_y, examples.ids[out], f"{examples.name}, held out", examples.class_names)
    tested = held_out if test is None else test if isinstance(test, Examples) else load_data(test, seed=training.seed)
    if tested.x.shape[1:] != examples.x.shape[1:]:
        raise DataError(f"the test examples are {list(tested.x.shape[1:])} and those to train on {list(examples.x.shape[1:])}")
    spec = {
        "schema": SCHEMA_VERSION,
        "mohs": metadata.version("mohs"),
        "request": request.model_dump(mode="json", by_alias=True),
        "recipe": {type(part).__name__: part.spec() for part in (recipe, *modifiers)},
        "data": {"name": examples.name, "n": len(examples), "sha256": examples.sha256()},
        "weights": _fingerprint(network),
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
    return Job(request, task, tested, spec)


def make_request(model: object, data: object, threat: object, test: object, options: dict[str, Any]) -> Request:
    """The request as plain data: an option that is no field of `Request` or `Training` is the recipe's."""
    of_training = {field.alias or name for name, field in Training.model_fields.items()}
    fields = {name: value for name, value in options.items() if name in Request.model_fields}
    training = {name: value for name, value in options.items() if name in of_training}
    own = {name: value for name, value in options.items() if name not in fields and name not in training}
    try:
        return Request(
            model=model if isinstance(model, str) else f"<{type(model).__name__}>",
            data=data if isinstance(data, str) else "<tensors>",
            threat=None if threat is None else str(threat),
            test=test if isinstance(test, str) or test is None else "<tensors>",
            training=Training(**training),
            **{"options": own, **fields},
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(f"option {where}: {first['msg']} (given: {first.get('input')!r})") from None


def export(network: nn.Module, x: Tensor, path: Path) -> bool:
    """Write the network as torch.export does, for any number of rows; False where its code cannot be exported."""
    dynamic = ({0: torch.export.Dim("n")},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(network, (x[:4],), dynamic_shapes=dynamic), path)
    except Exception:  # tracing runs the user's code
        return False
    return True


def _begin(folder: Path, job: Job, allow_drift: bool) -> None:
    """A new folder, or one in which the same was begun."""
    path = folder / SPEC
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} exists and is not a training of mohs; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error.strerror}") from error
        write_durably(path, json.dumps(job.spec, indent=1, ensure_ascii=False).encode())
        return
    try:
        begun = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}; name another folder") from error
    for what in ("schema", "request", "recipe", "data", "weights"):
        if begun.get(what) != job.spec[what]:
            raise RunError(
                f"{folder} holds a training begun with another {what} (then {_difference(begun.get(what), job.spec[what])}): "
                "the same command goes on with it; name another folder for another training"
            )
    if begun["threads"] != job.spec["threads"] and not allow_drift:
        raise RunError(
            f"{folder} was begun with {begun['threads']} threads and this process has {job.spec['threads']}, which gives other "
            "bits: set OMP_NUM_THREADS, or say --allow-drift"
        )


def _difference(then: Any, now: Any) -> str:
    """Only what differs, where it is a table."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return repr(then)
    names = [name for name in {**now, **then} if then.get(name) != now.get(name)]
    return ", ".join(f"{name} {_difference(then.get(name), now.get(name))}" for name in names)


def _threat(threat: str | Threat | None, recipe: Recipe) -> Threat | None:
    parsed = parse_threat(threat) if isinstance(threat, str) else threat
    recipe.check(parsed)
    if parsed is not None and not 0 < parsed.epsilon < torch.inf:
        raise RequestError(f"training against {parsed} needs a budget above 0, such as linf:8/255")
    return parsed


def _facing(threat: Threat, network: nn.Module, x: Tensor, classes: int, request: Request) -> Threat:
    """In the bounds of the data; seen by the request's perceptual model, along the manifold of its autoencoder or of one fitted
    to x. A perceptual threat without a network sees with the one that is trained, as it is at each step."""
    own = AuditRequest(
        model=request.model,
        data=request.data,
        threats=[str(threat)],
        bounds=request.bounds,
        trust_pickle=request.trust_pickle,
        perceptual_model=request.perceptual_model,
        autoencoder=request.autoencoder,
    )
    check_aids(own, [threat])
    if isinstance(threat, PerceptualThreat) and request.perceptual_model is None:
        return threat.within(request.bounds)
    return facing(threat, TorchModel(network, classes=classes, bounds=request.bounds), x, own)


def _classes(examples: Examples) -> int:
    classes = max(int(examples.y.max()) + 1, len(examples.class_names or ()))
    if len(examples.y.unique()) < 2:
        raise DataError(f"{examples.name} has one class alone, {int(examples.y[0])}; there is nothing to tell apart")
    return classes


def _check(network: nn.Module, examples: Examples, recipe: Recipe, training: Training, classes: int) -> None:
    from mohs.train.augment import MIXING, augmentation

    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError("the model has no parameter that training could change")
    with torch.no_grad():
        out = network.eval()(examples.x[:2])
    if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[1] < classes:
        what = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"the model gives {what} for two examples, and the labels go to {classes - 1}: it should give [2, {classes}]"
        )
    for text in training.augment:
        augmentation(text, classes)
        if examples.x.ndim != 4:
            raise RequestError(f"the augmentation {text} is for images [n, channels, height, width]")
        if text.partition(":")[0] in MIXING and not recipe.mixes:
            raise RequestError(f"{type(recipe).__name__} needs one label an example: leave {text} out")
    if training.batch > len(examples):
        raise RequestError(f"a batch of {training.batch} is more than the {len(examples)} examples there are")


def trainer(job: Job, folder: Path) -> Trainer:
    """Trains what a recipe needs first: the same network from other first weights, on the same data."""

    def train(name: str, recipe: Recipe) -> nn.Module:
        own = folder / name
        own.mkdir(exist_ok=True)
        task = replace(job.task, network=_anew(job.task.network, job.request.training.seed, name), recipe=recipe, aids={})
        standing = fit(task, own)
        task.network.load_state_dict(standing.best)
        return task.network.eval().requires_grad_(False)

    return Trainer(job.task.network, train, job.task.x, job.task.y, job.request.bounds)


def _anew(network: nn.Module, seed: int, name: str) -> nn.Module:
    """A copy, its layers' weights drawn again where they know how; those of an exported graph stay."""
    fresh = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + zlib.crc32(name.encode()))
        for part in fresh.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
    return fresh


def _audit(job: Job, network: nn.Module, folder: Path, watch: Watcher | None) -> Result | None:
    from mohs.auditing import resume
    from mohs.store import Run

    threat = job.task.threat
    if threat is None:
        return None
    network = copy.deepcopy(network).cpu().eval()
    data = (job.test.x, job.test.y)
    if (folder / "run.json").exists():
        if Run.open(folder).complete:
            return Result(Run.open(folder))
        return resume(folder, model=network, data=data, threats=[threat], watch=watch)
    return audit(
        network,
        data,
        threats=[threat],
        profile=job.request.profile,
        certify=job.task.recipe.certified,
        method="interval",
        out=folder,
        watch=watch,
        bounds=job.request.bounds,
    )


def _scores(result: Result | None) -> dict[str, float] | None:
    """Shares of the examples; what is proved too, where the audit had a certificate."""
    if result is None:
        return None
    (robust,), (threat,) = result.robust_accuracy.values(), result.verdict.threats
    proved = {} if threat.certified is None else {"proved_accuracy": threat.certified.low}
    return {"clean_accuracy": result.clean_accuracy, "robust_accuracy": robust, **proved}


def _fingerprint(network: nn.Module) -> str:
    return TorchModel(network, classes=0).fingerprint()


def _safe(weights: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: value.clone().contiguous() for name, value in weights.items()})
