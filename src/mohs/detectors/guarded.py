"""A model behind a detector: it classifies an input, or rejects it."""

from __future__ import annotations

import copy
import hashlib
import math

import torch
from torch import Tensor

from mohs.detectors.base import Detector, in_parts
from mohs.errors import DataError
from mohs.models import Model


class Guarded(Model):
    """The model's logits, and one of the class `rejected`, the last: max_j z_j + gain (score - threshold), the largest exactly
    where the score exceeds the threshold. An adversary has won where the label is wrong and the input is not rejected; a
    clean input that is rejected is an error. Gradients flow through both.

    The logit is that of Carlini & Wagner, AISec 2017, arXiv:1705.07263, whose max z_j times (detector + 1) asks for positive
    logits, with a sum for the product.
    """

    def __init__(self, detector: Detector, threshold: float, gain: float = 1.0) -> None:
        self.detector, self.threshold, self.gain = detector, threshold, gain
        model = detector.model
        self.name = f"{detector.name} before {model.name}"
        self.bounds, self.device, self.forks = model.bounds, model.device, model.forks
        self.gives, self.batch, self.random = model.gives, model.batch, model.random
        self.differentiable = model.differentiable and detector.differentiable
        self.classes, self.rejected = model.classes + 1, model.classes

    def logits(self, x: Tensor) -> Tensor:
        z, score = self.detector.inspect(x)
        excess = self.gain * (score.double() - self.threshold)
        return torch.cat([z, (z.amax(1) + excess.to(z.dtype))[:, None]], 1)

    def double(self) -> Guarded | None:
        inner = self.detector.double()
        if inner is None:
            return None
        twin = copy.copy(self)
        twin.detector = inner
        return twin

    def fingerprint(self) -> str | None:
        inner = self.detector.fingerprint()
        return None if inner is None else hashlib.sha256(f"{inner};{self.threshold!r};{self.gain!r}".encode()).hexdigest()


@torch.no_grad()
def guard(detector: Detector, clean: Tensor, false_alarms: float = 0.05) -> Guarded:
    """The model behind the detector, with the threshold at which at most the share `false_alarms` of clean inputs [n, *input],
    which nothing was fitted on, is rejected; the gain makes a typical one as far from being rejected as from another class."""
    scores = detector.scores(clean)
    threshold = threshold_at(scores, false_alarms)
    top = in_parts(detector.model.logits, clean, detector.model.device).topk(2, dim=1).values
    logits, score = float((top[:, 0] - top[:, 1]).median()), threshold - float(scores.median())
    gain = logits / score if logits > 0 and score > 0 else 1.0
    return Guarded(detector, threshold, gain)


def threshold_at(scores: Tensor, false_alarms: float) -> float:
    """The least of the scores [n] that at most the share `false_alarms` of them exceed."""
    if not 0 <= false_alarms < 1:
        raise DataError(f"the rate of false alarms should lie in [0, 1), and is {false_alarms:g}")
    above = math.floor(false_alarms * len(scores) * (1 + 1e-9))
    return float(scores.sort(descending=True).values[above])
