"""A copy of a model, trained on its answers: an adversary who may ask makes attacks on the copy, and carries them over."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from mohs.data import Examples, load_data
from mohs.errors import ModelError, Refused, RequestError, RunFailed
from mohs.models import Model
from mohs.models.contract import check_contract
from mohs.models.factory import call_factory
from mohs.models.http import HttpModel
from mohs.models.torch_model import as_logits
from mohs.request import make_request
from mohs.rng import Stream
from mohs.subjects import AnyModel, load, load_http
from mohs.threat import Knowledge

HELD_OUT = 0.25  # of the data: what agreement is measured on
FEWEST = 20  # answers that a substitute is trained on at least
BATCH = 64
RATE = 1e-3  # of Adam
SIDE = 8  # pixels a side that the network for images flattens, at most


@dataclass(frozen=True)
class Substitute:
    """module: logits of inputs in the victim's bounds, in evaluation mode. agreement: of its label with the victim's on
    `held_out` examples that it was not trained on; chance: of the victim's most frequent label there. queries: rows that the
    victim was asked about; unanswered: of these, without an answer. sizes: of the training set, a round each. account: of an
    endpoint, the counts of `mohs.store.answers`, None of a model at hand."""

    module: nn.Module
    agreement: float
    chance: float
    held_out: int
    queries: int
    unanswered: int
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    account: dict[str, float] | None = None

    def save(self, path: str | Path) -> Path:
        """Write the network as a .pt2, which `mohs audit VICTIM --surrogate FILE` takes."""
        path = saved_as(path)
        parameter = next(self.module.parameters())
        example = torch.zeros(2, *self.shape, device=parameter.device)
        program = torch.export.export(self.module, (example,), dynamic_shapes=({0: torch.export.Dim("rows")},))
        temporary = path.with_name(f"{path.stem}.tmp.pt2")
        torch.export.save(program, temporary)
        os.replace(temporary, path)
        return path


def saved_as(path: str | Path) -> Path:
    """A path that a substitute can be written to; RequestError else, before anything is asked."""
    path = Path(path)
    if path.suffix != ".pt2":
        raise RequestError(f"a substitute is written as a .pt2, and not as {path.name!r}")
    if not path.parent.is_dir():
        raise RequestError(f"there is no folder {path.parent} to write {path.name} to")
    return path


def substitute(
    model: AnyModel,
    data: str | Tensor | tuple[Tensor, Tensor] | Examples,
    *,
    queries: int = 6400,
    rounds: int = 6,
    lambda_: float = 0.1,
    architecture: str | nn.Module | None = None,
    knowledge: str = "label",
    epochs: int = 10,
    answers: Path | None = None,
    **options: Any,
) -> Substitute:
    """Train a network F on what `model` answers to S_0, the adversary's own inputs, and in every round to
    S_{rho+1} = S_rho + {x + lambda sign(J_F[O(x)])}, x in S_rho: a step along the gradient of the logit of the answer O(x).

    queries: rows asked about, those held out included. Where they do not suffice for doubling, a round asks about an even share
    of what is left, drawn at random (the paper's reservoir sampling, its size set by the budget). lambda_: in parts of the
    range. knowledge: `label` as in the paper, or `scores`, to train on the probabilities. F goes on from round to round, for
    `epochs` each. architecture: `package.module:factory` or a module, of which a copy is trained; without one a small network by
    the input's shape. J_F is of logits and not of probabilities, whose gradients vanish where F is sure; the paper leaves that
    open. answers: a file in which those of an endpoint are kept: stopped and called again, nothing is asked twice.
    model, data, options: as of `mohs.audit`, or, with `describe`, of `mohs.probe`; a tensor is data without labels, which are
    used for checks alone.
    Papernot, McDaniel, Goodfellow, Jha, Celik, Swami, AsiaCCS 2017, arXiv:1602.02697.
    """
    if knowledge not in (Knowledge.LABEL.name.lower(), Knowledge.SCORES.name.lower()):
        raise RequestError(f"a substitute is trained on `label` or `scores`, and not on {knowledge!r}")
    if rounds < 0 or epochs < 1:
        raise RequestError(f"rounds should be 0 or more and epochs 1 or more, not {rounds} and {epochs}")
    seed = int(options.get("seed", 0))
    x, y, data = _inputs(data, options)
    victim = _victim(model, data, x, queries, answers, options)
    try:
        if y is not None:
            check_contract(victim, x, y)
        if victim.gives < Knowledge[knowledge.upper()]:
            raise Refused(f"{victim.name} gives {victim.gives}, and the substitute is to be trained on {knowledge}")
        asker = _Asker(victim, knowledge == "scores", queries, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = _network(architecture, x, victim)
            return _learn(module, x.to(victim.device), asker, rounds, lambda_, epochs)
    finally:
        if isinstance(victim, HttpModel):
            victim.client.close()


def _learn(module: nn.Module, x: Tensor, asker: _Asker, rounds: int, lambda_: float, epochs: int) -> Substitute:
    low, high = asker.model.bounds
    order = asker.stream.at("held out").permutation(len(x))[0].to(x.device)
    n = min(round(HELD_OUT * len(x)), asker.left // 4)
    held, held_answers = asker.ask(x[order[:n]], "held out")
    x, answer = asker.ask(x[order[n:]], "seed")
    if len(held) == 0 or len(x) < FEWEST or len(answer.argmax(1).unique()) < 2:
        seen = f"{len(x)} answers of {len(answer.argmax(1).unique())} classes, and {len(held)} to hold out,"
        raise RunFailed(f"{seen} are too few for a substitute: give more data or queries")
    sizes = []
    for rho in range(rounds + 1):
        _train(module, x, answer, epochs, asker.stream.at("train", rho))
        sizes.append(len(x))
        if rho == rounds or asker.left == 0:
            break
        moved = (x + lambda_ * (high - low) * _gradient(module, x, answer.argmax(1)).sign()).clamp(low, high)
        share = math.ceil(asker.left / (rounds - rho))
        chosen = asker.stream.at("round", rho).permutation(len(moved))[0][:share].to(x.device)
        fresh, heard = asker.ask(moved[chosen], f"round {rho}")
        x, answer = torch.cat([x, fresh]), torch.cat([answer, heard])
    theirs = held_answers.argmax(1)
    with torch.no_grad():
        ours = torch.cat([as_logits(module(part), "logits").argmax(1) for part in held.split(BATCH)])
    return Substitute(
        module=module.requires_grad_(False),
        agreement=float((ours == theirs).float().mean()),
        chance=float(theirs.bincount().max() / len(theirs)),
        held_out=len(held),
        queries=asker.asked,
        unanswered=asker.unanswered,
        sizes=tuple(sizes),
        shape=tuple(x.shape[1:]),
        account=asker.model.client.answers.tally() if isinstance(asker.model, HttpModel) else None,
    )


class _Asker:
    """Asks a victim, and counts."""

    def __init__(self, model: Model, soft: bool, queries: int, seed: int) -> None:
        self.model, self.soft, self.queries = model, soft, queries
        self.stream = Stream.of(seed, torch.zeros(1, dtype=torch.int64)).at("substitute")
        self.seed, self.asked, self.unanswered = seed, 0, 0

    @property
    def left(self) -> int:
        return self.queries - self.asked

    @torch.no_grad()
    def ask(self, x: Tensor, purpose: str) -> tuple[Tensor, Tensor]:
        """The inputs that were answered, as far as the budget goes, and the answers as probabilities [n, classes]: one-hot
        labels unless `soft`."""
        x = x[: self.left]
        draws = Stream.of(self.seed, torch.arange(len(x))).at("substitute", purpose)
        parts = torch.arange(len(x)).split(self.model.batch or BATCH)
        z = [self.model.drawn(draws.take(rows)).logits(x[rows.to(x.device)]).float() for rows in parts]
        logits = torch.cat(z) if z else x.new_zeros(0, self.model.classes)
        heard = ~logits.isnan().any(1)
        self.asked += len(x)
        self.unanswered += int((~heard).sum())
        kept = logits[heard]
        answer = kept.softmax(1) if self.soft else one_hot(kept.argmax(1), self.model.classes).float()
        return x[heard], answer


def _train(module: nn.Module, x: Tensor, answer: Tensor, epochs: int, stream: Stream) -> None:
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), lr=RATE)
    for epoch in range(epochs):
        for rows in stream.at("epoch", epoch).permutation(len(x))[0].to(x.device).split(BATCH):
            if len(rows) > 1:  # batch norm has no variance of one
                optimiser.zero_grad()
                cross_entropy(as_logits(module(x[rows]), "logits"), answer[rows]).backward()
                optimiser.step()
    module.eval()


def _gradient(module: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    """Of the logit of its label with respect to each input."""
    found = []
    for part, wanted in zip(x.split(BATCH), label.split(BATCH), strict=True):
        part = part.detach().requires_grad_()
        logit = as_logits(module(part), "logits").gather(1, wanted[:, None]).sum()
        found.append(torch.autograd.grad(logit, part)[0])
    return torch.cat(found)


def _inputs(data: Any, options: dict[str, Any]) -> tuple[Tensor, Tensor | None, Any]:
    if isinstance(data, Tensor):
        if not isinstance(options.get("describe"), type(None)):
            raise RequestError("an endpoint's answers are checked against labels: give (x, y)")
        return data.float(), None, (data, None)
    if isinstance(data, Examples):
        return data.x.float(), data.y, data
    known = {name: options[name] for name in ("limit", "seed", "bounds") if name in options}
    examples = load_data(data, **known)
    return examples.x.float(), examples.y, data


def _victim(model: AnyModel, data: Any, x: Tensor, queries: int, answers: Path | None, options: dict[str, Any]) -> Model:
    if options.get("describe") is None:
        return load(model, x, make_request(model, data, [], options))
    options = {**options, "describe": str(options["describe"])}
    total = min(queries, options.pop("total", None) or queries)
    request = make_request(model, data, [], {"profile": "probe", "queries": queries, "total": total, **options})
    return load_http(str(model), request, answers)


def _network(architecture: str | nn.Module | None, x: Tensor, victim: Model) -> nn.Module:
    """What is trained, on the victim's device; ModelError where it does not fit."""
    if architecture is None:
        module: object = small_network(tuple(x.shape[1:]), victim.classes, victim.bounds)
    else:
        module = call_factory(architecture) if isinstance(architecture, str) else copy.deepcopy(architecture)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{architecture} gives a {type(module).__name__}; a substitute is a torch.nn.Module, which is trained")
    module = module.to(victim.device).requires_grad_(True).eval()
    try:
        with torch.no_grad():
            shape = list(as_logits(module(x[:2].to(victim.device)), "logits").shape)
    except RuntimeError as error:
        raise ModelError(f"{architecture} does not take inputs of shape {list(x.shape[1:])}: {error}") from error
    if shape != [2, victim.classes]:
        raise ModelError(f"{architecture} answers {shape} to two inputs, and the victim has {victim.classes} classes")
    return module


class Unit(nn.Module):
    """Inputs in their bounds, brought to [-1, 1]."""

    def __init__(self, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.low, self.high = bounds

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x - self.low - self.high) / (self.high - self.low)


def small_network(shape: tuple[int, ...], classes: int, bounds: tuple[float, float]) -> nn.Module:
    """Convolutions that halve an image [channels, height, width] down to 8 pixels a side, and a hidden layer; for inputs of
    another shape two hidden layers."""
    if len(shape) != 3:
        d = math.prod(shape)
        return nn.Sequential(
            Unit(bounds), nn.Flatten(), nn.Linear(d, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, classes)
        )
    channels, height, width = shape
    halvings = max(0, math.ceil(math.log2(max(height, width) / SIDE)))
    layers: list[nn.Module] = [Unit(bounds)]
    wide = channels
    for i, stride in enumerate([2] * halvings + [1] * (2 - halvings)):
        narrow, wide = wide, 64 if i else 32
        layers += [nn.Conv2d(narrow, wide, 3, stride=stride, padding=1), nn.ReLU()]
        height, width = -(-height // stride), -(-width // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide * height * width, 128), nn.ReLU(), nn.Linear(128, classes))
