"""Runs are crash-safe: a fault at any write, fsync or rename, and a real kill, leave a run that resumes to the same records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mohs.auditing import carry_out, resume
from mohs.errors import RunError, RunFailed
from mohs.jobs import describe, make_job
from mohs.store import Run, faults
from tests.small import labelled, network

TIMES = ("seconds",)


def job():
    module = network()
    return module, labelled(module, 24), {"threats": ["linf:0.05"], "profile": "quick", "rows": 8}


def contents(run: Run) -> list[dict]:
    """Records without times, in one order, with what is stored of each success."""
    table = run.records().drop_columns(list(TIMES))
    rows = table.sort_by([("threat", "ascending"), ("stage", "ascending"), ("id", "ascending")]).to_pylist()
    stored = sorted(
        (int(e["threat"][k]), int(i), e["adversarial"][k].tobytes()) for e in run.examples() for k, i in enumerate(e["ids"])
    )
    return [*rows, *stored]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    module, data, options = job()
    made = make_job(module, data, **options)
    made = replace(made, plan=made.plan.model_copy(update={"threads": 1}))  # a fork may not use the parent's pool of threads
    run = Run.create(tmp_path_factory.mktemp("whole") / "run", describe(made))
    points: list[str] = []
    faults._hooks.append(lambda point, path: points.append(f"{point} {path.name}"))
    try:
        carry_out(run, made, None)
    finally:
        faults._hooks.clear()
    return made, contents(run), points


def test_every_fault_point_in_a_fork(whole, tmp_path):
    """The process dies at each numbered moment in turn; resuming gives the records of the uninterrupted run."""
    made, expected, points = whole
    module, data, _ = job()
    assert len(points) > 20
    for number in range(len(points)):
        folder = tmp_path / str(number)
        run = Run.create(folder, describe(made))
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            reached = iter(range(len(points)))

            def die(point: str, path: Path, number: int = number, reached=reached) -> None:
                if next(reached) == number:
                    os._exit(9)

            faults._hooks.append(die)
            carry_out(run, made, None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, points[number]
        done = resume(folder, model=module, data=data)
        assert contents(done.run) == expected, points[number]


@pytest.mark.parametrize("point", ["write", "fsync", "rename", "append"])
def test_a_full_disk_fails_with_what_to_do_and_resumes(whole, tmp_path, point):
    made, expected, _ = whole
    module, data, _ = job()
    run = Run.create(tmp_path / "run", describe(made))
    countdown = iter(range(100))

    def full(reached: str, path: Path) -> None:
        if reached == point and next(countdown) == (0 if point == "append" else 3):
            raise OSError(28, "No space left on device")

    faults._hooks.append(full)
    try:
        with pytest.raises(RunFailed, match=r"No space left on device.*resume") as caught:
            carry_out(run, made, None)
    finally:
        faults._hooks.clear()
    assert caught.value.exit_code == 3
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert contents(resume(tmp_path / "run", model=module, data=data).run) == expected


def test_a_real_kill(whole, tmp_path):
    """kill -9 from outside, in the middle of the work."""
    _, expected, _ = whole
    module, data, _ = job()
    script = (
        "from tests.test_runs import job; import mohs, sys\n"
        "module, data, options = job()\n"
        "mohs.audit(module, data, out=sys.argv[1], watch=lambda seen: print('unit', flush=True), **options)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    done = resume(tmp_path / "run", model=module, data=data)
    assert contents(done.run) == expected


def test_two_processes_on_one_run(whole, tmp_path):
    made, _, _ = whole
    run = Run.create(tmp_path / "run", describe(made))
    with run.locked(), pytest.raises(RunError, match=f"pid {os.getpid()}"), Run.open(tmp_path / "run").locked():
        pass


def test_another_schema_and_no_run_at_all(whole, tmp_path):
    made, _, _ = whole
    run = Run.create(tmp_path / "run", describe(made))
    text = (run.folder / "run.json").read_text()
    (run.folder / "run.json").write_text(text.replace('"schema": 1', '"schema": 7'))
    with pytest.raises(RunError, match="schema 7"):
        Run.open(run.folder)
    (run.folder / "run.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        Run.open(run.folder)
    with pytest.raises(RunError, match="not a run"):
        Run.open(tmp_path)
    with pytest.raises(RunError, match="not empty"):
        Run.create(run.folder, {})


def test_a_torn_event_is_skipped(whole, tmp_path):
    made, _, _ = whole
    run = Run.create(tmp_path / "run", describe(made))
    run.event("one")
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write(b'{"at": 1, "eve')
    run.event("two")
    assert [event["event"] for event in run.events()] == ["one", "two"]


def test_memory_running_out_shrinks_the_micro_batch_and_is_remembered(tmp_path):
    module, data, _ = job()

    class Small(torch.nn.Module):
        """Runs out of memory above 8 rows, once the audit goes on."""

        room = 1000

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x):
            if len(x) > Small.room:
                raise torch.OutOfMemoryError("not enough memory")
            return self.inner(x)

    options = {"threats": ["linf:0.05"], "profile": "quick", "rows": 8}
    plain = make_job(module, data, **options)
    expected = Run.create(tmp_path / "plain", describe(plain))
    carry_out(expected, plain, None)

    made = make_job(Small().eval(), data, **options)
    made = replace(made, plan=made.plan.model_copy(update={"rows": 16}))
    run = Run.create(tmp_path / "run", describe(made))
    Small.room = 8
    carry_out(run, made, None)
    assert [event["rows"] for event in run.events() if event["event"] == "backoff"] == [8]
    assert contents(run) == contents(expected)


def test_stopping_leaves_a_run_that_resumes(whole, tmp_path):
    made, expected, _ = whole
    module, data, _ = job()
    run = Run.create(tmp_path / "run", describe(made))

    def stop(seen) -> None:
        if seen.stage == "apgd-t":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(run, made, stop)
    started = time.monotonic()
    assert contents(resume(run.folder, model=module, data=data).run) == expected
    assert time.monotonic() - started < 60
