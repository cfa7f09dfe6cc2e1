"""Projected ascent by an optimiser of the deep learning libraries, its state a row an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.attacks.adam import adam as lockstep
from mohs.attacks.base import Attack
from mohs.errors import UnknownName
from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Threat


class State(NamedTuple):
    """Of the perturbation delta, entry by entry; what `first` and `second` hold is the optimiser's."""

    delta: Tensor
    first: Tensor
    second: Tensor


Optimizer = Callable[[State, Tensor, int, float], State]  # (state, gradient to descend, step from 1, rate) -> state


@dataclass(frozen=True, kw_only=True)
class OptimizerPGD(Attack):
    """delta goes where an optimiser takes it to lower -loss, and is projected onto the set after every step; from delta = 0.

    optimizer: adam, rmsprop, adagrad, ftrl or sgd, with the constants of Keras. rate: in units of epsilon. normalise:
    gradients are divided by their root mean square, a row at a time: raw ones vanish where the model is sure, and sgd,
    adagrad and ftrl then stay where they are, which says nothing of the model.
    The reading of the attack of https://github.com/sayakpaul/Adversarial-Examples-in-Deep-Learning (2020),
    `Optimizer_Susceptibility`, that was meant: there the clipped delta is added to itself at every step, its limit is 1/255
    of what is said, the input is not clipped, the loss saturates, and gradients are not normalised (normalise=False).

    When to use: to see what the optimiser does to an attack: Adam and RMSprop step about alike whatever the gradient's size,
    and with `normalise=False` the others stand still on a model that is sure, which reads as robustness and is none. For a
    verdict take `apgd`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()
    >>> raw = attacks.OptimizerPGD(optimizer="sgd", normalise=False, rate=0.01)(model, x, y, threat="linf:0.2")
    >>> scaled = attacks.OptimizerPGD(optimizer="sgd")(model, x, y, threat="linf:0.2")
    >>> bool(raw.broken), bool(scaled.broken)  # the same model, and only the size of the gradient differs
    (False, True)
    """

    steps: int = 50
    optimizer: str = "adam"
    rate: float = 0.1
    normalise: bool = True
    loss: Loss = cross_entropy

    paper = "Paul, Optimizer_Susceptibility notebooks, 2020"
    random = False
    sets = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        update, accumulator = OPTIMIZERS[self.optimizer]
        zero = torch.zeros_like(x0)
        state = State(zero, zero.clone(), zero + accumulator)
        x = threat.origin(x0)
        for k in oracle.steps(self.steps):
            g = -oracle.gradient(x, self.loss).gradient
            if self.normalise:
                size = (total(g.double().square()) / g[0].numel()).sqrt()
                g = g / per_row(torch.where(size > 0, size, 1.0).to(g.dtype), g)
            g = threat.constraints.mutable(g)
            state = update(state, g, k + 1, self.rate * threat.epsilon)
            x = threat.project(state.delta + x0, x0)
            state = state._replace(delta=x - x0)
            x0, x, *rows = oracle.compact(x0, x, *state)
            state = State(*rows)
        return x


def sgd(s: State, g: Tensor, step: int, rate: float) -> State:
    """delta - rate g."""
    return s._replace(delta=s.delta - rate * g)


def adam(s: State, g: Tensor, step: int, rate: float) -> State:
    """Kingma & Ba, ICLR 2015, arXiv:1412.6980; first and second moments."""
    direction, metric = lockstep(g, s.first, s.second, step - 1, tiny=1e-7)
    return s._replace(delta=s.delta - rate * direction / metric)


def rmsprop(s: State, g: Tensor, step: int, rate: float) -> State:
    """Tieleman & Hinton, lecture 6.5, 2012; second moments."""
    v = 0.9 * s.second + 0.1 * g.square()
    return State(s.delta - rate * g / (v.sqrt() + 1e-7), s.first, v)


def adagrad(s: State, g: Tensor, step: int, rate: float) -> State:
    """Duchi, Hazan, Singer, JMLR 2011; sums of squares, 0.1 at first."""
    n = s.second + g.square()
    return State(s.delta - rate * g / (n.sqrt() + 1e-7), s.first, n)


def ftrl(s: State, g: Tensor, step: int, rate: float) -> State:
    """Follow the regularised leader, without its l1 and l2. McMahan et al., KDD 2013. z, and sums of squares, 0.1 at
    first; delta is where z says, so that a projection lasts no longer than a step."""
    n = s.second + g.square()
    z = s.first + g - (n.sqrt() - s.second.sqrt()) / rate * s.delta
    return State(-z * rate / n.sqrt(), z, n)


OPTIMIZERS: dict[str, tuple[Optimizer, float]] = {
    "adam": (adam, 0.0),
    "rmsprop": (rmsprop, 0.0),
    "adagrad": (adagrad, 0.1),
    "ftrl": (ftrl, 0.1),
    "sgd": (sgd, 0.0),
}
