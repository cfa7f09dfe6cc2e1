"""What a defence costs and what it is worth: clean accuracy, latency, and robust accuracy against who does not know of it and
against who does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mohs.auditing import Result, Watcher, audit, resume
from mohs.data import Examples, load_data
from mohs.defend.table import defended, shown
from mohs.errors import RequestError, RunError
from mohs.jobs import describe, make_job
from mohs.models import Model
from mohs.request import make_request
from mohs.store import Run
from mohs.store.verdict import union
from mohs.subjects import AnyModel, alone

TRANSFER = "+knowledge:transfer"
TIMED, REPEATS = 64, 5  # examples in a pass that is timed; the least of so many passes counts


@dataclass(frozen=True)
class Defended:
    """before, after: clean accuracy without and with the defences; before is None where the model takes only what they make of
    an input. latency: the time of a pass with them, in passes without. results: by name, the audits `before`, of the model
    alone; `naive`, of an adversary who attacks the model alone and is judged behind the defences; `adaptive`, of one who goes
    through them (BPDA, EOT)."""

    defences: tuple[str, ...]
    n: int
    before: float | None
    after: float
    latency: float
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def robust_accuracy(self) -> dict[str, dict[str, float]]:
        """By threat, then by the names of the results, and `worse`: what neither a naive nor an adaptive adversary broke, example
        by example. Undecided examples count as broken."""
        found: dict[str, dict[str, float]] = {}
        for name in ("before", "naive", "adaptive"):
            for text, share in self.results[name].robust_accuracy.items() if name in self.results else ():
                found.setdefault(text.removesuffix(TRANSFER) if name == "naive" else text, {})[name] = share
        against = (self.results[name].verdict.threats for name in ("naive", "adaptive") if name in self.results)
        for same in zip(*against, strict=True):
            found[same[-1].text]["worse"] = union(same).low
        return found


def defend(
    model: AnyModel,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    defences: Sequence[str],
    threats: Sequence[str] = (),
    out: str | Path | None = None,
    watch: Watcher | None = None,
    **options: Any,
) -> Defended:
    """Put defences before a model, such as `jpeg:75`, through which an input passes in the order given, and measure.

    model, data, options: as of `mohs.audit`. threats: none measures clean accuracy and latency alone. out: the folder of the
    runs `before`, `naive` and `adaptive`; called again with the same request, it goes on where it was.
    Raises RequestError where the request is wrong, before anything is written.
    """
    if not defences:
        raise RequestError("a defence is to be named, such as jpeg:75; `mohs defences` lists them")
    options = {**options, "defences": list(defences)}
    request = make_request(model, data, list(threats), options)
    examples = (
        data if isinstance(data, Examples) else load_data(data, limit=request.limit, seed=request.seed, bounds=request.bounds)
    )
    seen = shown(examples.x[:TIMED].float(), defences, request.bounds)
    fits = seen.shape == examples.x[:TIMED].shape
    bare = alone(model, examples.x, request)
    subject = defended(bare, defences)
    results = {}
    if threats:
        asked: dict[str, dict[str, Any]] = {}
        if fits:
            asked |= {"before": {**options, "defences": []}, "naive": {**options, "surrogates": [model]}}
        asked["adaptive"] = options  # the dearest last
        folder = None if out is None else Path(out)
        results = {name: _audited(model, data, threats, folder and folder / name, watch, each) for name, each in asked.items()}
    clean = {name: results[name].clean_accuracy for name in ("before", "adaptive") if name in results}
    before = clean.get("before", _accuracy(bare, examples, request.rows) if fits and not results else None)
    after = clean["adaptive"] if results else _accuracy(subject, examples, request.rows)
    return Defended(tuple(defences), len(examples), before, after, latency(bare, seen, subject, examples.x[:TIMED]), results)


def latency(bare: Model, seen: Tensor, subject: Model, x: Tensor) -> float:
    """The time of a pass of `subject` over x, in passes of `bare` over what it sees; by the processor's clock where it is that
    which works."""
    clock = time.process_time if bare.device.type == "cpu" else time.perf_counter

    def once(model: Model, x: Tensor) -> float:
        started = clock()
        model.logits(x).cpu()
        return clock() - started

    with torch.no_grad():
        times = [(once(bare, seen.to(bare.device)), once(subject, x.float().to(bare.device))) for _ in range(REPEATS + 1)][1:]
    one, other = (min(column) for column in zip(*times, strict=True))
    return float(other / max(one, 1e-9))


def _audited(
    model: AnyModel, data: Any, threats: Sequence[str], folder: Path | None, watch: Watcher | None, options: dict[str, Any]
) -> Result:
    """The audit in a folder, gone on with where it was begun by the same request."""
    if folder is None or not (folder / "run.json").exists():
        return audit(model, data, threats=threats, out=folder, watch=watch, **options)
    now = describe(make_job(model, data, threats=threats, **options))["request"]["command"]
    then = Run.open(folder).spec["request"]["command"]
    if now != then:
        raise RunError(f"{folder} is of another request, {then!r}; name another folder")
    return resume(folder, model=model, data=data, surrogates=options.get("surrogates"), watch=watch)


@torch.no_grad()
def _accuracy(model: Model, data: Examples, rows: int) -> float:
    parts = zip(data.x.float().split(model.batch or rows), data.y.split(model.batch or rows), strict=True)
    right = sum(int((model.logits(x.to(model.device)).argmax(1).cpu() == y).sum()) for x, y in parts)
    return right / len(data)
