"""What a detector is worth: against attacks that ignore it, and against those that do not."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mohs.aim import Aim
from mohs.attacks.gradient.pgd import PGD
from mohs.auditing import Result, Watcher, audit, carry_out
from mohs.data import Examples, load_data
from mohs.data.shared import shared
from mohs.detectors import ROC, Guarded, Method, find, guard
from mohs.engine.profiles import find_profile
from mohs.errors import DataError, RequestError
from mohs.jobs import describe, make_job
from mohs.models import Batched, Judge, Model, Prepared, prepare
from mohs.models.contract import check_contract
from mohs.oracle import Oracle
from mohs.report.detection import FILE
from mohs.report.tables import finite
from mohs.request import command as command_of
from mohs.request import make_request
from mohs.store import Run
from mohs.store.faults import write_durably
from mohs.store.verdict import Score, within
from mohs.subjects import facing, load
from mohs.threat import Threat, Untargeted, parse_threat

Data = str | tuple[Tensor, Tensor] | Examples
HELD = 0.25  # of the data to fit on: what the threshold is set on
FALSE_ALARMS = (0.01, 0.05)  # at which the share found is told
POINTS = 200  # of a ROC curve that is kept, at most
IGNORING = "ignoring"  # the run, in the folder of the other, whose attacks know of no detector
NAIVE = PGD(steps=40)
ONE_STEP = PGD(steps=1, step_size=1.0, random_start=False)  # what a detector is fitted on, as its authors do: FGSM


@dataclass(frozen=True, eq=False)
class Detected:
    """What `mohs.detect` found. facts: every number. result: the adaptive audit, of the guarded model. guarded: the model
    that rejects, a Model like any other."""

    facts: dict[str, Any]
    result: Result
    guarded: Guarded

    @property
    def auroc(self) -> dict[str, float | None]:
        """By threat, of the naive attack's successes against clean examples; None where there were none."""
        return {threat["text"]: threat["auroc"] for threat in self.facts["threats"]}

    @property
    def robust_accuracy(self) -> dict[str, float]:
        """By threat: classified rightly and not rejected, whatever any of the attacks did. Undecided ones count as broken."""
        return {threat["text"]: threat["joint"]["low"] for threat in self.facts["threats"]}

    def report(self, path: str | Path) -> Path:
        """Write the HTML report."""
        return self.result.report(path)

    def save(self, folder: str | Path) -> Path:
        """Keep both runs in a folder."""
        return self.result.save(folder)


