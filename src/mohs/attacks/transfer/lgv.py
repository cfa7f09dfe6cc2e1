"""LGV: many surrogates out of one, by walking on from its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def lgv(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    models: int = 40,
    epochs: int = 10,
    rate: float = 0.05,
    momentum: float = 0.9,
    decay: float = 1e-4,
    batch: int = 256,
    seed: int = 0,
) -> list[nn.Module]:
    """Copies of a trained classifier at `models` moments of `epochs` epochs of SGD at a high constant `rate`, in evaluation
    mode and frozen; `module` is left as it is. Their `Ensemble` is a flatter surrogate than the classifier.

    x [n, *input], y [n]: training examples, shuffled by `seed`. The copies are taken at even distances, the last at the
    end. The paper's attack asks one of them in turn at each step; an `Ensemble` asks all at every step.
    Gubri, Cordy, Papadakis, Le Traon, Sen, ECCV 2022, arXiv:2207.13129.
    """
    walker = copy.deepcopy(module).train().requires_grad_(True)
    optimizer = torch.optim.SGD(walker.parameters(), lr=rate, momentum=momentum, weight_decay=decay)
    steps = epochs * -(-len(x) // batch)
    due = {-(-steps * (i + 1) // models) for i in range(models)}
    collected = []
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        for step, rows in enumerate(_batches(len(x), batch, epochs), start=1):
            optimizer.zero_grad()
            cross_entropy(walker(x[rows]), y[rows]).backward()
            optimizer.step()
            if step in due:
                collected.append(copy.deepcopy(walker).eval().requires_grad_(False))
    return collected


def _batches(n: int, size: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(n).split(size)
