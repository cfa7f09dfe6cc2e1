"""Many requests, few calls of the model: whatever waits goes into the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mohs.serve.declined import Declined


class Job(NamedTuple):
    x: np.ndarray
    done: asyncio.Future[Tensor]


class Batcher:
    """One thread that calls the model, and a queue before it. No request waits for company: what came while the model
    was busy goes together.

    call: logits [n, classes] of inputs [n, *input]. rows: of one call, at most (a larger request goes alone). room: rows
    that may wait; beyond it a request is declined. threads: of torch, in that one thread.
    """

    def __init__(self, call: Callable[[Tensor], Tensor], *, rows: int, room: int, threads: int) -> None:
        self.call, self.rows, self.room = call, rows, room
        self.waiting = 0
        self.observe: Callable[[int], object] = lambda rows: None  # told of every call
        self._jobs: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "model", initializer=torch.set_num_threads, initargs=(threads,))

    async def logits(self, x: np.ndarray) -> Tensor:
        """[n, classes] for x [n, *input]; Declined (503) where too much waits already."""
        with self._seat(len(x)):
            job = Job(x, asyncio.get_running_loop().create_future())
            self._jobs.append(job)
            self._wake.set()
            return await job.done

    async def run(self) -> None:
        """Answer until `close`, and what waits then."""
        while self._jobs or not self._closing:
            if self._jobs:
                await self._answer(self._gather())
            else:
                self._wake.clear()
                await self._wake.wait()
        self._thread.shutdown()

    def close(self) -> None:
        self._closing = True
        self._wake.set()

    @contextmanager
    def _seat(self, rows: int) -> Iterator[None]:
        if self.waiting + rows > self.room:
            raise Declined(503, "busy", f"{self.waiting} examples wait already; try again shortly", retry_after=1)
        self.waiting += rows
        try:
            yield
        finally:
            self.waiting -= rows

    def _gather(self) -> list[Job]:
        jobs = [self._jobs.popleft()]
        rows = len(jobs[0].x)
        while self._jobs and rows + len(self._jobs[0].x) <= self.rows:
            jobs.append(self._jobs.popleft())
            rows += len(jobs[-1].x)
        return jobs

    async def _answer(self, jobs: list[Job]) -> None:
        x = torch.from_numpy(np.concatenate([job.x for job in jobs]))
        self.observe(len(x))
        try:
            logits = await asyncio.get_running_loop().run_in_executor(self._thread, self.call, x)
        except Exception as error:  # a model may raise anything
            if len(jobs) > 1:  # one request must not spoil the others
                for job in jobs:
                    await self._answer([job])
            elif not jobs[0].done.done():
                jobs[0].done.set_exception(error)
            return
        for job, part in zip(jobs, logits.split([len(job.x) for job in jobs]), strict=True):
            if not job.done.done():
                job.done.set_result(part)
