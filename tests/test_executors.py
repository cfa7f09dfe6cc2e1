"""Units side by side in forked processes: the same records, and an end for every process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mohs.auditing import carry_out, resume
from mohs.engine import executors
from mohs.engine.work import Worker
from mohs.errors import RunFailed
from mohs.jobs import Job, describe, make_job
from mohs.models.cpu import threads
from mohs.store import Run
from tests.small import labelled, network
from tests.test_runs import contents

OPTIONS = {"threats": ["linf:0.05", "l2:0.3"], "profile": "quick", "rows": 32}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes fork on Linux alone")


class Guarded(torch.nn.Module):
    """A network that does something else in any process but the one it was made in."""

    def __init__(self, otherwise) -> None:
        super().__init__()
        self.inner, self.home, self.otherwise = network(), os.getpid(), otherwise

    def forward(self, x):
        if os.getpid() != self.home and self.otherwise is not None:
            self.otherwise()
        return self.inner(x)


def made(otherwise=None) -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor], Job]:
    module = Guarded(otherwise).eval()
    data = labelled(module.inner, 90)
    with threads(2):  # of which a plan makes two processes
        return module, data, make_job(module, data, **OPTIONS)


def test_two_processes_give_the_records_of_one(tmp_path, monkeypatch):
    _, _, job = made()
    assert (job.plan.processes, job.plan.threads, job.plan.cohort) == (2, 1, 32)
    here = torch.get_num_threads()
    both = Run.create(tmp_path / "both", describe(job))
    carry_out(both, job, None)
    monkeypatch.setattr(executors, "most_processes", lambda *_: 1)
    one = Run.create(tmp_path / "one", describe(job))
    carry_out(one, job, None)
    assert contents(one) == contents(both)
    assert len(list((tmp_path / "one" / "records").glob("clean-*"))) == 4
    assert torch.get_num_threads() == here
    assert not multiprocessing.active_children()


def test_a_killed_process_fails_the_run_which_resumes(tmp_path):
    module, data, job = made(lambda: os.kill(os.getpid(), signal.SIGKILL))
    run = Run.create(tmp_path / "run", describe(job))
    with pytest.raises(RunFailed, match=r"a worker process was killed.*resume the run") as caught:
        carry_out(run, job, None)
    assert caught.value.exit_code == 3
    assert not multiprocessing.active_children()
    module.otherwise = None
    with threads(2):
        assert len(contents(resume(tmp_path / "run", model=module, data=data).run)) > 90


def test_an_error_comes_back_as_it_was(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a fault of mohs")

    _, _, job = made()
    monkeypatch.setattr(Worker, "_clean", fail)
    with pytest.raises(ZeroDivisionError, match="a fault of mohs") as caught:
        carry_out(Run.create(tmp_path / "run", describe(job)), job, None)
    assert any("in fail" in note for note in caught.value.__notes__)

    class Odd(Exception):
        """Cannot travel: it takes two arguments and passes on one."""

        def __init__(self, first, second) -> None:
            super().__init__(first)

    def fail_oddly(*_):
        raise Odd("strange", "thing")

    monkeypatch.setattr(Worker, "_clean", fail_oddly)
    with pytest.raises(RunFailed, match="Odd: strange"):
        carry_out(Run.create(tmp_path / "odd", describe(job)), job, None)


def test_stopping_ends_the_processes(tmp_path):
    module, data, job = made()
    run = Run.create(tmp_path / "run", describe(job))

    def stop(seen) -> None:
        if seen.stage == "apgd-t":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(run, job, stop)
    assert not multiprocessing.active_children()
    whole = Run.create(tmp_path / "whole", describe(job))
    carry_out(whole, job, None)
    with threads(2):
        assert contents(resume(run.folder, model=module, data=data).run) == contents(whole)


ENDLESS = """
import sys, time
from tests.test_executors import made
from mohs.auditing import carry_out
from mohs.jobs import describe
from mohs.store import Run
_, _, job = made(lambda: time.sleep(600))
carry_out(Run.create(sys.argv[1], describe(job)), job, None)
"""


def test_no_process_outlives_a_killed_run(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path / "run")], cwd=Path(__file__).parents[1])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    found: list[str] = []
    while len(found) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
        found = children.read_text().split()
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in found):
        assert time.monotonic() < until, "a worker outlived its run"
        time.sleep(0.05)
