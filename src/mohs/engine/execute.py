"""Carry out a plan, unit by unit, into a run. What is committed already is read back, so resuming is the same walk."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from mohs import attacks, certificates
from mohs.data import Examples
from mohs.engine.executors import Executor, executor
from mohs.engine.plan import Plan, StagePlan
from mohs.engine.work import Arrays, Task, Worker
from mohs.ledger import Status
from mohs.models import Prepared
from mohs.store import Run, Unit
from mohs.threat import Threat

UNIT = 60  # seconds that proofs of a unit may take
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
    """What is known of every example under one threat and goal, by position in the data. margin: of the last attempt that
    failed."""

    applies: np.ndarray
    broken: np.ndarray
    proved: np.ndarray
    margin: np.ndarray

    @staticmethod
    def unseen(n: int) -> Cases:
        return Cases(np.ones(n, bool), np.zeros(n, bool), np.zeros(n, bool), np.full(n, -np.inf))

    def learn(self, positions: np.ndarray, table: pa.Table, threat: Threat) -> None:
        status = table["status"].to_numpy(zero_copy_only=False)
        distance = table["distance"].to_numpy(zero_copy_only=False)
        self.applies[positions[status == Status.INAPPLICABLE]] = False
        inside = distance <= threat.epsilon * (1 + 1e-6) + threat.rounding()
        self.broken[positions[(status == Status.BROKEN) & inside]] = True
        self.proved[positions[status == Status.PROVED]] = True
        self.margin[positions] = table["margin"].to_numpy(zero_copy_only=False)

    @property
    def open(self) -> np.ndarray:
        standing: np.ndarray = self.applies & ~self.broken & ~self.proved
        return standing


def execute(run: Run, prepared: Prepared, threats: list[Threat], data: Examples) -> Generator[Progress]:
    """Run every unit that is not committed yet. Stages go in order; survivors of one, by id, form the units of the next."""
    plan = Plan.model_validate(run.spec["plan"])
    deadline = None if plan.time is None else time.monotonic() + plan.time
    with executor(Worker(plan, prepared, threats, data, deadline)) as does:
        driver = Driver(run, plan, threats, data, does, deadline)
        clean = []
        for goal in range(len(plan.goals)):
            cases = Cases.unseen(len(data))
            yield from driver.stage(Unit(-1, goal, -1, 0), None, np.arange(len(data)), cases)
            clean.append(cases)
        driver.keep_gallery()
        for t in range(len(threats)):
            for goal in range(len(plan.goals)):
                cases = replace(
                    clean[goal],
                    applies=clean[goal].applies.copy(),
                    broken=clean[goal].broken.copy(),
                    proved=clean[goal].proved.copy(),
                    margin=clean[goal].margin.copy(),
                )
                for s, stage in enumerate(plan.threats[t].stages):
                    if stage.inapplicable is None:
                        rows = np.flatnonzero(clean[goal].open if stage.kind == "measure" else cases.open)
                        if stage.closest_first:
                            rows = rows[np.argsort(-cases.margin[rows], kind="stable")]
                        yield from driver.stage(Unit(t, goal, s, 0), stage, rows, cases)
    if not run.complete:
        run.event("complete")


class Driver:
    """Forms units, hands them out and writes down what comes back. Micro-batches shrink when memory runs out; later units,
    and a resumed run, obey."""

    def __init__(
        self, run: Run, plan: Plan, threats: list[Threat], data: Examples, does: Executor, deadline: float | None
    ) -> None:
        self.run, self.plan, self.threats, self.data, self.does, self.deadline = run, plan, threats, data, does, deadline
        shrunk = [event["rows"] for event in run.events() if event["event"] == "backoff"]
        self.rows: int = min([plan.rows, *shrunk])

    def stage(self, first: Unit, stage: StagePlan | None, rows: np.ndarray, cases: Cases) -> Iterator[Progress]:
        """One stage, or the clean inputs, over its rows."""
        threat = self.threats[first.threat] if stage else self.threats[0]
        text, name = (self.plan.threats[first.threat].text, stage.name) if stage else ("", "clean")
        units = {
            first._replace(chunk=number): chunk for number, chunk in enumerate(self._chunks(rows, self._width(stage, threat)))
        }
        done = 0

        def learn(unit: Unit, table: pa.Table, resumed: bool) -> Progress:
            nonlocal done
            done += 1
            cases.learn(units[unit], table, threat)
            standing = int((cases.applies & ~cases.broken).sum())
            return Progress(text, name, done, len(units), standing, int(cases.applies.sum()), resumed)

        todo = []
        for unit in units:
            table = self.run.committed(unit)
            if table is None:
                todo.append(unit)
            else:
                yield learn(unit, table, True)
        measures = stage is not None and stage.kind == "measure"
        for task, (table, examples, fitted) in self.does.map(self._tasks({unit: units[unit] for unit in todo}, measures)):
            if fitted < self.rows:
                self.rows = fitted
                self.run.event("backoff", rows=fitted)
            self.run.commit(task.unit, table, examples)
            yield learn(task.unit, table, False)

    def _width(self, stage: StagePlan | None, threat: Threat) -> int:
        """What an example weighs beside one that an attack moves alone: candidates in one call, or the time of its proof."""
        if stage is None:
            return 1
        if stage.certificate is not None:
            return max(1, round(self.plan.cohort * certificates.made(stage.certificate).seconds_each / UNIT))
        return max((attacks.make(spec).width(threat) for spec in stage.attacks), default=1)

    def _chunks(self, rows: np.ndarray, width: int) -> list[np.ndarray]:
        """Even parts, at most a cohort each, as many for every process."""
        most, processes = max(1, self.plan.cohort // width), self.plan.processes
        parts = -(-len(rows) // (most * processes)) * processes
        return [np.sort(part) for part in np.array_split(rows, max(1, min(parts, len(rows)))) if len(part)]

    def _tasks(self, units: dict[Unit, np.ndarray], measures: bool) -> Iterator[Task]:
        for unit, positions in units.items():
            if unit.stage >= 0 and self.deadline is not None and time.monotonic() > self.deadline:
                return
            known = self._known(unit, self.data.ids[torch.from_numpy(positions)].tolist()) if measures else ()
            yield Task(unit, positions, self.rows, tuple(known))

    def _known(self, unit: Unit, ids: list[int]) -> Iterator[Arrays]:
        """The successes that earlier stages stored of these examples."""
        for stage in range(unit.stage):
            for chunk in self.run.chunks(unit._replace(stage=stage)):
                stored = self.run.unit_examples(chunk)
                found = np.isin(stored["ids"], ids) if stored else np.zeros(0, bool)
                if found.any():
                    yield {"ids": stored["ids"][found], "point": stored["point"][found]}

    def keep_gallery(self) -> None:
        """The first clean inputs with their predictions, for the report's pictures."""
        label = dict[int, int]()
        for unit in self.run.chunks(Unit(-1, 0, -1, 0)):
            table = self.run.committed(unit)
            assert table is not None
            label.update(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))
        ids = self.data.ids[:GALLERY]
        shown = {"ids": ids, "x": self.data.x[:GALLERY], "y": self.data.y[:GALLERY]}
        seen = np.array([label[i] for i in ids.tolist()], np.int64)
        self.run.keep_gallery({name: part.numpy() for name, part in shown.items()} | {"label": seen})