def detect(
    model: str | Model | nn.Module,
    data: Data,
    *,
    method: str | Method,
    fit: Data | None,
    threats: Sequence[str],
    false_alarms: float = 0.05,
    profile: str = "quick",
    settings: dict[str, object] | None = None,
    out: str | Path | None = None,
    watch: Watcher | None = None,
    **options: Any,
) -> Detected:
    """Fit a detector, and attack the model behind it: without regard to it, and both at once.

    model, data, out, watch: as of `mohs.audit`. method: `mahalanobis`, `lid`, `squeezing`, `nre`, `magnet` (`mohs.detectors`),
    with `settings` for its fields. fit: clean examples beside `data`: three in four to fit on, with attacked twins of one step
    under the first threat where the method asks for them, the others for the threshold at `false_alarms`. profile: of both
    audits. options: limit, seed, bounds, outputs, device, rows, trust_pickle. Raises RequestError where the request is wrong,
    before anything is written.
    """
    chosen = find(method).from_spec(settings or {}) if isinstance(method, str) else method
    name = method if isinstance(method, str) else type(method).__name__.lower()
    if fit is None:
        raise RequestError(
            f"the detector {name} is fitted on clean data, and its threshold set on others of them, that are not those it is "
            "tried on: give --fit train.npz"
        )
    if not threats:
        raise RequestError("a detector is tried under a threat, such as linf:8/255")
    if not 0 < false_alarms < 1:
        raise RequestError(f"the rate of false alarms should lie between 0 and 1, and is {false_alarms:g}; 0.05 is one in twenty")
    seed = int(options.get("seed", 0))
    request = make_request(model, data, list(threats), {"profile": profile, **options})
    find_profile(profile)
    examples = data if isinstance(data, Examples) else load_data(data, limit=request.limit, seed=seed, bounds=request.bounds)
    clean = fit if isinstance(fit, Examples) else load_data(fit, bounds=request.bounds)
    _check(examples, clean, false_alarms)
    subject = load(model, examples.x, request)
    for part in (examples, clean):
        check_contract(subject, part.x, part.y)
    bound = {text: facing(parse_threat(text), subject, examples.x, request) for text in threats}
    for threat in bound.values():
        threat.check(examples.x)
        NAIVE.check(threat, Untargeted(), subject)
    mine, held = _parts(clean, seed)
    prepared = prepare(subject, examples.x[:8], rows=request.rows)
    twins = last_points(ONE_STEP, prepared, mine, next(iter(bound.values())), seed) if chosen.attacked else None
    detector = chosen.fit(subject, mine.x, mine.y, twins)
    guarded = guard(detector, held.x, false_alarms)
    naive = {text: last_points(NAIVE, prepared, examples, threat, seed) for text, threat in bound.items()}
    job = make_job(guarded, examples, threats=list(threats), profile=profile, **options)

    folder = Path(out if out is not None else tempfile.mkdtemp(prefix="mohs-"))
    spec = describe(job)
    asked = ["mohs", "detect", *shlex.split(command_of(request))[2:], "--with", name]
    asked += ["--fit", fit if isinstance(fit, str) else "<tensors>", "--false-alarms", f"{false_alarms:g}"]
    for field, value in (settings or {}).items():
        asked += [f"--{field.replace('_', '-')}", str(value)]
    spec["request"]["command"] = shlex.join(asked)
    run = Run.create(folder, spec)
    result = Result(run)
    if out is None:
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    ignoring = audit(model, examples, threats=threats, profile=profile, out=folder / IGNORING, watch=watch, **options)
    carry_out(run, job, watch)
    facts = {
        "detector": {"name": name, "paper": chosen.paper, "settings": chosen.spec(), "differentiable": detector.differentiable},
        "false_alarms": {
            "asked": false_alarms,
            "held_out": _rate(guarded, held),
            "n": len(held),
            "test": _rate(guarded, examples),
        },
        "threshold": guarded.threshold,
        "profile": result.verdict.profile,
        "n": len(examples),
        "clean": {"undefended": ignoring.clean_accuracy, "guarded": result.clean_accuracy},
        "latency": latency(subject, guarded, examples.x[: request.rows]),
        "threats": [_of_threat(i, job.prepared.judge, ignoring, result, examples, naive[text]) for i, text in enumerate(bound)],
    }
    write_durably(folder / FILE, json.dumps(facts, indent=1).encode())
    return Detected(facts, result, guarded)


def last_points(attack: PGD, prepared: Prepared, examples: Examples, threat: Threat, seed: int) -> Tensor:
    """Inputs [n, *input] at the end of one trajectory from each example, right or wrong, that no success cuts short."""
    parts = []
    for rows in torch.arange(len(examples)).split(2 * prepared.judge.rows):
        x, y = examples.x[rows], examples.y[rows]
        oracle = Oracle.begin(prepared, threat, Untargeted(), x, y, ids=rows, seed=seed, stage="detect", stop=False)
        parts.append(oracle.threat.apply(attack.run(oracle, oracle.x0, oracle.threat), oracle.x0).detach().cpu())
    return torch.cat(parts)


def latency(model: Model, guarded: Model, x: Tensor) -> float:
    """The processor time of a guarded forward pass over that of a bare one, by the fastest of five each, in turn."""
    spent: dict[Model, float] = {}
    for _ in range(5):
        for part in (model, guarded):
            started = time.process_time()
            Batched(part, len(x), 1).scores(x.to(part.device))
            spent[part] = min(spent.get(part, np.inf), time.process_time() - started)
    return spent[guarded] / max(spent[model], 1e-9)


def joint(judge: Judge, x: Tensor, y: Tensor) -> Tensor:
    """[n] bool: whether a guarded model misclassifies inputs x [n, *input] with labels y [n], and does not reject them."""
    device = judge.model.device
    return judge.confirm(x.to(device), Untargeted(rejected=judge.model.rejected), Aim(y.to(device))).reached.cpu()


