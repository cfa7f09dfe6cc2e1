"""The real cases of a benchmark: public models and data, found through MOHS_CASES.

python -m benchmarks.cases FOLDER                     the data as files that `--data` takes: mnist.npz, cifar.npz and so on
mohs study difficulty benchmarks.cases:mnist_fmn_cnn --data FOLDER/mnist.npz      a case as a MODEL, dots written as _
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """A factory a case."""
    found = {} if name.startswith("_") else {text.replace(".", "_"): text for text in zoo().names()}
    if name not in found:
        raise AttributeError(name)
    return lambda: zoo().load(found[name])[0]


CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write(place: Path) -> None:
    """The data as .npz files; of MNIST, whose training images are no case, the first 6,000 test images are to train on."""
    place.mkdir(parents=True, exist_ok=True)
    cases = zoo()
    mnist, cifar, train = cases.data("mnist"), cases.data("cifar10"), cases.data("cifar10", "train")
    for name, (x, y) in {
        "mnist": mnist,
        "mnist_train": tuple(part[:6000] for part in mnist),
        "mnist_test": tuple(part[6000:] for part in mnist),
        "cifar": cifar,
        "cifar_train": train,
        "cifar_lossless": cases.data("cifar10", lossless=True)[:2],
    }.items():
        names = {"class_names": np.array(CLASSES)} if name.startswith("cifar") else {}
        np.savez(place / f"{name}.npz", x=x.numpy(), y=y.numpy(), **names)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
