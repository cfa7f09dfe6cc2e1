"""Detectors: what tells attacked inputs from clean ones, and the models that reject by them."""

from __future__ import annotations

from mohs.detectors.base import Detector, Method
from mohs.detectors.guarded import Guarded, guard, threshold_at
from mohs.detectors.lid import LID
from mohs.detectors.magnet import MagNet
from mohs.detectors.mahalanobis import Mahalanobis
from mohs.detectors.nre import NRE, nre_loss
from mohs.detectors.roc import ROC
from mohs.detectors.squeezing import Squeezing
from mohs.errors import UnknownName

METHODS: dict[str, type[Method]] = {
    "mahalanobis": Mahalanobis,
    "lid": LID,
    "squeezing": Squeezing,
    "nre": NRE,
    "magnet": MagNet,
}

__all__ = [
    "LID",
    "METHODS",
    "NRE",
    "ROC",
    "Detector",
    "Guarded",
    "MagNet",
    "Mahalanobis",
    "Method",
    "Squeezing",
    "find",
    "guard",
    "nre_loss",
    "threshold_at",
]


def find(name: str) -> type[Method]:
    if name not in METHODS:
        raise UnknownName("detector", name, METHODS)
    return METHODS[name]
