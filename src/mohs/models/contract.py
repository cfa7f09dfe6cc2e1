"""The contract between a model, its data and mohs, checked before any attack runs. One small function a check."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mohs.errors import DataError, ModelError
from mohs.models.base import Model
from mohs.models.checks import CHECKS, PROBES, outputs, training
from mohs.models.findings import Finding, Probe, error
from mohs.models.http import HttpModel
from mohs.models.http.contract import meet
from mohs.models.probe import first_answer
from mohs.models.torch_model import TorchModel

__all__ = ["Finding", "check_contract", "check_data", "check_outputs"]


def check_contract(model: Model, x: Tensor, y: Tensor) -> list[Finding]:
    """The warnings about a model and examples x [n, *input] with labels y [n]; the first error is raised.

    Sets `model.random` where passes differ, and lowers `model.gives` where there is no gradient. Raises DataError and
    ModelError.
    """
    check_data(model, x, y)
    for finding in training(model):
        raise ModelError(finding.message)
    module = model.module if isinstance(model, TorchModel) else None
    warnings: list[Finding] = list(meet(model, x.float(), y)) if isinstance(model, HttpModel) else []
    rows = x[:PROBES].float().to(model.device)
    probe = Probe(model, x, y, rows, first_answer(model.logits, rows, module).float())
    for check in CHECKS:
        for finding in check(probe):
            if finding.severity == "error":
                raise ModelError(finding.message)
            warnings.append(finding)
    return warnings


def check_data(model: Model, x: Tensor, y: Tensor) -> None:
    """DataError where examples x [n, *input] with labels y [n] are none, or none for this model; the model is not asked."""
    for finding in (*_arrays(x, y), *_labels(model, y), *in_range(model.bounds, x)):
        raise DataError(finding.message)


@torch.no_grad()
def check_outputs(model: Model, x: Tensor) -> None:
    """ModelError where what the model answers to a few rows of x [n, *input] is something else than was declared."""
    rows = x[:PROBES].float().to(model.device)
    for finding in outputs(Probe(model, x, torch.zeros(len(x)), rows, model.logits(rows).float())):
        raise ModelError(f"{finding.message} (in Python, mohs.models.as_model(module, x, outputs=...))")


def _arrays(x: Tensor, y: Tensor) -> Iterator[Finding]:
    if len(x) == 0:
        yield error("empty", "there are no examples; give at least one")
    elif len(x) != len(y):
        yield error("length", f"there are {len(x)} examples and {len(y)} labels; expected one label an example")
    elif not x.is_floating_point():
        yield error("dtype", f"the examples are {x.dtype}; expected floating point: x.float() / 255 for 8-bit images")
    elif y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or y.ndim != 1:
        yield error("labels", f"the labels are {y.dtype} of shape {list(y.shape)}; expected integers of shape [n]")
    elif not math.isfinite(x.sum(dtype=torch.float64)):  # without a second array of that size
        row = int((~x.isfinite()).reshape(len(x), -1).any(1).nonzero()[0])
        yield error("nan", f"example {row} holds NaN or infinity; leave it out or repair it")


def _labels(model: Model, y: Tensor) -> Iterator[Finding]:
    if len(y) == 0 or y.is_floating_point():
        return  # said above
    low, high = int(y.min()), int(y.max())
    spans = f"labels run from {low} to {high} and the model has {model.classes} classes"
    if low == 1 and high == model.classes:
        yield error("labels", f"{spans}: subtract 1, classes are counted from 0")
    elif high >= model.classes or low < 0:
        yield error("labels", f"{spans}, 0 to {model.classes - 1}: is it the model of these data?")


def in_range(bounds: tuple[float, float], x: Tensor) -> Iterator[Finding]:
    """An error where data x [n, *input] leave the bounds of a model."""
    if len(x) == 0:
        return  # said above
    low, high, least, most = *bounds, float(x.min()), float(x.max())
    if low <= least and most <= high:
        return
    if least < 0 <= low:
        how = "normalisation belongs inside the model, give it the data before that; or say which --bounds it takes"
    elif most > 1.5 and high == 1:
        how = "divide them by 255, or say --bounds 0,255 if the model takes that"
    else:
        how = f"say --bounds {least:g},{most:g} if the model takes that"
    yield error("range", f"the data run from {least:g} to {most:g}, outside the bounds [{low:g}, {high:g}]: {how}")
