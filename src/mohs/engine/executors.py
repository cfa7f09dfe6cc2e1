"""Who does the units: this process, or forked ones of one thread each. Only the driver writes to the run.

On a CPU most of an attack on a small network is many short operations, which a second thread hardly hastens and a second
process halves. A forked process shares the model and the data with its parent and needs no copy of them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Protocol

import torch

from mohs.engine.plan import LEAST_COHORT
from mohs.engine.work import Done, Task, Worker
from mohs.errors import RunFailed
from mohs.models import Model

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class Executor(Protocol):
    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Done]]:
        """The tasks with what came of them, in any order."""


class Serial:
    """One unit after the other, here."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Done]]:
        return ((task, self.worker.do(task)) for task in tasks)


class Forked:
    """Units side by side in processes forked from this one."""

    def __init__(self, worker: Worker, processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self._ends: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(worker, there, os.getpid()), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the children start none
                process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Done]]:
        waiting, idle, busy = iter(tasks), list(self._ends), dict[Connection, Task]()
        while True:
            for task in islice(waiting, len(idle)):
                end = idle.pop()
                end.send(task)
                busy[end] = task
            if not busy:
                return
            ready = wait(list(busy))
            for end in [end for end in busy if end in ready]:
                done = self._receive(end)
                idle.append(end)
                yield busy.pop(end), done

    def _receive(self, end: Connection) -> Done:
        try:
            answer = end.recv()
        except (EOFError, ConnectionError):
            raise RunFailed(
                "a worker process was killed, probably for want of memory; resume the run, or begin another with fewer --rows"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Done)
        return answer

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _serve(worker: Worker, end: Connection, parent: int) -> None:
    """A child: units until the parent is gone. Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # gone before the signal was asked for
        return
    torch.set_num_threads(1)
    while True:
        try:
            task = end.recv()
        except EOFError:
            return
        try:
            answer: Done | Exception = worker.do(task)
        except Exception as error:
            answer = _portable(error)
        end.send(answer)


def _portable(error: Exception) -> Exception:
    """The error, or its text where it cannot travel."""
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunFailed(f"{type(error).__name__}: {error}")
    return error


def most_processes(model: Model, cores: int, rows: int) -> int:
    """How many processes may share the work on a model, so that no more than four micro-batches of `rows` are in hand."""
    forks = sys.platform == "linux" and model.forks and not multiprocessing.current_process().daemon
    return max(1, min(cores, 4 * rows // LEAST_COHORT)) if forks and model.device.type == "cpu" else 1


@contextmanager
def executor(worker: Worker) -> Iterator[Executor]:
    """As the plan says, and where a process may fork."""
    plan = worker.plan
    processes = most_processes(worker.prepared.judge.model, plan.processes, plan.rows)
    if processes == 1:
        yield Serial(worker)
        return
    forked = Forked(worker, processes)
    try:
        yield forked
    finally:
        forked.close()
