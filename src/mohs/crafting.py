"""One change for all examples: made from some, judged on others."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mohs.attacks.universal.craft import Craft, find
from mohs.attacks.universal.replay import KEY, Replay
from mohs.data import Examples, load_data
from mohs.errors import DataError, RequestError
from mohs.ledger import Status
from mohs.models import Model, Prepared, prepare
from mohs.models.contract import Finding, check_contract
from mohs.report.pictures import change_png
from mohs.report.tables import finite
from mohs.request import make_request
from mohs.rng import Stream
from mohs.store.verdict import Score
from mohs.subjects import load
from mohs.threat import Goal, PatchThreat, Threat, parse_goal, parse_threat

Data = str | tuple[Tensor, Tensor] | Examples


@dataclass(frozen=True, eq=False)
class Universal:
    """A change and what it does to examples it was not made from.

    point: [*input], or the pixels of a patch, for `Replay`. grey: the value that the picture shows as grey. fooling: of the
    held-out examples, those it moves to the goal; untargeted, away from the model's own clean prediction, right or wrong.
    crafted: the same share of the examples it was made from. clean, accuracy: of the labels of the held-out examples, without
    and with the change. reached: whether `crafted` came to what was wanted.
    """

    point: Tensor
    threat: str
    goal: str
    method: str
    settings: dict[str, object]
    fooling: Score
    clean: Score
    accuracy: Score
    crafted: float
    reached: bool
    made_from: int
    forwards: int
    backwards: int
    seconds: float
    bounds: tuple[float, float]
    grey: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Every number, as JSON knows them."""
        scores = {"fooling_rate": self.fooling, "clean_accuracy": self.clean, "accuracy": self.accuracy}
        return {
            "threat": self.threat,
            "goal": self.goal,
            "method": self.method,
            "settings": self.settings,
            **{name: _numbers(score) for name, score in scores.items()},
            "made_from": self.made_from,
            "fooling_rate_crafting": self.crafted,
            "reached": self.reached,
            "forwards": self.forwards,
            "backwards": self.backwards,
            "seconds": round(self.seconds, 3),
        }

    def save(self, path: str | Path) -> list[Path]:
        """Write `uap.safetensors`, which `Replay` reads, and for `uap.png` a picture of the change beside it: magnified, grey
        where nothing changes. Returns what was written."""
        from safetensors.torch import save

        from mohs.store.faults import write_durably

        path = saved_as(path)
        files = {path.with_suffix(".safetensors"): save({KEY: self.point.contiguous()}, {"mohs": json.dumps(self.facts())})}
        if path.suffix == ".png":
            files[path] = change_png(self.point.numpy() - self.grey)
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_durably(name, content)
        return list(files)

    def __str__(self) -> str:
        return (
            f"{self.method} at {self.threat}, made from {self.made_from} examples: fooling rate {self.fooling} on "
            f"{self.fooling.n} held-out ones, {self.crafted:.1%} on its own\n"
            f"accuracy {self.clean} without, {self.accuracy} with it"
        )


