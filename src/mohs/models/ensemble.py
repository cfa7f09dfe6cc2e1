"""Surrogates: models of the adversary's own, whose gradients guide an attack that another model judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from mohs.errors import ModelError
from mohs.models.base import Model
from mohs.models.prepared import Guide, Prepared, prepare

NEVER = -1e30  # the logit of a class that is never given; infinity would make losses NaN


class Ensemble(Model):
    """The mean of its members' logits. Liu, Chen, Liu, Song, ICLR 2017, arXiv:1611.02770; Dong et al., CVPR 2018,
    arXiv:1710.06081, who found the mean of logits to transfer best.

    weights: one a member, summing to 1; the same for all where none are given. Members share bounds, classes and device.
    """

    def __init__(self, members: Sequence[Model], *, weights: Sequence[float] | None = None) -> None:
        if not members:
            raise ModelError("an ensemble of no models: give at least one")
        first = members[0]
        for name in ("bounds", "classes", "device"):
            values = [getattr(member, name) for member in members]
            if any(value != values[0] for value in values):
                raise ModelError(f"the models of an ensemble should share their {name}, and have {', '.join(map(str, values))}")
        sizes = {member.batch for member in members if member.batch is not None}
        if len(sizes) > 1:
            raise ModelError(f"the models of an ensemble take batches of different sizes: {sorted(sizes)}")
        self.members = tuple(members)
        self.weights = tuple(weights) if weights is not None else (1 / len(members),) * len(members)
        if len(self.weights) != len(members) or abs(sum(self.weights) - 1) > 1e-6:
            raise ModelError(f"an ensemble of {len(members)} needs as many weights that sum to 1, not {list(self.weights)}")
        self.name = "+".join(member.name for member in members)
        self.bounds, self.classes, self.device = first.bounds, first.classes, first.device
        self.gives = min(member.gives for member in members)
        self.batch = sizes.pop() if sizes else None
        self.random = any(member.random for member in members)

    def logits(self, x: Tensor) -> Tensor:
        parts = [weight * member.logits(x) for weight, member in zip(self.weights, self.members, strict=True)]
        return torch.stack(parts).sum(0)

    def double(self) -> Ensemble | None:
        twins = [twin for member in self.members if (twin := member.double()) is not None]
        return Ensemble(twins, weights=self.weights) if len(twins) == len(self.members) else None


class Accepting(Model):
    """A model beside one that refuses inputs or abstains, which does not: its answers, and next to nothing for that class."""

    def __init__(self, model: Model) -> None:
        self.model, self.classes = model, model.classes + 1
        self.name, self.bounds, self.device = model.name, model.bounds, model.device
        self.gives, self.batch, self.random = model.gives, model.batch, model.random

    def logits(self, x: Tensor) -> Tensor:
        return pad(self.model.logits(x), (0, 1), value=NEVER)

    def double(self) -> Accepting | None:
        twin = self.model.double()
        return None if twin is None else Accepting(twin)


def surrogate(prepared: Prepared, models: Sequence[Model], x: Tensor) -> Prepared:
    """`prepared` with the mean of `models` beside it: the guide under the knowledge `transfer`, where the victim is asked once an
    example and try, and the start of hybrid attacks. x: a few clean examples [n, *input]."""
    judge = prepared.judge
    members = [prepare(model, x, rows=prepared.guide.rows).guide for model in models]
    ensemble: Model = Ensemble([member.model for member in members])
    if ensemble.classes in (judge.model.rejected, judge.model.abstained):
        ensemble = Accepting(ensemble)
    if (ensemble.bounds, ensemble.classes) != (judge.model.bounds, judge.model.classes):
        raise ModelError(
            f"the surrogate {ensemble.name} has bounds {ensemble.bounds} and {ensemble.classes} classes, and the model "
            f"{judge.model.name} has {judge.model.bounds} and {judge.model.classes}"
        )
    rows, quantum = min(m.rows for m in members), max(m.quantum for m in members)
    own = Guide(ensemble, rows, quantum, log=tuple(f"surrogate {m.model.name}: {line}" for m in members for line in m.log))
    return replace(prepared, surrogate=own, notes={**prepared.notes, "surrogate": ensemble.name})
