"""What is asked of a training, as plain data, and the job it becomes once model, data, recipe and threat are checked."""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from mohs.data import Examples, load_data
from mohs.data.shared import shared
from mohs.environment import environment
from mohs.errors import DataError, ModelError, RequestError
from mohs.models import TorchModel
from mohs.models.contract import in_range
from mohs.models.probe import first_answer
from mohs.models.trainable import held_still, network_of
from mohs.request import Request as AuditRequest
from mohs.rng import Stream
from mohs.subjects import check_aids, facing
from mohs.threat import ManifoldThreat, PerceptualThreat, Threat, parse_threat
from mohs.train import Recipe, parse
from mohs.train.augment import MIXING, augmentation
from mohs.train.loop import Task, fit
from mohs.train.recipe import Trainer
from mohs.train.training import Training

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
    """A request made concrete. test: the examples of the audits. threats: what they are under, all that the recipe hardens
    against. notes: what is to be known of it before it begins."""

    request: Request
    task: Task
    test: Examples
    threats: list[Threat]
    spec: dict[str, Any]
    notes: tuple[str, ...] = ()


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
    examples = _examples(data, request, request.limit)
    classes = _classes(examples)
    network = network_of(model, examples.x, classes, training.seed, request.trust_pickle)
    whole = recipe
    for modifier in modifiers:
        network, whole = modifier.architecture(network), modifier.around(whole)
    outputs = _check(network, examples, recipe, training, classes)
    whole.suits(network, examples.x[: training.batch])
    if training.strategy == "fsdp":
        _check_parts(whole, training)
    threats: list[Threat] = []
    if against is not None:
        for finding in in_range(request.bounds, examples.x):
            raise DataError(f"{examples.name}: {finding.message}")
        against = _facing(against, network.eval(), examples.x, classes, request)
        threats = whole.threats(against)
        for part in threats:
            if part is not against and isinstance(part, PerceptualThreat | ManifoldThreat):
                raise RequestError(f"the threat {part} is made with a network, and is to be the one of --threat, not of --others")
            part.check(examples.x[:64])
    elif request.perceptual_model or request.autoencoder:
        raise RequestError("a perceptual model and an autoencoder are for threats made of them: give --threat, or leave them out")
    order = Stream.of(training.seed, torch.arange(1)).at("split").permutation(len(examples))[0]
    held = max(1, round(training.validate_share * len(examples)))
    kept, out = order[held:].sort().values, order[:held].sort().values
    if training.batch > len(kept):
        raise RequestError(
            f"a batch of {training.batch} is more than the {len(kept)} examples to train on: {held} of {len(examples)} are held "
            "out. Give a smaller --batch or --validate, or more data"
        )
    task = Task(
        network=network,
        recipe=whole,
        x=examples.x[kept],
        y=examples.y[kept],
        held_x=examples.x[out],
        held_y=examples.y[out],
        classes=outputs,
        training=training,
        threat=against,
    )
    held_out = Examples(task.held_x, task.held_y, examples.ids[out], f"{examples.name}, held out", examples.class_names)
    tested = held_out if test is None else _examples(test, request)
    if tested.x.shape[1:] != examples.x.shape[1:]:
        raise DataError(f"the test examples are {list(tested.x.shape[1:])} and those to train on {list(examples.x.shape[1:])}")
    seen = int(shared(tested.x, task.x).sum())
    spec = {
        "schema": SCHEMA_VERSION,
        "mohs": metadata.version("mohs"),
        "request": request.model_dump(mode="json", by_alias=True),
        "recipe": {type(part).__name__: part.spec() for part in (recipe, *modifiers)},
        "data": {"name": examples.name, "n": len(examples), "sha256": examples.sha256()},
        "test": {"name": tested.name, "n": len(tested), "sha256": tested.sha256(), "seen": seen},
        "weights": _fingerprint(network),
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
    told = (
        f"{seen} of the {len(tested)} examples of the audits, {tested.name}, are among those that the weights are fitted to, "
        "which flatters: give others by --test"
    )
    return Job(request, task, tested, threats, spec, (*held_still(network), *([told] if seen else ())))


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


def _examples(data: str | tuple[Tensor, Tensor] | Examples, request: Request, limit: int | None = None) -> Examples:
    if isinstance(data, Examples):
        return data
    return load_data(data, limit=limit, seed=request.training.seed, bounds=request.bounds)


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


def _check(network: nn.Module, examples: Examples, recipe: Recipe, training: Training, classes: int) -> int:
    """How many scores the network gives, once all fits together."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError("the model has no parameter that training could change")
    out: object = first_answer(network.eval(), examples.x[:2], network)
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
    return int(out.shape[1])


def _check_parts(recipe: Recipe, training: Training) -> None:
    """Raise RequestError where the weights cannot lie in parts over processes."""
    calmer = recipe.calmer() if training.guard else None
    if not recipe.shards:
        raise RequestError("the recipe looks at the weights, or at gradients of gradients, and takes them whole: --strategy ddp")
    if calmer is not None and not calmer.shards:
        raise RequestError("where training breaks down the recipe goes on with GradAlign, which takes weights whole: --no-guard")
    if training.average is not None:
        raise RequestError("an average of the weights takes them whole in every process: --strategy ddp, or no --average")
    if training.precision == "16":
        raise RequestError("weights in parts are trained in precision 32 or bf16, not 16")


def _anew(network: nn.Module, seed: int, name: str) -> nn.Module:
    """A copy, its layers' weights drawn again where they know how; those of an exported graph stay."""
    fresh = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + zlib.crc32(name.encode()))
        for part in fresh.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
    return fresh


def _fingerprint(network: nn.Module) -> str:
    return TorchModel(network, classes=0).fingerprint()
