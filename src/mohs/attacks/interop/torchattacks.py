"""torchattacks: `torchattacks:PGD` and every other class of `torchattacks`."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from mohs.attacks.interop.base import Foreign, Victim
from mohs.errors import Refused
from mohs.oracle import Oracle
from mohs.threat import Knowledge, Threat

BUDGETS = ("eps", "max_epsilon")
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}
LABEL, SCORES = ("GN", "VANILA"), ("OnePixel", "Pixle", "SPSA", "Square")  # all others ask for gradients


class TorchAttacks(Foreign):
    """Kim, 2020, arXiv:2010.01950. Its docstrings tell the norms, under `Distance Measure`; a class without a budget among its
    parameters looks for the nearest success. It takes inputs in [0, 1] alone."""

    library, package, installed = "torchattacks", "torchattacks", "torchattacks"
    set_by_threat = (*BUDGETS, "norm", "n_classes")

    @classmethod
    def kinds(cls) -> dict[str, Any]:
        listed = cls.module()
        base = listed.attack.Attack
        return {name: kind for name, kind in vars(listed).items() if isinstance(kind, type) and issubclass(kind, base)}

    @classmethod
    def traits(cls, kind: Any) -> dict[str, Any]:
        name, told = kind.__name__, re.search(r"Distance Measure\s*:(.*)", kind.__doc__ or "")
        sets = tuple(norm.lower() for norm in re.findall(r"L(?:inf|\d)", told[1])) if told else ()
        known = Knowledge.SCORES if name in SCORES else Knowledge.LABEL if name in LABEL else Knowledge.GRADIENT
        spends = any(budget in kind.__init__.__code__.co_varnames for budget in BUDGETS)
        return {"knowledge": known, "sets": sets or tuple(NORMS), "minimal": not spends}

    def make(self, victim: nn.Module, threat: Threat, targeted: bool, shape: tuple[int, ...], classes: int) -> Any:
        low, high = threat.bounds
        epsilon = threat.epsilon / (1 if threat.name == "l0" else high - low)
        told = self.given(**dict.fromkeys(BUDGETS, epsilon), norm=NORMS[threat.name], n_classes=classes)
        made = self.kind(_Unit(victim, low, high), **told)
        if targeted:
            if "targeted" not in made.supported_mode:
                raise Refused(f"{self.title} has no targeted mode")
            made.set_mode_targeted_by_label(quiet=True)
        return made

    def attack(self, made: Any, oracle: Oracle, victim: Victim) -> Tensor:
        low, high = oracle.threat.bounds
        labels = oracle.aim.y if oracle.aim.target is None else oracle.aim.target
        last: Tensor = made(((oracle.x0 - low) / (high - low)).clamp(0, 1), labels)
        return low + last * (high - low)


class _Unit(nn.Module):
    """A victim behind inputs in [0, 1]."""

    def __init__(self, victim: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.victim, self.low, self.high = victim, low, high
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.victim(x if (self.low, self.high) == (0, 1) else self.low + x * (self.high - self.low))
