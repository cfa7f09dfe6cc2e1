"""Foolbox: `foolbox:HopSkipJumpAttack` and every other class of `foolbox.attacks`."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import Tensor, nn

from mohs.attacks.interop.base import Foreign, Victim
from mohs.oracle import Oracle
from mohs.threat import Knowledge, Threat

NORMS: dict[object, str] = {0: "l0", 1: "l1", 2: "l2", math.inf: "linf"}
LABEL = ("Blur", "BoundaryAttack", "Contrast", "Dataset", "HopSkipJump", "Inversion", "Noise", "Pointwise", "Refinement")
SCORES = ("GenAttack",)  # all others ask for gradients


class Foolbox(Foreign):
    """Rauber, Brendel & Bethge, 2017, arXiv:1707.04131; Rauber et al., JOSS 2020. What looks for the nearest success is a
    `MinimizationAttack`, what spends a budget a `FixedEpsilonAttack`."""

    library, package, installed = "foolbox", "foolbox", "foolbox"
    set_by_threat = ("constraint", "distance")

    @classmethod
    def kinds(cls) -> dict[str, Any]:
        listed = cls.module().attacks
        sorts = (listed.base.MinimizationAttack, listed.base.FixedEpsilonAttack)
        return {name: kind for name, kind in vars(listed).items() if isinstance(kind, type) and issubclass(kind, sorts)}

    @classmethod
    def traits(cls, kind: Any) -> dict[str, Any]:
        name = kind.__name__
        known = Knowledge.LABEL if any(part in name for part in LABEL) else Knowledge.GRADIENT
        return {
            "knowledge": Knowledge.SCORES if name in SCORES else known,
            "sets": _sets(kind),
            "minimal": issubclass(kind, cls.module().attacks.base.MinimizationAttack),
        }

    def make(self, victim: nn.Module, threat: Threat, targeted: bool, shape: tuple[int, ...], classes: int) -> Any:
        distances = self.module().distances
        return self.kind(**self.given(constraint=threat.name, distance=getattr(distances, threat.name)))

    def attack(self, made: Any, oracle: Oracle, victim: Victim) -> Tensor:
        foolbox, threat, aim = self.module(), oracle.threat, oracle.aim
        model = foolbox.PyTorchModel(victim, bounds=threat.bounds, device=oracle.x0.device)
        wanted = foolbox.Misclassification(aim.y) if aim.target is None else foolbox.TargetedMisclassification(aim.target)
        last: Tensor = made(model, oracle.x0, wanted, epsilons=None if self.minimal else threat.epsilon)[1]
        return last


def _sets(kind: Any) -> tuple[str, ...]:
    """The norms that a class moves in: those of its `constraint`, that of its distance, or all where it takes any."""
    parameters = inspect.signature(kind).parameters
    if "constraint" in parameters:
        return ("linf", "l2")
    distance = getattr(kind, "distance", None)
    if isinstance(distance, property) and not any(p.default is p.empty for p in parameters.values()):
        distance = _or_none(kind)
    found = NORMS.get(getattr(distance, "p", None))
    return ("linf", "l2", "l1", "l0") if found is None else (found,)


def _or_none(kind: Any) -> Any:
    try:
        return kind().distance
    except (AttributeError, ValueError):  # one that has to be given
        return None
