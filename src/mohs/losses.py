"""Losses an attack climbs: loss(logits [rows, classes], aim) -> [rows] float32, larger = nearer to success.

Each moves away from `aim.y`, or to `aim.wanted` where the goal or this try of the attack names a class.
"""

from __future__ import annotations

import math
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


def log_odds(logits: Tensor, aim: Aim) -> Tensor:
    """log(p_t / (1 - p_t)) for the class wanted, and log((1 - p_y) / p_y) where none is: rises with p_t, and as p_y falls, and
    does not drown in rounding where the model is sure."""
    which = aim.y if aim.wanted is None else aim.wanted
    rest = logits.scatter(1, which[:, None], -torch.inf).logsumexp(1)
    odds = pick(logits, which) - rest
    return -odds if aim.wanted is None else odds


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


# The seven objectives of Carlini & Wagner, S&P 2017, arXiv:1608.04644, section IV-A, which they minimise: here negated,
# so that all are climbed. F are probabilities, Z logits, t the class wanted, or the likeliest but y where none is named,
# against y. Each is at its top, or past 0, where t wins (f1, f4, f5: where t has half of the probability).


def f1(logits: Tensor, aim: Aim) -> Tensor:
    """-(1 - log F_t). Printed as 1 - loss_{F,t}, which would drive away from t if the loss were the cross-entropy: read as
    the log-likelihood of t."""
    return _wanted_and_rest(logits.log_softmax(1), aim)[0] - 1


def f2(logits: Tensor, aim: Aim) -> Tensor:
    """-(max_{i != t} F_i - F_t)^+."""
    wanted, rest = _wanted_and_rest(logits.softmax(1), aim)
    return -(rest - wanted).relu()


def f3(logits: Tensor, aim: Aim) -> Tensor:
    """-(softplus(max_{i != t} F_i - F_t) - log 2)."""
    wanted, rest = _wanted_and_rest(logits.softmax(1), aim)
    return math.log(2) - functional.softplus(rest - wanted)


def f4(logits: Tensor, aim: Aim) -> Tensor:
    """-(0.5 - F_t)^+."""
    return -(0.5 - _wanted_and_rest(logits.softmax(1), aim)[0]).relu()


def f5(logits: Tensor, aim: Aim) -> Tensor:
    """-(-log(2 F_t))^+. Printed as -log(2 F_t - 2), whose argument is nowhere positive: read as the logarithm that is 0,
    as f4 is, where F_t = 1/2, and held at 0 from there on, without which it would be f1 and a constant."""
    return (_wanted_and_rest(logits.log_softmax(1), aim)[0] + math.log(2)).clamp(max=0)


def f6(logits: Tensor, aim: Aim) -> Tensor:
    """-(max_{i != t} Z_i - Z_t)^+."""
    wanted, rest = _wanted_and_rest(logits, aim)
    return -(rest - wanted).relu()


def f7(logits: Tensor, aim: Aim) -> Tensor:
    """-(softplus(max_{i != t} Z_i - Z_t) - log 2)."""
    wanted, rest = _wanted_and_rest(logits, aim)
    return math.log(2) - functional.softplus(rest - wanted)


def _wanted_and_rest(values: Tensor, aim: Aim) -> tuple[Tensor, Tensor]:
    """Of the class moved to, and the largest of those it must beat: [rows] each."""
    if aim.wanted is None:
        return best_other(values, aim.y), pick(values, aim.y)
    return pick(values, aim.wanted), best_other(values, aim.wanted)


NAMES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "logit_difference": logit_difference,
    "log_odds": log_odds,
    "dlr": dlr,
    "dlr_targeted": dlr_targeted,
    "f1": f1,
    "f2": f2,
    "f3": f3,
    "f4": f4,
    "f5": f5,
    "f6": f6,
    "f7": f7,
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
