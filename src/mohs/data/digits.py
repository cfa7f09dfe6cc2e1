"""The embedded data: 1,797 handwritten digits of 8 x 8 pixels, which come with scikit-learn."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TEST = 450


def load_digits(split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """x [n, 1, 8, 8] float32 in [0, 1] and y [n] int64: 450 examples held out for tests, 1,347 for training.

    The split is stratified and draws nothing, so that no version of a generator can change it.
    """
    from sklearn.datasets import load_digits as read

    digits = read()
    x = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)
    y = torch.from_numpy(digits.target).long()
    held = held_out(y, TEST)
    chosen = held if split == "test" else ~held
    return x[chosen], y[chosen]


def held_out(y: Tensor, count: int) -> Tensor:
    """A mask [n] of `count` examples, spread evenly over the examples sorted by class."""
    due = torch.arange(len(y) + 1) * count // len(y)  # how many are held out of the first 0, 1, 2, ...
    mask = torch.zeros(len(y), dtype=torch.bool)
    mask[y.argsort(stable=True)] = due.diff() > 0
    return mask
