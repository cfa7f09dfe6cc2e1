"""What the contract check finds, and what it is found on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mohs.models.base import Model


@dataclass(frozen=True)
class Finding:
    """What was wrong, what was expected and what to do. `code` is a word to filter by."""

    severity: Literal["error", "warning"]
    code: str
    message: str


@dataclass(frozen=True)
class Probe:
    """The model, all data x, y, a few rows of them on the model's device, and its float32 logits there."""

    model: Model
    x: Tensor
    y: Tensor
    rows: Tensor
    logits: Tensor

    @property
    def scale(self) -> float:
        return float(self.logits.abs().max().clamp_min(1e-12))


def error(code: str, message: str) -> Finding:
    return Finding("error", code, message)


def warning(code: str, message: str) -> Finding:
    return Finding("warning", code, message)
