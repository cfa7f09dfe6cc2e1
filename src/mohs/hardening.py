"""Hardening: train a network by a recipe, and measure again what an adversary can do to it."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mohs.auditing import Result, Watcher, resume
from mohs.auditing import carry_out as carry_out_audit
from mohs.data import Examples
from mohs.errors import ModelError, RunError
from mohs.jobs import Job as Audit
from mohs.jobs import describe
from mohs.jobs import make_job as make_audit
from mohs.report.training import write_page
from mohs.store import Run
from mohs.store.faults import write_durably
from mohs.store.run import SPEC as RUN
from mohs.store.run import locked, unused
from mohs.store.verdict import union
from mohs.threat import Threat
from mohs.train import checkpoint
from mohs.train.launch import launched
from mohs.train.loop import Epoch, Standing, fit
from mohs.train.tracking import tracker
from mohs.training_jobs import Job, make_job, trainer

SPEC, WEIGHTS, MODEL = "train.json", "{}.safetensors", "model.pt2"
BEFORE, AFTER = "audit-before", "audit-after"


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
            "seen": spec["test"]["seen"],
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
    notes = list(job.notes)
    first = None
    try:
        first = _audit_of(job, job.task.network)
    except ModelError as error:  # such as weights of zero, which training mends
        notes.append(f"the first weights were not audited: {error}")
    _claim(folder)
    with locked(folder), ExitStack() as open_:
        _begin(folder, job, allow_drift)
        told = [open_.enter_context(each(folder, job.spec)) for each in trackers]

        def tell(epoch: Epoch) -> None:
            for call in (*told, *([watch] if watch else ())):
                call(epoch)

        before = _audited(first, folder / BEFORE, watch_audit)
        processes.barrier()
        network, last, standing = _trained(job, folder, tell)
        for name, weights in (("last", last), ("best", standing.best)):
            write_durably(folder / WEIGHTS.format(name), _safe(weights))
        if not export(network, job.test.x, folder / MODEL):
            notes.append(
                f"{MODEL} was not written, since torch.export cannot follow the network's code: load {WEIGHTS.format('best')} or "
                f"{WEIGHTS.format('last')} in a factory of yours"
            )
        after = _audited(_audit_of(job, network), folder / AFTER, watch_audit)
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


def export(network: nn.Module, x: Tensor, path: Path) -> bool:
    """Write the network as torch.export does, for any number of rows; False where its code cannot be exported."""
    dynamic = ({0: torch.export.Dim("n")},)
    x = x[torch.arange(4) % len(x)]  # of one row the number would be taken for a constant
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(network, (x,), dynamic_shapes=dynamic), path)
    except Exception:  # tracing runs the user's code
        return False
    return True


def _claim(folder: Path) -> None:
    """Make the folder; RunError where it holds something else."""
    if not (folder / SPEC).exists() and not unused(folder, SPEC):
        raise RunError(f"{folder} exists and is not a training of mohs; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}") from error


def _begin(folder: Path, job: Job, allow_drift: bool) -> None:
    """Go on with what was begun there, or begin: another request makes room as long as nothing was trained by it."""
    path = folder / SPEC
    try:
        begun = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}; name another folder") from error
    asked = ("schema", "request", "recipe", "data", "test", "weights")
    other = next((what for what in asked if begun.get(what) != job.spec[what]), None)
    if other is not None:
        if any(folder.rglob(checkpoint.NAME)) or any(folder.glob(WEIGHTS.format("*"))):
            raise RunError(
                f"{folder} holds a training begun with another {other} (then {_difference(begun.get(other), job.spec[other])}): "
                "the same command goes on with it; name another folder for another training"
            )
        shutil.rmtree(folder / BEFORE, ignore_errors=True)
        write_durably(path, json.dumps(job.spec, indent=1, ensure_ascii=False).encode())
    elif begun["threads"] != job.spec["threads"] and not allow_drift:
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


def _audit_of(job: Job, network: nn.Module) -> Audit | None:
    """The audit of these weights, checked and planned; None where the recipe was given no threat."""
    if not job.threats:
        return None
    proofs: dict[str, Any] = {"certify": True, "method": "interval"} if job.task.recipe.certified else {}
    return make_audit(
        copy.deepcopy(network).cpu().eval(),
        (job.test.x, job.test.y),
        threats=job.threats,
        profile=job.request.profile,
        bounds=job.request.bounds,
        **proofs,
    )


def _audited(audit: Audit | None, folder: Path, watch: Watcher | None) -> Result | None:
    """Carried out in the folder, or gone on with there."""
    if audit is None:
        return None
    if (folder / RUN).exists():
        model, data = audit.prepared.judge.model, (audit.data.x, audit.data.y)
        return resume(folder, model=model, data=data, threats=list(audit.threats.values()), watch=watch)
    run = Run.create(folder, describe(audit))
    carry_out_audit(run, audit, watch)
    return Result(run)


def _scores(result: Result | None) -> dict[str, Any] | None:
    """Shares of the examples; robust: against every threat at once, example by example. What is proved too, where the audit had a
    certificate of the one threat."""
    if result is None:
        return None
    threats = result.verdict.threats
    certified = threats[0].certified if len(threats) == 1 else None
    return {
        "clean_accuracy": result.clean_accuracy,
        "robust_accuracy": union(threats).low,
        "by_threat": result.robust_accuracy,
        **({} if certified is None else {"proved_accuracy": certified.low}),
    }


def _safe(weights: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: value.clone().contiguous() for name, value in weights.items()})
