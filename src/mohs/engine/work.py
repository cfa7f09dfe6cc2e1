"""The work of one unit: a cohort under one stage, from rows of the data to records. It reads no run and writes none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mohs import attacks, certificates
from mohs.certificates.graph import Network, network_of
from mohs.data import Examples
from mohs.engine.plan import Plan, StagePlan
from mohs.errors import Contradiction, ModelRaised
from mohs.ledger import MARKS, Outcome, Status
from mohs.models import Guide, Prepared
from mohs.models.raised import out_of_memory
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.store import SCHEMA, Unit
from mohs.threat import Goal, Threat, parse_goal

T = TypeVar("T")
Arrays = dict[str, np.ndarray]
Work = Callable[["Task"], tuple[pa.Table, Arrays]]


class Task(NamedTuple):
    """One unit. positions: rows of the data; rows: of a micro-batch; known: the successes that earlier stages stored of
    these examples, ids and points, for a stage that measures."""

    unit: Unit
    positions: np.ndarray
    rows: int
    known: tuple[Arrays, ...] = ()


class Done(NamedTuple):
    """The records of a unit, the successes it stores, and the micro-batch at which it fitted into memory."""

    table: pa.Table
    examples: Arrays
    rows: int


@dataclass
class Worker:
    """Does units, one at a time. deadline: of `time.monotonic`."""

    plan: Plan
    prepared: Prepared
    threats: list[Threat]
    data: Examples
    deadline: float | None = None

    def do(self, task: Task) -> Done:
        goal = parse_goal(self.plan.goals[task.unit.goal]).facing(self.prepared.judge.model)
        if task.rows != self.prepared.judge.rows:
            self.prepared = self.prepared.with_rows(task.rows)
        if task.unit.stage < 0:
            name, work = "clean", partial(self._clean, goal)
        else:
            stage = self.plan.threats[task.unit.threat].stages[task.unit.stage]
            name, work = stage.name, partial(self._attack if stage.certificate is None else self._prove, stage, goal)
        table, examples = self._answered(work, task, name)
        return Done(table, examples, self.prepared.judge.rows)

    def _answered(self, work: Work, task: Task, name: str) -> tuple[pa.Table, Arrays]:
        """What comes of a unit. Where the model raises it is done in halves, as no row depends on its batch mates, and of one row
        without the guide's changes of the model, so that what they break is not laid at its door."""
        try:
            return self._fit(partial(work, task))
        except ModelRaised as error:
            told, rows = str(error), len(task.positions)
        if rows > 1:
            halves = [task._replace(positions=half) for half in np.array_split(task.positions, 2)]
            return _joined([self._answered(work, half, name) for half in halves])
        judge = self.prepared.judge
        if self.prepared.guide.model is judge.model:
            return self._failed(task, name, told)
        fast, plain = self.prepared.guide, Guide(judge.model, judge.rows, judge.quantum, slack=self.prepared.guide.slack)
        self.prepared = replace(self.prepared, guide=plain)
        try:
            return self._answered(work, task, name)
        finally:
            self.prepared = replace(self.prepared, guide=replace(fast, rows=self.prepared.judge.rows))

    def _failed(self, task: Task, name: str, reason: str) -> tuple[pa.Table, Arrays]:
        """Of a row that the model raised at before it was attacked."""
        x, y, ids = self._rows(task.positions)
        margin = torch.full((len(x),), -torch.inf)
        outcome = _unattacked(x, 0.0, status=[Status.ERROR] * len(x), reason=[reason] * len(x), margin=margin)
        return _table(outcome, task.unit, name, ids, y, None), {}

    def _clean(self, goal: Goal, task: Task) -> tuple[pa.Table, Arrays]:
        """The untouched inputs: clean accuracy, and where the goal is reached already."""
        x, y, ids = self._rows(task.positions)
        started = time.perf_counter()
        logits = self.prepared.judge.reference(x)
        aim = goal.aim(y, logits, Stream.of(self.plan.seed, ids))
        verdict = self.prepared.judge.clean(x, goal, aim)
        applies, reached = goal.applies(aim).tolist(), verdict.reached.tolist()
        status = [
            Status.INAPPLICABLE if not a else Status.BROKEN if r else Status.SURVIVED
            for a, r in zip(applies, reached, strict=True)
        ]
        reasons = ["" if a else "the goal does not apply" for a in applies]
        silent = (logits.isnan().any(1) | (verdict.margin.isnan() & ~verdict.reached)).nonzero()[:, 0]
        for i, lapse in zip(silent.tolist(), self.prepared.judge.model.lapse(x[silent]), strict=True):
            kind, _, reasons[i] = lapse.partition(": ")
            status[i] = Status(kind)
        outcome = _unattacked(
            x,
            time.perf_counter() - started,
            status=status,
            reason=reasons,
            distance=torch.where(verdict.reached, 0.0, torch.inf).double().cpu(),
            margin=verdict.margin.cpu(),
            label=verdict.label.cpu(),
            hits=verdict.hits.cpu(),
            trials=verdict.trials.cpu(),
            queries=verdict.trials.cpu() + 1,
            forwards=verdict.trials.cpu() + 1,
        )
        return _table(outcome, task.unit, "clean", ids, y, aim.target), {}

    def _prove(self, stage: StagePlan, goal: Goal, task: Task) -> tuple[pa.Table, Arrays]:
        """What a certificate says: proved, or left open, or broken by an input that it met. margin: what that of the goal comes
        to at most."""
        assert stage.certificate is not None
        unit, (x, y, ids) = task.unit, self._rows(task.positions)
        started = time.perf_counter()
        certificate, threat = certificates.made(stage.certificate), self.threats[unit.threat]
        aim = goal.aim(y, self.prepared.judge.reference(x), Stream.of(self.plan.seed, ids))
        least, point = certificate.prove(self.network, threat, x, aim)
        met = ~point.flatten(1).isnan().any(1)
        point = torch.where(met.view(-1, *[1] * (x.ndim - 1)), point, x)
        verdict = self.prepared.judge.confirm(point, goal, aim)
        proved, broken = least > 0, met & verdict.reached & threat.contains(point, x)
        if bool((proved & broken).any()):
            raise Contradiction(
                f"{stage.name} proves examples that it breaks: {ids[proved & broken].tolist()}. Please report this"
            )
        why = f"{stage.name} proves nothing: its bound of the margin is not above 0"
        outcome = _unattacked(
            x,
            time.perf_counter() - started,
            status=[
                Status.BROKEN if hit else Status.PROVED if safe else Status.UNDECIDED
                for hit, safe in zip(broken.tolist(), proved.tolist(), strict=True)
            ],
            reason=["" if settled else why for settled in (proved | broken).tolist()],
            margin=torch.where(broken, verdict.margin, -least.float()).cpu(),
            point=point.cpu(),
            adversarial=point.cpu(),
            distance=torch.where(broken, threat.distance(point, x).double(), torch.inf).cpu(),
            label=torch.where(broken, verdict.label, -1).cpu(),
            queries=met.long().cpu(),
            forwards=met.long().cpu(),
        )
        return _table(outcome, unit, stage.name, ids, y, aim.target), _stored(outcome, unit, ids)

    @cached_property
    def network(self) -> Network:
        """The model as bounds see it."""
        return network_of(self.prepared.judge.model, self.data.x[:2].float().to(self.prepared.judge.model.device))

    def _attack(self, stage: StagePlan, goal: Goal, task: Task) -> tuple[pa.Table, Arrays]:
        unit, (x, y, ids) = task.unit, self._rows(task.positions)
        measure = stage.kind == "measure"
        threat = self.threats[unit.threat]
        nearest = measure or (self.plan.queries is not None and threat.epsilon == torch.inf)
        oracle = Oracle.begin(
            self.prepared,
            threat.minimal() if measure else threat,
            goal,
            x,
            y,
            ids=ids,
            seed=self.plan.seed,
            stage=f"{self.plan.threats[unit.threat].text}/{self.plan.goals[unit.goal]}/{unit.stage}/{stage.name}",
            stop=not nearest,
            draws=self.plan.draws,
            budget=self.plan.queries,
            keep_closest=False,
            deadline=self.deadline,
        )
        _recall(oracle, task.known, ids)
        started = time.perf_counter()
        try:
            outcomes = [attacks.make(spec).on(oracle) for spec in stage.attacks]
        except ModelRaised as error:
            if len(ids) > 1 or oracle.guide.model is not oracle.judge.model:
                raise
            oracle.ledger.close(oracle.ids, f"error: {error}")  # what it was asked is counted, what was found is kept
            outcomes = [oracle.outcome(time.perf_counter() - started)]
        outcome = replace(outcomes[-1], seconds=torch.stack([o.seconds for o in outcomes]).sum(0))
        stored = _stored(outcome, unit, ids)
        if stored and self.plan.queries is not None and nearest:
            stored["trail"] = outcome.trail[outcome.broken].numpy()
            stored["trail_at"] = np.tile(np.array(MARKS), (len(stored["ids"]), 1))  # queries
        return _table(outcome, unit, stage.name, ids, y, oracle.aim.target), stored

    def _rows(self, positions: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.from_numpy(positions)
        device = self.prepared.judge.model.device
        return self.data.x[at].float().to(device), self.data.y[at].to(device), self.data.ids[at].to(device)

    def _fit(self, work: Callable[[], T]) -> T:
        """Do a piece of work in micro-batches that fit into memory."""
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                rows = self.prepared.judge.rows // 2
                if not out_of_memory(error) or rows < self.prepared.judge.quantum:
                    raise
            self.prepared = self.prepared.with_rows(rows)


def _recall(oracle: Oracle, known: tuple[Arrays, ...], ids: Tensor) -> None:
    """Start from successes of earlier stages."""
    where = {int(i): row for row, i in enumerate(ids.tolist())}
    for stored in known:
        here = np.isin(stored["ids"], ids.cpu().numpy())
        rows = torch.tensor([where[int(i)] for i in stored["ids"][here]], device=oracle.x0.device)
        if len(rows):
            oracle.recall(rows, torch.from_numpy(stored["point"][here]).to(oracle.x0.device))


def _joined(parts: list[tuple[pa.Table, Arrays]]) -> tuple[pa.Table, Arrays]:
    """The work on parts of a unit, as if it had been done on the whole."""
    stored = [examples for _, examples in parts if examples]
    examples = {name: np.concatenate([part[name] for part in stored]) for name in (stored[0] if stored else ())}
    return pa.concat_tables([table for table, _ in parts]).combine_chunks(), examples


def _unattacked(x: Tensor, seconds: float, **known: Any) -> Outcome:
    """The outcome of inputs x [n, *input] as they are: what is not known is that nothing was asked and nothing found."""
    n = len(x)
    none = torch.zeros(n, dtype=torch.int64)
    fields: dict[str, Any] = {
        "point": x.cpu(),
        "adversarial": x.cpu(),
        "distance": torch.full((n,), torch.inf, dtype=torch.float64),
        "label": none - 1,
        "queries_to_success": none - 1,
        **dict.fromkeys(("hits", "trials", "queries", "forwards", "backwards"), none),
        "seconds": torch.full((n,), seconds / n, dtype=torch.float64),
        "trail": torch.full((n, len(MARKS)), torch.inf, dtype=torch.float64),
    }
    return Outcome(**{**fields, **known})


def _stored(outcome: Outcome, unit: Unit, ids: Tensor) -> Arrays:
    """The successes, as a run keeps them; nothing where there are none."""
    hit = outcome.broken
    if not bool(hit.any()):
        return {}
    stored = {
        "ids": ids.cpu()[hit],
        "threat": torch.full((int(hit.sum()),), unit.threat, dtype=torch.int16),
        "goal": torch.full((int(hit.sum()),), unit.goal, dtype=torch.int16),
        "adversarial": outcome.adversarial[hit],
        "point": outcome.point[hit],
        "distance": outcome.distance[hit],
        "label": outcome.label[hit],
    }
    return {name: np.ascontiguousarray(value.numpy()) for name, value in stored.items()}


def _table(outcome: Outcome, unit: Unit, name: str, ids: Tensor, y: Tensor, target: Tensor | None) -> pa.Table:
    n = len(outcome)
    columns = {
        "id": ids.cpu().numpy(),
        "y": y.cpu().numpy(),
        "threat": np.full(n, unit.threat),
        "goal": np.full(n, unit.goal),
        "target": np.full(n, -1) if target is None else target.cpu().numpy(),
        "stage": np.full(n, unit.stage),
        "attack": [name] * n,
        "status": [str(status) for status in outcome.status],
        "reason": outcome.reason,
    }
    for column in SCHEMA.names[len(columns) :]:
        columns[column] = getattr(outcome, column).numpy()
    return pa.Table.from_pydict({f.name: pa.array(columns[f.name]).cast(f.type) for f in SCHEMA}, schema=SCHEMA)
