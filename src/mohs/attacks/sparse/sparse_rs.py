"""Sparse-RS: random search over which few entries, or pixels, to change, by scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.errors import Refused, ThreatError
from mohs.losses import Loss, cross_entropy, logit_difference
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import L0, Goal, Knowledge, Threat

PARTS = {0: 2, 50: 4, 200: 5, 500: 6, 1000: 8, 2000: 10, 4000: 12, 6000: 15, 8000: 20}  # after a step of 10,000: alpha / part


@dataclass(frozen=True, kw_only=True)
class SparseRS(Attack):
    """epsilon units (entries, or pixels where the threat counts those) are at random ends of the box; a step puts some of
    them back and others in their place, and stays where that raises the loss.

    queries: scores asked of a row, the start included. alpha: the part of the units a step exchanges; it is divided by 2,
    4, 5, ... 20 after steps 0, 50, 200, ... 8,000 of 10,000, to which `queries` are scaled. loss: climbed where no class
    is named; targeted_loss: where one is. alpha = 0.3 is the paper's for untargeted attacks; it has 0.1 for targeted ones.

    Units are those the constraints let change. Every row draws its own; the authors' code draws one set of places in the
    lists of all rows. Where every unit is changed already, a step draws new values for some.
    Croce, Andriushchenko, Singh, Flammarion, Hein, AAAI 2022, arXiv:2006.12834.

    When to use: for a budget of entries or pixels by scores alone, and to check whether gradient attacks were stopped by
    masking: a random search has no gradient to lose. Thousands of queries an example; its failure at few queries says little.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.SparseRS(queries=300)(model, x, y, threat="l0:6+knowledge:scores")
    >>> int(outcome.backwards.sum()), int((outcome.adversarial != x).flatten(1).sum(1).max())  # no gradient, six entries at most
    (0, 6)
    """

    queries: int = 10000
    alpha: float = 0.3
    loss: Loss = logit_difference
    targeted_loss: Loss = cross_entropy

    paper = "Croce et al., AAAI 2022, arXiv:2006.12834"
    knowledge = Knowledge.SCORES
    sets = ("l0",)

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if not all(map(math.isfinite, model.bounds)):
            raise Refused(f"SparseRS puts entries at the ends of the box, and the model {model.name} has none: {model.bounds}")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, L0)
        loss = self.loss if oracle.aim.wanted is None else self.targeted_loss
        free = units(threat, x0)
        count = min(len(free), math.floor(threat.epsilon))
        if count == 0:
            return threat.origin(x0)
        low, high = (view(end.expand_as(x0), threat) for end in _ends(threat, x0))
        stream = oracle.stream
        order = free[stream.at("order").permutation(len(free))]
        origin = view(x0, threat)
        x = place(origin, origin, low, high, order[:, :0], order[:, :count], stream.at("colour", 0))
        s = State(origin, low, high, x, order, oracle.scores(x.reshape(x0.shape), loss).loss)
        for i in oracle.steps(self.queries - 1):
            here = oracle.stream.at("step", i + 1)
            moved = max(int(self.part(i + 1) * count), 1)
            fresh = min(moved, len(free) - count)
            out = _some(here.at("out"), count, fresh or min(moved, count))
            into = count + _some(here.at("in"), len(free) - count, fresh) if fresh else out
            old, new = s.order.gather(1, out), s.order.gather(1, into)
            z = place(s.x, s.origin, s.low, s.high, old, new, here.at("colour"))
            value = oracle.scores(z.reshape(len(z), *x0.shape[1:]), loss).loss
            better = (value > s.value).nonzero()[:, 0]
            s.x[better], s.value[better] = z[better], value[better]
            exchanged = s.order.scatter(1, out, new).scatter(1, into, old)
            s.order[better] = exchanged[better]
            s = State(*oracle.compact(*s))
        return s.x.reshape(len(s.x), *x0.shape[1:])

    def part(self, i: int) -> float:
        """The part of the units that step i exchanges."""
        at = int(i / self.queries * 10000)
        return self.alpha / max((part for after, part in PARTS.items() if at > after), default=1)


class State(NamedTuple):
    """A row each. origin, low, high, x [rows, channels, units]; order [rows, units that may change]: those changed come
    first; value [rows]: the loss at x."""

    origin: Tensor
    low: Tensor
    high: Tensor
    x: Tensor
    order: Tensor
    value: Tensor


def view(x: Tensor, threat: L0) -> Tensor:
    """[rows, channels, units]: one channel where entries are counted."""
    if not threat.pixels:
        return x.reshape(len(x), 1, -1)
    if x.ndim < 3:
        raise ThreatError(f"l0 over pixels needs [channels, ...], got {list(x.shape[1:])}; use l0 over features")
    return x.flatten(2)


def units(threat: L0, x0: Tensor) -> Tensor:
    """The units of which any entry may change."""
    mask = threat.constraints.mutable(torch.ones_like(x0[:1]))
    return view(mask, threat)[0].any(0).nonzero()[:, 0]


def place(x: Tensor, origin: Tensor, low: Tensor, high: Tensor, old: Tensor, new: Tensor, stream: Stream) -> Tensor:
    """x with units `old` [rows, k] as they were and units `new` at random ends of the box, each channel for itself."""
    channels = x.shape[1]
    back, here = (t[:, None].expand(-1, channels, -1) for t in (old, new))
    signs = stream.signs(channels, new.shape[1])
    ends = torch.where(signs > 0, high.gather(2, here), low.gather(2, here))
    return x.scatter(2, back, origin.gather(2, back)).scatter(2, here, ends)


def _some(stream: Stream, n: int, k: int) -> Tensor:
    """k different numbers below n, [rows, k]."""
    return stream.bits(n).topk(k, dim=1).indices


def _ends(threat: L0, x0: Tensor) -> tuple[Tensor, Tensor]:
    low, high = threat.constraints.box(x0, threat.bounds)
    return torch.as_tensor(low).to(x0), torch.as_tensor(high).to(x0)
