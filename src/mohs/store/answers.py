"""What a remote model answered, and what that cost: one SQLite file beside the records of a run.

A query is reserved, durably, before it is sent and settled with its answer: a killed process has lost track of those in
flight and of nothing else, and a budget that `sent` is held to cannot be passed by starting again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

COUNTS = ("asked", "cached", "answered", "failed", "refused", "sent", "requests", "repeated", "seconds")
NAME = "answers.sqlite"  # in a run's folder
_TABLES = """
create table if not exists answers (key blob primary key, scores blob) without rowid;
create table if not exists tally (name text primary key, value real not null) without rowid;
"""


class Answers:
    """Answers by the key of what was sent; in memory until `move` gives them a file.

    asked: examples that attacks asked about: cached, answered and failed (no answer in the end) add up to it. refused: those
    of the failed that a guard declined, which is an answer to keep: they are not asked again. sent: examples
    over the wire, each attempt counted; requests: that carried them. repeated: sent again because a process died while they
    were in flight. seconds: spent waiting for the endpoint. limit: the most `sent` may become, None without.
    """

    def __init__(self, path: Path | None = None, limit: int | None = None) -> None:
        self.limit = limit
        self._base = _open(path)
        self._lost = {row[0] for row in self._base.execute("select key from answers where scores is null")}

    def move(self, path: Path) -> None:
        """Go on in a file, with everything known so far."""
        file = _open(path)
        self._base.backup(file)
        self._base.close()
        self._base = _open(path, file)

    @property
    def left(self) -> int | None:
        """Queries that may still be sent, None without limit."""
        return None if self.limit is None else max(0, self.limit - int(self._value("sent")))

    def find(self, key: bytes) -> bytes | None:
        row = self._base.execute("select scores from answers where key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def reserve(self, keys: Sequence[bytes]) -> bool:
        """Whether the budget covers sending these, all of them; if so, they count as sent from here on."""
        with self._base:
            self._base.execute("begin immediate")
            if self.left is not None and len(keys) > self.left:
                return False
            self._base.executemany("insert or ignore into answers values (?, null)", [(key,) for key in keys])
            repeated = self._lost.intersection(keys)
            self._lost -= repeated
            self._count(sent=len(keys), requests=1, repeated=len(repeated))
            return True

    def settle(self, keys: Sequence[bytes], scores: Sequence[bytes]) -> None:
        """Commit answers."""
        with self._base:
            self._base.executemany("update answers set scores = ? where key = ?", zip(scores, keys, strict=True))

    def forget(self, keys: Sequence[bytes]) -> None:
        """Of these no answer came: they are no longer in flight."""
        with self._base:
            self._base.executemany("delete from answers where key = ? and scores is null", [(key,) for key in keys])

    def count(self, **more: float) -> None:
        with self._base:
            self._count(**more)

    def tally(self) -> dict[str, float]:
        """Every count of COUNTS."""
        return _tally(self._base) or {}

    def close(self) -> None:
        self._base.close()

    def _count(self, **more: float) -> None:
        self._base.executemany(
            "insert into tally values (?, ?) on conflict (name) do update set value = value + excluded.value",
            [(name, value) for name, value in more.items() if value],
        )

    def _value(self, name: str) -> float:
        row = self._base.execute("select value from tally where name = ?", (name,)).fetchone()
        return float(row[0]) if row else 0.0


def read_tally(folder: Path) -> dict[str, float] | None:
    """The counts of a run that asked a remote model; None of another run, or of one killed before it asked."""
    path = folder / NAME
    if not path.exists():
        return None
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base:
        return _tally(base)


def _tally(base: sqlite3.Connection) -> dict[str, float] | None:
    if not base.execute("select 1 from sqlite_master where name = 'tally'").fetchone():
        return None
    found = dict(base.execute("select name, value from tally"))
    return {name: value if name == "seconds" else int(value) for name in COUNTS for value in (found.get(name, 0.0),)}


def _open(path: Path | None, base: sqlite3.Connection | None = None) -> sqlite3.Connection:
    """A connection that the client's own thread may use as well as the caller's, one at a time."""
    base = base or sqlite3.connect(":memory:" if path is None else path, check_same_thread=False, isolation_level=None)
    if path is not None:
        base.execute("pragma journal_mode = wal")
    base.execute("pragma synchronous = normal")  # survives a killed process; a lost machine may lose the last answers
    base.executescript(_TABLES)
    return base
