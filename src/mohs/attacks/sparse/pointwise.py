"""The pointwise attack: from a success, unit after unit goes back, by labels alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.labels import Labels
from mohs.attacks.sparse.sparse_rs import view
from mohs.errors import Refused
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import L0, Goal, Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class Pointwise(Attack):
    """From a success, each changed unit (an entry, or a pixel where the threat counts those) is put back, and stays back
    where the goal is reached without it; round after round, until one has put nothing back.

    The success is the nearest one known to earlier attacks of the same stage, else salt-and-pepper noise: each entry at an end
    of the box with a probability of 1, 2, ... `starts` `starts`-ths; with 0 starts, rows without a success are left alone.
    queries: labels asked of a row, the judge's confirmations included. A round begins with the units changed least; the
    authors go in random order, and begin ten times.
    Schott, Rauber, Bethge, Brendel, ICLR 2019, arXiv:1805.09190.

    When to use: after any attack in L0, which leaves entries changed that it does not need: a fifth of `sigma-zero`'s passes is
    better spent here. By itself for models that answer labels only and have few features: it asks about each at least once.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # one entry is enough
    >>> outcome = attacks.Pointwise()(model, x, y, threat="l0:inf+knowledge:label")
    >>> outcome.distance.tolist(), int(outcome.backwards)
    ([1.0], 0)
    """

    queries: int = 1000
    starts: int = 50

    paper = "Schott et al., ICLR 2019, arXiv:1805.09190"
    knowledge = Knowledge.LABEL
    sets = ("l0",)
    minimal = True

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if self.starts and not all(map(math.isfinite, model.bounds)):
            raise Refused(f"Pointwise begins at the ends of the box, and the model {model.name} has none: {model.bounds}")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, L0)
        labels = Labels.of(oracle, self.queries)
        x = labels.start(self.starts, 0, self._salt_and_pepper)
        tried = torch.zeros_like(_change(x, x0, threat), dtype=torch.bool)
        s = State(*oracle.compact(x0, x, tried, torch.ones_like(tried[:, 0])))
        for _ in labels.steps():
            change = _change(s.x, s.x0, threat)
            again = s.better & ~((change > 0) & ~s.tried).any(1)  # the round has ended, and put something back
            s = s._replace(tried=s.tried & ~again[:, None], better=s.better & ~again)
            left = (change > 0) & ~s.tried
            labels.skip(~left.any(1) | ((change > 0).sum(1) == 1))
            if len(rows := labels.rows()) == 0:
                continue
            unit = torch.where(left, change, torch.inf).argmin(1)[rows]
            without = put_back(s.x[rows], s.x0[rows], unit, threat)
            hit = labels.reached(without, rows)
            s.tried[rows, unit] = True
            s.better[rows[hit]] = True
            s.x[rows[hit]] = without[hit]
            s = State(*oracle.compact(*s))
        return s.x

    def _salt_and_pepper(self, oracle: Oracle, k: int, low: Tensor, high: Tensor) -> Tensor:
        stream, shape = oracle.stream.at("salt and pepper", k), low.shape[1:]
        noise = torch.where(stream.at("end").signs(*shape) > 0, high, low)
        return torch.where(stream.at("where").uniform(*shape) < (k + 1) / self.starts, noise, oracle.x0)


class State(NamedTuple):
    """A row each. x0, x [rows, *input]; tried [rows, units]: in this round; better [rows]: whether this round has put a
    unit back."""

    x0: Tensor
    x: Tensor
    tried: Tensor
    better: Tensor


def _change(x: Tensor, x0: Tensor, threat: L0) -> Tensor:
    """[rows, units]: the largest change of each unit's entries."""
    return view((x - x0).abs(), threat).amax(1)


def put_back(x: Tensor, x0: Tensor, unit: Tensor, threat: L0) -> Tensor:
    """x [rows, *input] with one unit [rows] of each as it is in x0."""
    was, origin = view(x, threat), view(x0, threat)
    here = unit[:, None, None].expand(-1, was.shape[1], -1)
    return was.scatter(2, here, origin.gather(2, here)).reshape(x.shape)
