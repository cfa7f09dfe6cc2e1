"""The Adversarial Robustness Toolbox: `art:HopSkipJump` and all that attacks classifiers in `art.attacks.evasion`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mohs.attacks.interop.base import Foreign, Victim
from mohs.errors import Refused
from mohs.oracle import Oracle
from mohs.threat import Knowledge, Threat

NORMS = {"linf": math.inf, "l2": 2, "l1": 1}
LABEL = ("BoundaryAttack", "GeoDA", "HopSkipJump", "SignOPTAttack", "SpatialTransformation")
SCORES = ("PixelAttack", "SimBA", "SquareAttack", "ThresholdAttack", "ZooAttack")  # all others ask for gradients
PROBABILITIES = ("SimBA", "VirtualAdversarialMethod")  # in place of logits
SETS = {  # of those that have no parameter `norm`
    "BasicIterativeMethod": "linf",
    "BoundaryAttack": "l2",
    "CarliniL0Method": "l0",
    "CarliniL2Method": "l2",
    "CarliniLInfMethod": "linf",
    "DeepFool": "l2",
    "ElasticNet": "l1",
    "NewtonFool": "l2",
    "PixelAttack": "l0",
    "SaliencyMapMethod": "l0",
    "SignOPTAttack": "l2",
    "SimBA": "l2",
    "ThresholdAttack": "linf",
    "VirtualAdversarialMethod": "l2",
    "ZooAttack": "l2",
}


class ART(Foreign):
    """Nicolae et al., 2018, arXiv:1807.01069. A class without the parameter `eps` looks for the nearest success."""

    library, package, installed = "art", "art.attacks.evasion", "adversarial-robustness-toolbox"
    set_by_threat = ("eps", "norm", "targeted")

    @classmethod
    def kinds(cls) -> dict[str, Any]:
        listed = vars(cls.module())
        from art.attacks.attack import EvasionAttack
        from art.estimators.classification import PyTorchClassifier

        def serves(kind: Any) -> bool:
            if not isinstance(kind, type) or not issubclass(kind, EvasionAttack):
                return False
            return all(issubclass(PyTorchClassifier, needed) for needed in getattr(kind, "_estimator_requirements", ()))

        return {name: kind for name, kind in listed.items() if serves(kind)}

    @classmethod
    def traits(cls, kind: Any) -> dict[str, Any]:
        name, parameters = kind.__name__, kind.__init__.__code__.co_varnames
        known = Knowledge.SCORES if name in SCORES else Knowledge.LABEL if name in LABEL else Knowledge.GRADIENT
        sets = tuple(NORMS) if "norm" in parameters else (SETS[name],) if name in SETS else (*NORMS, "l0")
        return {"knowledge": known, "sets": sets, "minimal": "eps" not in parameters}

    def make(self, victim: nn.Module, threat: Threat, targeted: bool, shape: tuple[int, ...], classes: int) -> Any:
        from art.estimators.classification import PyTorchClassifier

        if targeted and "targeted" not in self.parameters():
            raise Refused(f"{self.title} has no targeted mode")
        place = "cpu" if next(victim.parameters()).device.type == "cpu" else "gpu"
        if self.kind.__name__ in PROBABILITIES:
            victim = nn.Sequential(victim, nn.Softmax(1)).eval()
        model = PyTorchClassifier(victim, nn.CrossEntropyLoss(), shape, classes, clip_values=threat.bounds, device_type=place)
        return self.kind(model, **self.given(eps=threat.epsilon, norm=NORMS.get(threat.name), targeted=targeted))

    def attack(self, made: Any, oracle: Oracle, victim: Victim) -> Tensor:
        labels = oracle.aim.y if oracle.aim.target is None else oracle.aim.target
        one_hot = nn.functional.one_hot(labels, oracle.judge.model.classes)  # numbers are not taken by all
        return torch.from_numpy(made.generate(oracle.x0.cpu().numpy(), one_hot.float().cpu().numpy()))