def universal(
    model: str | Model | nn.Module,
    data: Data,
    *,
    threat: str | Threat,
    method: str | Craft | None = None,
    fooling_rate: float = 0.8,
    goal: str | Goal = "untargeted",
    test: Data | None = None,
    held_out: float = 0.25,
    seed: int = 0,
    limit: int | None = None,
    settings: dict[str, object] | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> Universal:
    """Make one change of every input within a threat, from some examples, and judge it on others.

    model, data: as `mohs.audit` takes them. method: `gradient`, `uap`, `singular`, `patch` (`mohs.attacks.universal`), with
    `settings` for its fields, or a Craft; without one, `patch` for patches and `gradient` for norms. fooling_rate: in (0, 1],
    the share of the crafting examples from which on no better change is looked for. test: the held-out data; without it, the
    share `held_out` of `data`, drawn under `seed`. out: what to `save` it as. options: bounds, outputs, device, rows,
    trust_pickle. Raises RequestError where the request is wrong.
    """
    if not 0 < fooling_rate <= 1:
        raise RequestError(f"the fooling rate should lie in (0, 1], and is {fooling_rate:g}; 0.8 is four examples in five")
    parsed = parse_threat(threat) if isinstance(threat, str) else threat
    aim = parse_goal(goal) if isinstance(goal, str) else goal
    method = method or ("patch" if isinstance(parsed, PatchThreat) else "gradient")
    craft = find(method).from_spec(settings or {}) if isinstance(method, str) else method
    request = make_request(model, data, [str(threat)], {"seed": seed, "limit": limit, **options})
    every = data if isinstance(data, Examples) else load_data(data, limit=limit, seed=seed, bounds=request.bounds)
    subject = load(model, every.x, request)
    findings = check_contract(subject, every.x, every.y)
    if test is not None and not isinstance(test, Examples):
        test = load_data(test, bounds=request.bounds)
    mine, others = _parts(every, test, held_out, seed)
    if test is not None:
        findings += [found for found in check_contract(subject, others.x, others.y) if found not in findings]
    parsed = parsed.facing(subject)
    craft.check(parsed, subject)
    for part in (mine, others):
        parsed.check(part.x)
    if out is not None and saved_as(out).suffix == ".png":
        change_png(np.zeros(parsed.change_shape(every.x)))  # raises where there is no picture to be had, before the work
    prepared = prepare(subject, mine.x[:8], rows=request.rows)
    started = time.perf_counter()
    made = craft(prepared, mine.x, threat=parsed, rate=fooling_rate, goal=aim, seed=seed)
    spent = time.perf_counter() - started
    fooling, clean, accuracy = judge(prepared, made.change, others.x, others.y, parsed, aim, seed)
    result = Universal(
        point=made.change,
        threat=str(threat),
        goal=str(aim),
        method=method if isinstance(method, str) else type(method).__name__,
        settings=craft.spec(),
        fooling=fooling,
        clean=clean,
        accuracy=accuracy,
        crafted=made.share,
        reached=made.share >= fooling_rate,
        made_from=len(mine),
        forwards=made.forwards,
        backwards=made.backwards,
        seconds=spent,
        bounds=subject.bounds,
        grey=sum(subject.bounds) / 2 if isinstance(parsed, PatchThreat) else 0.0,
        findings=findings,
    )
    if out is not None:
        result.save(out)
    return result


def judge(
    prepared: Prepared, point: Tensor, x: Tensor, y: Tensor, threat: Threat, goal: Goal, seed: int = 0
) -> tuple[Score, Score, Score]:
    """What a change does to examples x [n, *input] with labels y: the fooling rate against the clean predictions, the accuracy
    without it and the accuracy with it."""
    device = prepared.judge.model.device
    predicted = prepared.judge.reference(x.to(device)).argmax(1).cpu()
    outcome = Replay(point=point)(prepared, x, predicted, threat=threat, goal=goal, seed=seed)
    applicable = sum(status != Status.INAPPLICABLE for status in outcome.status)
    open_ = sum(status in (Status.UNDECIDED, Status.ERROR) for status in outcome.status)
    x0 = x.to(device)
    stream = Stream.of(seed, torch.arange(len(x0), device=device)).at("accuracy")
    moved = threat.apply(threat.shared(point[None].to(device), x0, stream), x0)
    found = prepared.judge.reference(moved).argmax(1).cpu()
    clean, kept = int((predicted == y).sum()), int((found == y).sum())
    return Score(int(outcome.broken.sum()), open_, applicable), Score(clean, 0, len(y)), Score(kept, 0, len(y))


def saved_as(path: str | Path) -> Path:
    """The path of what `save` writes; RequestError for another kind of file."""
    path = Path(path)
    if path.suffix not in (".png", ".safetensors"):
        raise RequestError(f"--out should end in .png (a picture, and the change beside it) or .safetensors, not {path.name!r}")
    return path


def _parts(data: Examples, test: Examples | None, held_out: float, seed: int) -> tuple[Examples, Examples]:
    """What the change is made from, and what it is judged on."""
    if test is not None:
        if test.x.shape[1:] != data.x.shape[1:]:
            raise DataError(
                f"the test data have the shape {list(test.x.shape[1:])}, and those to make the change from "
                f"{list(data.x.shape[1:])}"
            )
        return data, test
    if not 0 < held_out < 1:
        raise RequestError(f"the share held out should lie between 0 and 1, and is {held_out:g}")
    if len(data) < 2:
        raise DataError("one example cannot be parted: give at least two, or other data to judge on")
    count = min(max(round(held_out * len(data)), 1), len(data) - 1)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.take(order[count:].sort().values), data.take(order[:count].sort().values)


def _numbers(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {"low": finite(score.low), "high": finite(score.high), "interval95": [low, high], "n": score.n}
