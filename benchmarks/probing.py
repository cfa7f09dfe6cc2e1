"""`mohs probe` in trouble: python -m benchmarks.probing kills | faults

kills: ten probes, each killed (SIGKILL) after a random number of queries, resumed, killed again and resumed; one more whose total
budget ends amid the work. faults: a server that fails a fifth of its requests, hangs on some, answers 429 in bursts and malformed
bodies. The endpoint is a small linear model in a process of its own, which writes down every body it gets.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.stub import DESCRIPTION, Fault, Stub, examples, running, serve_labels, serve_scores

import mohs
from mohs.probing import probe
from mohs.store import Run
from mohs.store.answers import NAME, read_tally
from mohs.store.verdict import verdict_of

OPTIONS: dict[str, Any] = {"threats": ["linf:0.08", "l2:0.3"], "queries": 120}
CONCURRENCY = 8  # of the description: the most that are in flight


class Log:
    """The bodies that the endpoint got, by their hashes, since the last look."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0

    def bodies(self) -> Counter[str]:
        time.sleep(0.3)  # what was in flight is still being answered
        text = self.path.read_text() if self.path.exists() else ""
        new, self.at = text[self.at :], len(text)
        return Counter(new.split())


@contextmanager
def endpoint(log: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.stub", str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.communicate("")


def apart(work: Callable[[], object], target: Path, kill_at: int | None = None) -> None:
    """Work in a fork of this process, killed once so many queries were sent in the run, or at its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if kill_at is not None and sent(target) >= kill_at:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.003)
    assert os.WIFSIGNALED(ended[1]) or os.WEXITSTATUS(ended[1]) == 0, "the probe failed"


def sent(folder: Path) -> int:
    return int((read_tally(folder) or {}).get("sent", 0))


def facts(run: Run) -> list[str]:
    """What the records say, seconds aside."""
    table = run.records().drop_columns(["seconds"])
    return sorted(map(repr, zip(*(table[name].to_pylist() for name in table.column_names), strict=True)))


def in_flight(folder: Path) -> int:
    """Queries reserved and not answered."""
    if not (folder / NAME).exists():
        return 0
    with closing(sqlite3.connect(folder / NAME)) as base:
        return int(base.execute("select count(*) from answers where scores is null").fetchone()[0])


def kills(folder: Path) -> dict[str, Any]:
    draw, data = random.Random(0), examples(24)
    (folder / "endpoint.toml").write_text(DESCRIPTION)
    rows = []
    with endpoint(folder / "log") as url:
        log = Log(folder / "log")

        def ask(target: Path, **more: Any) -> Callable[[], object]:
            return lambda: probe(url, data, describe=folder / "endpoint.toml", out=target, **OPTIONS, **more)

        def go_on(target: Path) -> Callable[[], object]:
            return lambda: mohs.resume(target, data=data)

        apart(ask(folder / "whole"), folder / "whole")
        whole, expected = log.bodies(), facts(Run.open(folder / "whole"))
        for number in range(11):
            target, binding = folder / str(number), number == 10
            total = whole.total() // 2 if binding else whole.total() + 4 * CONCURRENCY
            moments = sorted(draw.randrange(total if binding else whole.total()) for _ in range(2))
            flying, begun = 0, False
            for moment in moments:
                apart(go_on(target) if begun else ask(target, total=total), target, moment)
                begun, flying = (target / "run.json").exists(), flying + in_flight(target)
            apart(go_on(target) if begun else ask(target, total=total), target)
            got, tally, run = log.bodies(), read_tally(target), Run.open(target)
            assert tally is not None
            rows.append(
                {
                    "killed_at": moments,
                    "in_flight": flying,
                    "sent_again": (got - whole).total(),  # beyond what an uninterrupted probe sends
                    "told": tally["repeated"],
                    "sent": got.total(),
                    "counted_as_sent": tally["sent"],
                    "total": total,
                    "finished": run.complete,
                    "same_records": facts(run) == expected,
                    "binding": binding,
                    "reasons": {t.text: t.reasons for t in verdict_of(run).threats} if binding else {},
                }
            )
            print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    free = [row for row in rows if not row["binding"]]
    return {
        "kills": 2 * len(rows),
        "sent_by_an_uninterrupted_probe": whole.total(),
        "no_committed_query_again": all(row["sent_again"] <= row["in_flight"] for row in rows),
        "repeats_told": all(row["sent_again"] <= row["told"] <= row["in_flight"] for row in rows),
        "budget_held": all(row["sent"] <= row["counted_as_sent"] <= row["total"] for row in rows),
        "same_verdict": sum(row["same_records"] for row in free),
        "of": len(free),
        "rows": rows,
    }


def faulty(seed: int) -> tuple[Fault, Counter[str]]:
    """A fifth of requests fails, a fiftieth hangs, one in a hundred begins a burst of five 429; what was done."""
    draw, done, burst = random.Random(seed), Counter[str](), [0]

    def fault(n: int) -> tuple[int, bytes, dict[str, str]] | None:
        if burst[0] == 0 and draw.random() < 0.01:
            burst[0] = 5
        u, kind = draw.random(), "let through"
        answer: tuple[int, bytes, dict[str, str]] | None = None
        if burst[0]:
            burst[0] -= 1
            kind, answer = "429", (429, b"slow down", {"Retry-After": "0"})
        elif u < 0.02:
            kind, answer = "hangs", (0, b"", {})
        elif u < 0.17:
            code = draw.choice([500, 502, 503])
            kind, answer = str(code), (code, b"oops", {})
        elif u < 0.22:
            bodies = [b'{"scores": [[0.1, 0.', b"<html>maintenance</html>", b'{"scores": [[0.5, 0.5]]}', b"[]", b""]
            kind, answer = "malformed", (200, draw.choice(bodies), {})
        done[kind] += 1
        return answer

    return fault, done


def faults(folder: Path) -> dict[str, Any]:
    """By scores and by labels; with eight attempts a request, and with one."""
    data, found = examples(12), {}
    for what, answer in (("scores", serve_scores), ("labels", serve_labels)):
        for attempts in (8, 1):
            told = DESCRIPTION.replace("timeout = 30", "timeout = 0.3").replace("attempts = 8", f"attempts = {attempts}")
            told = told.replace('scores = "$.scores"', 'labels = "$.labels"') if what == "labels" else told
            (folder / "endpoint.toml").write_text(told.replace("[retry]", "[retry]\nbreaker = 12"))
            name, (fault, done) = f"{what}, {attempts} attempts", faulty(attempts)
            runs = []
            for k, wrong in enumerate((lambda n: None, lambda n, f=fault: f(n) if n > 60 else None)):
                with running(Stub(answer, fault=wrong)) as stub:
                    out = folder / f"{name}-{k}"
                    runs.append(probe(stub.url, data, describe=folder / "endpoint.toml", out=out, **OPTIONS))
            calm, troubled = (result.run for result in runs)
            threats = runs[1].verdict.threats
            found[name] = {
                "faults": dict(done),
                "finished": troubled.complete,
                "every_example_decided_or_with_its_reason": all(
                    t.score.n == len(data[0]) and sum(t.reasons.values()) == t.score.undecided and "" not in t.reasons
                    for t in threats
                ),
                "decided": {t.text: t.score.n - t.score.undecided for t in threats},
                "undecided": {t.text: t.score.undecided for t in threats},
                "reasons": {t.text: t.reasons for t in threats},
                "records_of_a_calm_server": facts(calm) == facts(troubled),
                "account": read_tally(troubled.folder),
            }
            print(f"  {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def main(what: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return {"kills": kills, "faults": faults}[what](Path(folder))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