def _of_threat(
    number: int, judge: Judge, ignoring: Result, adaptive: Result, examples: Examples, naive: Tensor
) -> dict[str, Any]:
    """What each kind of attack came to under a threat."""
    guarded = judge.model
    assert isinstance(guarded, Guarded)
    bare, detector = guarded.detector.model, guarded.detector
    right, wrong = _right(bare, examples.x, examples.y), ~_right(bare, naive, examples.y)
    fooled = right & wrong
    roc = ROC.of(detector.scores(examples.x[right]), detector.scores(naive[fooled])) if fooled.any() else None
    verdict, undefended = adaptive.verdict.threats[number], ignoring.verdict.threats[number]
    broken = ~_right(guarded, examples.x, examples.y) | joint(judge, naive, examples.y)
    rows = {int(i): row for row, i in enumerate(examples.ids.tolist())}
    for stored in ignoring.run.examples():
        inside = within(stored["distance"], undefended.epsilon, undefended.rounding)  # a stage that measures goes beyond
        mine = np.flatnonzero((stored["threat"] == number) & inside)
        if len(mine):
            where = torch.tensor([rows[int(i)] for i in stored["ids"][mine]])
            hits = joint(judge, torch.from_numpy(stored["adversarial"][mine]), examples.y[where])
            broken[where[hits]] = True
    status = np.full(len(examples), "undecided", object)
    status[[rows[int(i)] for i in verdict.ids]] = verdict.status
    ignored = broken.numpy()
    robust, open_ = (status == "robust") & ~ignored, (status == "undecided") & ~ignored
    n = len(examples)
    return {
        "text": verdict.text,
        "attacked": int(fooled.sum()),
        "clean": int(right.sum()),
        "auroc": None if roc is None else roc.auroc,
        "tpr": [{"fpr": rate, "tpr": None if roc is None else roc.tpr_at(rate)} for rate in FALSE_ALARMS],
        "roc": [] if roc is None else _thinned(roc),
        "undefended": _score(undefended.score),
        "ignoring": _score(Score(n - int(ignored.sum()), 0, n)),
        "adaptive": _score(verdict.score),
        "joint": _score(Score(int(robust.sum()), int(open_.sum()), n)),
        "missed": int((ignored & (status == "robust")).sum()),
    }


def _right(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """[n] bool: classified as y, and not rejected."""
    return Batched(model).scores(x.float().to(model.device)).argmax(1).cpu() == y


def _rate(guarded: Guarded, examples: Examples) -> float:
    """The share of clean examples that is rejected."""
    labels = Batched(guarded).scores(examples.x.to(guarded.device)).argmax(1)
    return int((labels == guarded.classes - 1).sum()) / len(labels)


def _thinned(roc: ROC) -> list[list[float]]:
    kept = torch.linspace(0, len(roc.fpr) - 1, min(POINTS, len(roc.fpr))).long()
    return [[round(f, 6), round(t, 6)] for f, t in zip(roc.fpr[kept].tolist(), roc.tpr[kept].tolist(), strict=True)]


def _score(score: Score) -> dict[str, Any]:
    return {"low": finite(score.low), "high": finite(score.high), "interval95": list(score.interval), "n": score.n}


def _check(examples: Examples, clean: Examples, false_alarms: float) -> None:
    if examples.x.shape[1:] != clean.x.shape[1:]:
        raise DataError(
            f"the data to fit on have the shape {list(clean.x.shape[1:])}, and those to try it on {list(examples.x.shape[1:])}"
        )
    if (again := shared(clean.x, examples.x)).any():
        raise DataError(
            f"{int(again.sum())} of the {len(clean)} examples to fit on are those the detector is to be tried on, at positions "
            f"{clean.ids[again][:5].tolist()}: leave them out, or give others, such as the training data"
        )
    for part in (examples, clean):
        if len(part.y.unique()) < 2:
            raise DataError(f"{part.name} holds examples of one class alone, {int(part.y[0])}; expected two or more")
    held = round(HELD * len(clean))
    if false_alarms * held < 1:
        raise DataError(
            f"a rate of false alarms of {false_alarms:g} cannot be set on {held} examples, a quarter of those to fit on: "
            f"give at least {int(np.ceil(1 / false_alarms / HELD))}, or a larger rate"
        )


def _parts(clean: Examples, seed: int) -> tuple[Examples, Examples]:
    """What is fitted on, and what the threshold is set on."""
    order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(seed))
    count = round(HELD * len(clean))
    return clean.take(order[count:].sort().values), clean.take(order[:count].sort().values)
