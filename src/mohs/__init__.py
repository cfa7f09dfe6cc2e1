"""mohs: how much can an adversary do to a machine-learning model, and how is it made harder?

>>> import mohs
>>> result = mohs.audit("demo", "digits", threats=["linf:0.1"], profile="quick", limit=16)
>>> result.clean_accuracy >= result.robust_accuracy["linf:0.1"]
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mohs import attacks
    from mohs.auditing import Result, audit, resume
    from mohs.certifying import certify
    from mohs.crafting import universal
    from mohs.curving import curve
    from mohs.detecting import Detected, detect
    from mohs.diagnosis import Diagnosis, diagnose
    from mohs.errors import MohsError, RequestError, RunFailed
    from mohs.exploring import explore
    from mohs.hardening import harden
    from mohs.ledger import Outcome, Status
    from mohs.models import Model, TorchModel, load_model, prepare
    from mohs.probing import probe
    from mohs.substituting import substitute
    from mohs.threat import L0, L1, L2, Constraints, Knowledge, Linf, parse_goal, parse_threat

_HOMES = {
    "mohs.auditing": ("Result", "audit", "resume"),
    "mohs.certifying": ("certify",),
    "mohs.crafting": ("universal",),
    "mohs.curving": ("curve",),
    "mohs.detecting": ("Detected", "detect"),
    "mohs.diagnosis": ("Diagnosis", "diagnose"),
    "mohs.errors": ("MohsError", "RequestError", "RunFailed"),
    "mohs.exploring": ("explore",),
    "mohs.hardening": ("harden",),
    "mohs.ledger": ("Outcome", "Status"),
    "mohs.models": ("Model", "TorchModel", "load_model", "prepare"),
    "mohs.probing": ("probe",),
    "mohs.substituting": ("substitute",),
    "mohs.threat": ("Constraints", "Knowledge", "L0", "L1", "L2", "Linf", "parse_goal", "parse_threat"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "L0",
    "L1",
    "L2",
    "Constraints",
    "Detected",
    "Diagnosis",
    "Knowledge",
    "Linf",
    "Model",
    "MohsError",
    "Outcome",
    "RequestError",
    "Result",
    "RunFailed",
    "Status",
    "TorchModel",
    "attacks",
    "audit",
    "certify",
    "curve",
    "detect",
    "diagnose",
    "explore",
    "harden",
    "load_model",
    "parse_goal",
    "parse_threat",
    "prepare",
    "probe",
    "resume",
    "substitute",
    "universal",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import mohs` costs nothing."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "attacks":
        return import_module("mohs.attacks")
    raise AttributeError(f"module 'mohs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
