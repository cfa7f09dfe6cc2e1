"""Losses an attack climbs: loss(logits [rows, classes], aim) -> [rows] float32, larger = nearer to success.

Each moves away from `aim.y`, or to `aim.wanted` where the goal or this try of the attack names a class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mohs.aim import Aim
from mohs.errors import UnknownName

Loss = Callable[[Tensor, Aim], Tensor]


def pick(logits: Tensor, classes: Tensor) -> Tensor:
    """logits[i, classes[i]], [rows]."""
    return logits.gather(1, classes[:, None])[:, 0]


def best_other(logits: Tensor, classes: Tensor) -> Tensor:
    """The largest logit of any class but classes[i], [rows]."""
    return logits.scatter(1, classes[:, None], -torch.inf).amax(1)


def cross_entropy(logits: Tensor, aim: Aim) -> Tensor:
    """CE(z, y), or -CE(z, wanted)."""
    if aim.wanted is None:
        return functional.cross_entropy(logits, aim.y, reduction="none")
    return -functional.cross_entropy(logits, aim.wanted, reduction="none")


def logit_difference(logits: Tensor, aim: Aim) -> Tensor:
    """max_{j != y} z_j - z_y, or z_wanted - z_y where a class is named. Carlini & Wagner, S&P 2017, arXiv:1608.04644."""
    if aim.wanted is None:
        return best_other(logits, aim.y) - pick(logits, aim.y)
    return pick(logits, aim.wanted) - pick(logits, aim.y)


def dlr(logits: Tensor, aim: Aim) -> Tensor:
    """Difference of logits ratio, (max_{j != y} z_j - z_y) / (z_(1) - z_(3)), z_(k) the k-th largest. Needs 3 classes.

    Croce & Hein, ICML 2020, arXiv:2003.01690.
    """
    top = logits.topk(3, dim=1).values
    return (best_other(logits, aim.y) - pick(logits, aim.y)) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, aim: Aim) -> Tensor:
    """(z_wanted - z_y) / (z_(1) - (z_(3) + z_(4)) / 2). Needs 4 classes and an aim that names one.

    Croce & Hein, ICML 2020, arXiv:2003.01690.
    """
    if aim.wanted is None:
        raise ValueError("dlr_targeted needs an aim that names a class")
    top = logits.topk(4, dim=1).values
    gap = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12
    return (pick(logits, aim.wanted) - pick(logits, aim.y)) / gap


NAMES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "logit_difference": logit_difference,
    "dlr": dlr,
    "dlr_targeted": dlr_targeted,
}


def by_name(name: str) -> Loss:
    if name not in NAMES:
        raise UnknownName("loss", name, NAMES)
    return NAMES[name]


def name_of(loss: Loss) -> str:
    """The name a spec writes for a loss, so that it round-trips."""
    for name, known in NAMES.items():
        if known is loss:
            return name
    return f"{loss.__module__}:{getattr(loss, '__qualname__', type(loss).__qualname__)}"
