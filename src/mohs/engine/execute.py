"""Carry out a plan, unit by unit, into a run. What is committed already is read back, so resuming is the same walk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mohs import attacks
from mohs.data import Examples
from mohs.engine.plan import Plan, StagePlan
from mohs.ledger import Outcome, Status
from mohs.models import Prepared
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.store import SCHEMA, Run, Unit
from mohs.threat import Goal, Threat, parse_goal

T = TypeVar("T")
GALLERY = 64  # examples whose clean input is kept for the report


@dataclass(frozen=True)
class Progress:
    """After each unit. standing of n cases are not broken so far; done of total units of the stage are committed."""

    threat: str
    stage: str
    done: int
    total: int
    standing: int
    n: int
    resumed: bool


@dataclass
class Cases:
    """What is known of every example under one threat and goal, by position in the data."""

    applies: np.ndarray
    broken: np.ndarray

    def learn(self, positions: np.ndarray, table: pa.Table, threat: Threat) -> None:
        status = table["status"].to_numpy(zero_copy_only=False)
        distance = table["distance"].to_numpy(zero_copy_only=False)
        self.applies[positions[status == Status.INAPPLICABLE]] = False
        inside = distance <= threat.epsilon * (1 + 1e-6) + threat.rounding()
        self.broken[positions[(status == Status.BROKEN) & inside]] = True

    @property
    def open(self) -> np.ndarray:
        standing: np.ndarray = self.applies & ~self.broken
        return standing


def execute(run: Run, prepared: Prepared, threats: list[Threat], data: Examples) -> Iterator[Progress]:
    """Run every unit that is not committed yet. Stages go in order; survivors of one, by id, form the units of the next."""
    plan = Plan.model_validate(run.spec["plan"])
    torch.set_num_threads(plan.threads)
    worker = Worker(run, plan, prepared, threats, data)
    goals = [parse_goal(text) for text in plan.goals]
    clean = []
    for number, goal in enumerate(goals):
        cases = Cases(np.ones(len(data), bool), np.zeros(len(data), bool))
        yield from worker.clean(number, replace(goal, rejected=prepared.judge.model.rejected), cases)
        clean.append(cases)
    worker.gallery()
    for t in range(len(threats)):
        for g, goal in enumerate(goals):
            cases = Cases(clean[g].applies.copy(), clean[g].broken.copy())
            for s, stage in enumerate(plan.threats[t].stages):
                if stage.inapplicable is None:
                    rows = cases.open if stage.kind == "decide" else clean[g].open
                    yield from worker.stage(Unit(t, g, s, 0), stage, goal, np.flatnonzero(rows), cases)
    if not run.complete:
        run.event("complete")


class Worker:
    """Does units. Micro-batches shrink when memory runs out; later units, and a resumed run, obey."""

    def __init__(self, run: Run, plan: Plan, prepared: Prepared, threats: list[Threat], data: Examples) -> None:
        self.run, self.plan, self.threats, self.data = run, plan, threats, data
        shrunk = [event["rows"] for event in run.events() if event["event"] == "backoff"]
        self.prepared = prepared.with_rows(shrunk[-1]) if shrunk else prepared
        self.deadline = None if plan.time is None else time.monotonic() + plan.time

    def clean(self, number: int, goal: Goal, cases: Cases) -> Iterator[Progress]:
        """The untouched inputs: clean accuracy, and where the goal is reached already."""
        chunks = _chunks(np.arange(len(self.data)), self.plan.cohort)
        for chunk, positions in enumerate(chunks):
            unit = Unit(-1, number, -1, chunk)
            table = self.run.committed(unit)
            resumed = table is not None
            if table is None:
                table = self._fit(partial(self._clean, unit, goal, positions))
                self.run.commit(unit, table, {})
            cases.learn(positions, table, self.threats[0])
            yield Progress("", "clean", chunk + 1, len(chunks), int(cases.open.sum()), int(cases.applies.sum()), resumed)

    def stage(self, first: Unit, stage: StagePlan, goal: Goal, rows: np.ndarray, cases: Cases) -> Iterator[Progress]:
        """One stage over its rows."""
        threat = self.threats[first.threat]
        width = max(attacks.make(spec).width(threat) for spec in stage.attacks)
        chunks = _chunks(rows, max(1, self.plan.cohort // width))
        for chunk, positions in enumerate(chunks):
            unit = first._replace(chunk=chunk)
            table = self.run.committed(unit)
            resumed = table is not None
            if table is None:
                if self.deadline is not None and time.monotonic() > self.deadline:
                    return
                table, examples = self._fit(partial(self._attack, unit, stage, goal, positions))
                self.run.commit(unit, table, examples)
            cases.learn(positions, table, threat)
            text = self.plan.threats[first.threat].text
            yield Progress(text, stage.name, chunk + 1, len(chunks), int(cases.open.sum()), int(cases.applies.sum()), resumed)

    def gallery(self) -> None:
        """Keep the first clean inputs, for the report's pictures."""
        x, y = self.data.x[:GALLERY], self.data.y[:GALLERY]
        label = self.prepared.judge.scores(x.to(self.prepared.judge.model.device)).argmax(1).cpu()
        self.run.keep_gallery({"ids": self.data.ids[:GALLERY].numpy(), "x": x.numpy(), "y": y.numpy(), "label": label.numpy()})

    def _clean(self, unit: Unit, goal: Goal, positions: np.ndarray) -> pa.Table:
        x, y, ids = self._rows(positions)
        started = time.perf_counter()
        logits = self.prepared.judge.scores(x)
        aim = goal.aim(y, logits, Stream.of(self.plan.seed, ids))
        verdict = self.prepared.judge.confirm(x, goal, aim)
        applies, reached = goal.applies(aim).tolist(), verdict.reached.tolist()
        status = [
            Status.INAPPLICABLE if not a else Status.BROKEN if r else Status.SURVIVED
            for a, r in zip(applies, reached, strict=True)
        ]
        n = len(x)
        outcome = Outcome(
            status=status,
            reason=["" if a else "the goal does not apply" for a in applies],
            point=x.cpu(),
            adversarial=x.cpu(),
            distance=torch.where(verdict.reached, 0.0, torch.inf).double().cpu(),
            margin=verdict.margin.cpu(),
            label=verdict.label.cpu(),
            hits=verdict.hits.cpu(),
            trials=verdict.trials.cpu(),
            queries=verdict.trials.cpu() + 1,
            queries_to_success=torch.full((n,), -1),
            forwards=verdict.trials.cpu() + 1,
            backwards=torch.zeros(n, dtype=torch.int64),
            seconds=torch.full((n,), (time.perf_counter() - started) / n, dtype=torch.float64),
        )
        return _table(outcome, unit, "clean", ids, y, aim.target)

    def _attack(self, unit: Unit, stage: StagePlan, goal: Goal, positions: np.ndarray) -> tuple[pa.Table, dict[str, np.ndarray]]:
        x, y, ids = self._rows(positions)
        measure = stage.kind == "measure"
        threat = self.threats[unit.threat]
        oracle = Oracle.begin(
            self.prepared,
            threat.minimal() if measure else threat,
            replace(goal, rejected=self.prepared.judge.model.rejected),
            x,
            y,
            ids=ids,
            seed=self.plan.seed,
            stage=f"{self.plan.threats[unit.threat].text}/{goal}/{unit.stage}/{stage.name}",
            stop=not measure,
            draws=self.plan.draws,
            keep_closest=False,
            deadline=self.deadline,
        )
        if measure:
            self._recall(oracle, unit, ids)
        outcomes = [attacks.make(spec).on(oracle) for spec in stage.attacks]
        outcome = replace(outcomes[-1], seconds=torch.stack([o.seconds for o in outcomes]).sum(0))
        hit = outcome.broken
        stored = {
            "ids": ids.cpu()[hit],
            "threat": torch.full((int(hit.sum()),), unit.threat, dtype=torch.int16),
            "goal": torch.full((int(hit.sum()),), unit.goal, dtype=torch.int16),
            "adversarial": outcome.adversarial[hit],
            "point": outcome.point[hit],
            "distance": outcome.distance[hit],
            "label": outcome.label[hit],
        }
        examples = {name: np.ascontiguousarray(value.numpy()) for name, value in stored.items()} if hit.any() else {}
        return _table(outcome, unit, stage.name, ids, y, oracle.aim.target), examples

    def _recall(self, oracle: Oracle, unit: Unit, ids: Tensor) -> None:
        """Start a measuring stage from the successes that earlier stages stored."""
        where = {int(i): row for row, i in enumerate(ids.tolist())}
        for stage in range(unit.stage):
            for chunk in self.run.chunks(unit._replace(stage=stage)):
                stored = self.run.unit_examples(chunk)
                found = [k for k, i in enumerate(stored.get("ids", [])) if int(i) in where]
                if found:
                    rows = torch.tensor([where[int(stored["ids"][k])] for k in found], device=oracle.x0.device)
                    oracle.recall(rows, torch.from_numpy(stored["point"][found]).to(oracle.x0.device))

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
                if not _out_of_memory(error) or rows < self.prepared.judge.quantum:
                    raise
            self.run.event("backoff", rows=rows)
            self.prepared = self.prepared.with_rows(rows)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


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
