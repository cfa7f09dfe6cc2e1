"""The real cases of a benchmark: public models and data, found through MOHS_CASES."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from torch import Tensor, nn

EPSILON = {  # of the side-by-side comparisons
    "cifar_cnn_a_adv": 2 / 255,
    "mnist_kw_0.1": 0.1,
    "cifar_resnet4b_adv": 2 / 255,
    "cifar_resnet20": 0.5 / 255,
}


def folder() -> Path:
    return Path(os.environ.get("MOHS_CASES", Path(__file__).parents[1] / "../shared/cases"))


def zoo():
    spec = importlib.util.spec_from_file_location("cases_zoo", folder() / "cases.py")
    if spec is None or spec.loader is None or not (folder() / "cases.py").exists():
        raise SystemExit(f"the cases are not at {folder()}: set MOHS_CASES")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case(name: str, n: int, correct: bool = True) -> tuple[nn.Module, Tensor, Tensor]:
    """A model and its first n test examples, those it classifies correctly where `correct`."""
    cases = zoo()
    model, dataset = cases.load(name)
    x, y = cases.data(dataset)
    if not correct:
        return model, x[:n].contiguous(), y[:n]
    x, y = x[: 6 * n], y[: 6 * n]
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x.split(500)]) == y
    return model, x[right][:n].contiguous(), y[right][:n]
