"""Craft: one point from many examples. `Replay` then puts it to others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from mohs.attacks.settings import Settings
from mohs.errors import Refused, RequestError, ThreatError, UnknownName
from mohs.models import Model, Prepared
from mohs.oracle import Oracle
from mohs.threat import Goal, Knowledge, NormThreat, Threat, Untargeted

AT_ONCE = 512  # examples asked about in one call, at most: points of all at once might not fit into memory

TABLE = {
    "gradient": "mohs.attacks.universal.gradient:UniversalPGD",
    "uap": "mohs.attacks.universal.uap:UAP",
    "patch": "mohs.attacks.universal.patch:UniversalPatch",
    "singular": "mohs.attacks.universal.singular:SingularVectors",
}


class Crafted(NamedTuple):
    """change, of the threat's `change_shape`, in its set around zero; share: of the examples it was made from that it moves to
    the goal. forwards, backwards: passes of one example."""

    change: Tensor
    share: float
    forwards: int
    backwards: int


@dataclass(frozen=True, kw_only=True)
class Craft(Settings, ABC):
    """Hyper-parameters and `run`, which reads like the paper's algorithm box. What it makes depends on all the examples at
    once, in the order that their ids and the seed give."""

    paper: ClassVar[str]
    sets: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    @abstractmethod
    def run(self, oracle: Oracle, threat: Threat, rate: float) -> Tensor:
        """One change [1, *threat.change_shape(x0)] of budget epsilon that moves `rate` of the oracle's open rows to the goal, or
        the best found. The oracle closes no row by a success."""

    def check(self, threat: Threat, model: Model) -> None:
        """Raise Refused where the craft cannot serve, ThreatError where there is nothing to make."""
        name = type(self).__name__
        if threat.name not in self.sets:
            raise Refused(f"{name} makes changes in {', '.join(self.sets)}, and the threat is {threat}")
        if not 0 < threat.epsilon < torch.inf:
            raise ThreatError(f"a universal change needs a budget above 0 and below infinity, and the threat is {threat}")
        if threat.knowledge < Knowledge.GRADIENT:
            raise Refused(f"{name} needs gradient, and the threat {threat} grants {threat.knowledge}")
        if model.gives < Knowledge.GRADIENT:
            raise Refused(f"{name} needs gradient, and the model {model.name} gives {model.gives}")

    def __call__(
        self,
        prepared: Prepared,
        x: Tensor,
        y: Tensor | None = None,
        *,
        threat: Threat,
        rate: float = 0.8,
        goal: Goal | None = None,
        seed: int = 0,
    ) -> Crafted:
        """Make a change from examples x [n, *input]; y: what they are to be moved away from, the model's own predictions
        unless given. rate: of the examples, in (0, 1], from which on no better change is looked for."""
        if not 0 < rate <= 1:
            raise RequestError(f"the fooling rate should lie in (0, 1], and is {rate:g}; 0.8 is four examples in five")
        model = prepared.judge.model
        threat = threat.facing(model)
        self.check(threat, model)
        threat.check(x[:1])
        goal = goal or Untargeted()
        goal.check(model.classes)
        x = x.float().to(model.device)
        reference = prepared.judge.reference(x)
        oracle = Oracle.begin(
            prepared,
            threat,
            goal,
            x,
            reference.argmax(1) if y is None else y,
            ids=torch.arange(len(x)),
            seed=seed,
            stage="craft",
            reference=reference,
            stop=False,
            keep_closest=False,
        )
        oracle.judged = False
        oracle.keep(oracle.open.nonzero()[:, 0])
        if len(oracle.ids) == 0:
            raise ThreatError(f"the goal {goal} applies to none of the {len(x)} examples")
        change = self.run(oracle, threat, rate)
        ledger = oracle.ledger
        share = float(reached(oracle, change, threat).double().mean())
        return Crafted(change[0].cpu(), share, int(ledger.forwards.sum()), int(ledger.backwards.sum()))


def reached(oracle: Oracle, change: Tensor, threat: Threat) -> Tensor:
    """[rows] bool: which examples a change [1, *input] moves to the goal, by the guide's word."""
    every = torch.arange(len(oracle.x0), device=oracle.x0.device)
    stream = oracle.stream.at("reached")
    points = ((threat.shared(change, oracle.x0[rows], stream.take(rows)), rows) for rows in every.split(AT_ONCE))
    parts = [oracle.scores(p, rows=rows).margin > 0 for p, rows in points]
    return torch.cat(parts)


def within(change: Tensor, threat: NormThreat) -> Tensor:
    """A change [1, *input] moved into the ball of epsilon around zero. The box is each example's own."""
    return threat.norm.project(change, torch.zeros_like(change), threat.epsilon, -torch.inf, torch.inf)


def shuffled(oracle: Oracle, epoch: int) -> Tensor:
    """The rows in an order that ids and seed give."""
    return oracle.stream.at("order", epoch).bits(1)[:, 0].argsort(stable=True)


def batches(oracle: Oracle, epoch: int, size: int) -> Iterator[Tensor]:
    return iter(shuffled(oracle, epoch).split(size))


def find(name: str) -> type[Craft]:
    """The class of a craft by its name."""
    if name not in TABLE:
        raise UnknownName("method", name, TABLE)
    module, _, kind = TABLE[name].partition(":")
    found: type[Craft] = getattr(import_module(module), kind)
    return found
