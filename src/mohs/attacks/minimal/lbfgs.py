"""Box-constrained L-BFGS, the first attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.errors import UnknownName
from mohs.losses import Loss, cross_entropy
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Threat

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Asked = Callable[[list[int], list[Vector]], list[tuple[float, Vector] | None]]

SIDES = ("norm", "loss")
SEARCH = 20  # evaluations of one line search, at most, in scipy


@dataclass(frozen=True, kw_only=True)
class LBFGS(Attack):
    """min c ||x - x0||_2^2 + loss(x) in the box, by L-BFGS-B from x0 in float64; c by line search, an example its own.

    Szegedy, Zaremba, Sutskever, Bruna, Erhan, Goodfellow, Fergus, ICLR 2014, arXiv:1312.6199; the minimiser is scipy's.
    Searches, iterations and the first c are advertorch's, since the paper gives none. The norm is squared, so that it has
    a slope at x0.

    constant_on: what c weighs. `norm`, as the paper prints it: a larger c keeps x nearer, and c rises after a success.
    `loss`, as Carlini & Wagner and most code have it: c falls after a success. c moves tenfold until it is bracketed, and
    then to the middle. steps: iterations of one search, which ask about 1 forward and 1 backward pass each, twice that
    and a line search at most; one forward pass more tells whether the search succeeded. tolerance: the relative fall of
    the objective below which a search is done, above the rounding of the model's float32.

    Every example has a minimiser of its own; those waiting for an answer are answered in one batch. A line search that
    fails, or an answer that is not a number, ends that example as ERROR, unless a success is known. The paper is
    targeted; any other goal climbs the loss and succeeds by its own margin.

    When to use: for history, as the first of all attacks, and for targeted points that a second-order search finds. It is
    coarse in c: `ddn` and `fmn` are nearer for fewer passes. Beware of code in which a larger c means the opposite: see
    `constant_on`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> nearest = float(attacks.LBFGS()(model, x, y, threat="l2:inf").distance)
    >>> 0.2 <= nearest < 0.21
    True
    """

    search_steps: int = 9
    steps: int = 100
    initial_const: float = 1e-2
    constant_on: str = "norm"
    tolerance: float = 1e-6
    loss: Loss = cross_entropy

    paper = "Szegedy et al., ICLR 2014, arXiv:1312.6199"
    random = False
    sets = ("l2",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        searches = self.restarts * self.search_steps
        each = 2 * self.steps + SEARCH + 1
        return searches * (each + 1), searches * each

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if self.constant_on not in SIDES:
            raise UnknownName("side of the constant", self.constant_on, SIDES)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        x, c = threat.origin(x0), torch.full((len(x0),), self.initial_const, dtype=torch.float64, device=x0.device)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in oracle.steps(self.search_steps):
            x = self._search(oracle, x0, threat, c)
            near = oracle.scores(x).margin > 0
            small = near if self.constant_on == "norm" else ~near  # c is too small
            low, high = torch.where(small, c, low), torch.where(small, high, c)
            outward = torch.where(small, 10 * c, c / 10)
            c = torch.where((low > 0) & (high < torch.inf), (low + high) / 2, outward)
            x0, x, c, low, high = oracle.compact(x0, x, c, low, high)
        return x

    def _search(self, oracle: Oracle, x0: Tensor, threat: Threat, c: Tensor) -> Tensor:
        """The minimum of every open row at its c, or as near to it as `steps` iterations come."""
        from scipy.optimize import Bounds, OptimizeResult, minimize

        low, high = (torch.as_tensor(end).to(x0).expand_as(x0) for end in threat.constraints.box(x0, threat.bounds))
        centres, bottoms, tops = (t.flatten(1).double().cpu().numpy() for t in (x0, low, high))
        weights = c.tolist()

        def ask(rows: list[int], points: list[Vector]) -> list[tuple[float, Vector] | None]:
            at = torch.tensor(rows, device=x0.device)
            p = torch.stack([torch.from_numpy(v) for v in points]).to(x0).view(-1, *x0.shape[1:])
            answer = oracle.gradient(torch.clamp(p, low[at], high[at]), self.loss, at)
            live, loss = oracle.open[at].tolist(), (-answer.loss).double().tolist()
            slope = answer.gradient.neg().flatten(1).double().cpu().numpy()
            return [self._weigh(v - centres[i], weights[i], loss[k], slope[k]) if live[k] else None
                    for k, (i, v) in enumerate(zip(rows, points, strict=True))]  # fmt: skip

        def job(i: int, f: Callable[[Vector], tuple[float, Vector]]) -> OptimizeResult:
            options = {"maxiter": self.steps, "maxfun": 2 * self.steps, "ftol": self.tolerance}
            bounds = Bounds(bottoms[i], tops[i])
            return minimize(f, centres[i], jac=True, method="L-BFGS-B", bounds=bounds, options=options)

        x = x0.clone()
        for i, found in in_lockstep(oracle.open.nonzero()[:, 0].tolist(), job, ask):
            if found is None:  # closed on its way
                continue
            if found.status not in (0, 1):  # converged, or out of steps
                oracle.ledger.close(oracle.ids[i : i + 1], f"error: L-BFGS-B: {found.message}")
            x[i] = torch.from_numpy(found.x).to(x0).view_as(x0[i])
        return torch.clamp(x, low, high)

    def _weigh(self, change: Vector, c: float, loss: float, slope: Vector) -> tuple[float, Vector]:
        near, far = (c, 1.0) if self.constant_on == "norm" else (1.0, c)
        return near * float(change @ change) + far * loss, 2 * near * change + far * slope


Found = TypeVar("Found")


class _Closed(Exception):
    """Ends a minimiser whose row is no longer open."""


def in_lockstep(
    rows: Sequence[int], job: Callable[[int, Callable[[Vector], tuple[float, Vector]]], Found], ask: Asked
) -> list[tuple[int, Found | None]]:
    """job(i, f) for every row, each in a thread of its own; once all that still run wait in f, `ask` answers them together.

    The answers decide each job's course, and the batches are the same whichever thread comes first. None for a row whose
    answer was None. An error of `ask` or of a job ends all of them and is raised.
    """
    inbox: SimpleQueue[tuple[int, Vector | None]] = SimpleQueue()
    replies: dict[int, SimpleQueue[tuple[float, Vector] | None]] = {i: SimpleQueue() for i in rows}
    found: dict[int, Found | None] = dict.fromkeys(rows)
    failures: list[BaseException] = []

    def work(i: int) -> None:
        def f(v: Vector) -> tuple[float, Vector]:
            inbox.put((i, v.copy()))
            reply = replies[i].get()
            if reply is None:
                raise _Closed
            return reply

        try:
            found[i] = job(i, f)
        except _Closed:
            pass
        except BaseException as error:
            failures.append(error)
        inbox.put((i, None))

    threads = [Thread(target=work, args=(i,), daemon=True) for i in rows]
    for thread in threads:
        thread.start()
    try:
        running = len(rows)
        while running:
            waiting: dict[int, Vector] = {}
            while len(waiting) < running:
                i, v = inbox.get()
                if v is None:
                    running -= 1
                else:
                    waiting[i] = v
            order = sorted(waiting)
            if order:
                for i, reply in zip(order, ask(order, [waiting[i] for i in order]), strict=True):
                    replies[i].put(reply)
    finally:
        for reply_box in replies.values():
            reply_box.put(None)
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return list(found.items())
