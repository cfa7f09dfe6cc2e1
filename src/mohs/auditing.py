"""The main job: how much can an adversary do to this model?"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mohs.data import Examples
from mohs.engine.execute import Progress, execute
from mohs.engine.plan import Plan
from mohs.errors import RunError
from mohs.jobs import Job, describe, make_job
from mohs.models import Model
from mohs.models.cpu import threads
from mohs.models.http import HttpModel
from mohs.models.saliency import Method, saliency
from mohs.request import Request
from mohs.store import Run
from mohs.store.answers import NAME as ANSWERS
from mohs.store.verdict import Verdict, verdict_of
from mohs.subjects import AnyModel
from mohs.threat import Threat

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Watcher = Callable[[Progress], None]


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


def _same(run: Run, what: str, now: object, then: object) -> None:
    if now != then:
        raise RunError(
            f"the {what} of {run.folder} changed since the run began (then {then}, now {now}); "
            "resume with what it was begun with, or begin a new run"
        )
