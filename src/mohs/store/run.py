"""A run folder: `run.json` (what was asked and planned), `records/*.parquet`, `examples/*.safetensors`, `events.jsonl`.

The record file of a unit is its commit mark: examples are durable before it appears. A killed process loses at most
the unit in hand. One process writes a run at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import load_file, save

from mohs.errors import RunError
from mohs.store import records
from mohs.store.faults import append_durably, write_durably

SCHEMA_VERSION = 1
SPEC = "run.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; RunError where another process does."""
    with open(folder / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise RunError(f"{folder} is being written by another process (pid {holder}); wait for it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def unused(folder: Path, spec: str) -> bool:
    """Whether a run whose request goes into the file `spec` may begin in a folder: it holds no file, but for those of one that
    was killed before `spec` was there."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.is_dir() or path.name in (f"{spec}.tmp", "lock") for path in folder.rglob("*"))


class Unit(NamedTuple):
    """The address of one cohort under one stage."""

    threat: int
    goal: int
    stage: int
    chunk: int

    def __str__(self) -> str:
        if self.stage < 0:
            return f"clean-g{self.goal:03d}-c{self.chunk:05d}"
        return f"t{self.threat:02d}-g{self.goal:03d}-s{self.stage:02d}-c{self.chunk:05d}"


class Run:
    """A run on disk. `Run.create` begins one, `Run.open` reads or resumes one."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder = folder
        self.spec = spec

    @classmethod
    def create(cls, folder: str | Path, spec: dict[str, Any]) -> Run:
        """A new run in a folder that does not exist yet, or holds no file."""
        folder = Path(folder)
        if not unused(folder, SPEC):
            raise RunError(f"{folder} exists and is not empty; name another folder, or go on with: mohs resume {folder}")
        try:
            for name in ("records", "examples"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder {folder}: {error.strerror}") from error
        run = cls(folder, {"schema": SCHEMA_VERSION, **spec})
        write_durably(folder / SPEC, json.dumps(run.spec, indent=1, ensure_ascii=False).encode())
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in a folder; RunError where there is none or it is of another schema."""
        folder = Path(folder)
        try:
            spec = json.loads((folder / SPEC).read_text())
            schema = spec["schema"]
        except FileNotFoundError:
            raise RunError(f"{folder} is not a run: it has no run.json; `mohs runs` lists the runs there are") from None
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{folder}/run.json cannot be read: {error}") from error
        if schema != SCHEMA_VERSION:
            raise RunError(
                f"{folder} has schema {schema}, and this mohs reads schema {SCHEMA_VERSION}; use the mohs that made it"
            )
        return cls(folder, spec)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for writing; RunError where another process does."""
        return locked(self.folder)

    def commit(self, unit: Unit, table: pa.Table, examples: dict[str, np.ndarray]) -> None:
        """Make a unit durable: its examples, then its records."""
        if examples:
            write_durably(self.folder / "examples" / f"{unit}.safetensors", _bytes(examples))
        write_durably(self.folder / "records" / f"{unit}.parquet", records.to_bytes(table))

    def committed(self, unit: Unit) -> pa.Table | None:
        """The records of a unit, or None where it was not committed."""
        path = self.folder / "records" / f"{unit}.parquet"
        return pq.read_table(path) if path.exists() else None

    def records(self) -> pa.Table:
        """Every committed record."""
        return records.concat([pq.read_table(path) for path in sorted((self.folder / "records").glob("*.parquet"))])

    def examples(self, of: Collection[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
        """The stored successes, unit by unit: ids, threat, goal, adversarial, distance; only of committed units. of: only
        these examples, so that the rest is never read."""
        for path in sorted((self.folder / "records").glob("*.parquet")):
            stored = self.folder / "examples" / f"{path.stem}.safetensors"
            if stored.exists():
                yield load_file(stored) if of is None else _some(stored, of)

    def gallery(self) -> dict[str, np.ndarray]:
        """The clean inputs kept for the report: ids, x, y, label; nothing where none were kept."""
        path = self.folder / "examples" / "gallery.safetensors"
        return load_file(path) if path.exists() else {}

    def unit_examples(self, unit: Unit) -> dict[str, np.ndarray]:
        """What a committed unit stored; nothing where it stored nothing."""
        path = self.folder / "examples" / f"{unit}.safetensors"
        return load_file(path) if path.exists() else {}

    def chunks(self, unit: Unit) -> list[Unit]:
        """The committed units of a stage."""
        stem = str(unit).rpartition("-c")[0]
        found = sorted((self.folder / "records").glob(f"{stem}-c*.parquet"))
        return [unit._replace(chunk=int(path.stem.rpartition("-c")[2])) for path in found]

    def keep_gallery(self, arrays: dict[str, np.ndarray]) -> None:
        """Keep a few clean inputs for the report: ids, x, y, label (the clean prediction)."""
        write_durably(self.folder / "examples" / "gallery.safetensors", _bytes(arrays))

    def keep_saliency(self, arrays: dict[str, np.ndarray], method: str) -> None:
        """Keep what the report's pictures hang on: threat (its place in the plan), ids, clean and adversarial maps."""
        write_durably(self.folder / "examples" / "saliency.safetensors", _bytes(arrays, {"method": method}))

    def saliency(self) -> tuple[str, dict[str, np.ndarray]] | None:
        """The method and the maps, where they were asked for."""
        path = self.folder / "examples" / "saliency.safetensors"
        if not path.exists():
            return None
        with safe_open(path, "numpy") as file:
            return file.metadata()["method"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def event(self, kind: str, **facts: object) -> None:
        """Append to the run's log."""
        line = json.dumps({"at": round(time.time(), 3), "event": kind, **facts}, ensure_ascii=False)
        append_durably(self.folder / "events.jsonl", b"\n" + line.encode() + b"\n")  # a torn line must not take the next along

    def events(self) -> list[dict[str, Any]]:
        """The run's log; a line torn by a crash is skipped."""
        path = self.folder / "events.jsonl"
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    @property
    def complete(self) -> bool:
        return any(event["event"] == "complete" for event in self.events())

    def copy(self, folder: str | Path) -> Run:
        """The same run in another folder."""
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise RunError(f"{folder} exists and is not empty; name another folder")
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock", "*.tmp"))
        return Run(folder, self.spec)


def _bytes(arrays: dict[str, np.ndarray], about: dict[str, str] | None = None) -> bytes:
    """safetensors writes an array's memory as it lies: it must lie in order."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, about)


def _some(path: Path, ids: Collection[int]) -> dict[str, np.ndarray]:
    """The rows of stored examples that belong to ids."""
    with safe_open(path, "numpy") as file:
        rows = [row for row, i in enumerate(file.get_tensor("ids").tolist()) if i in ids]
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        empty = {name: part[:0] for name, part in slices.items()}
        return {name: np.concatenate([empty[name], *(part[r : r + 1] for r in rows)]) for name, part in slices.items()}
