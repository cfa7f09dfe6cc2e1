"""The operators of a network as bounds see them: affine maps, sums, concatenations and activations.

Each knows how a box goes forward through it, and how the coefficients of a linear bound go backward. Rounding is charged where
it happens: every sum of n products moves by at most (n + 8) units of roundoff of the sum of their magnitudes (Higham, Accuracy
and Stability of Numerical Algorithms, SIAM 2002, section 3.1), which is taken off the bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class Box(NamedTuple):
    """Entrywise bounds [rows, *shape]."""

    lower: Tensor
    upper: Tensor

    @property
    def center(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value."""
        return torch.maximum(-self.lower, self.upper)

    def meet(self, other: Box) -> Box:
        return Box(torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper))

    def rows(self, part: slice | Tensor) -> Box:
        return Box(self.lower[part], self.upper[part])

    def to(self, dtype: torch.dtype) -> Box:
        return Box(self.lower.to(dtype), self.upper.to(dtype))

    def widened(self, by: Tensor) -> Box:
        return Box(self.lower - by, self.upper + by)


def gamma(terms: int, dtype: torch.dtype) -> float:
    """What a sum of so many products may be off by, of the sum of their magnitudes."""
    return (terms + 8) * torch.finfo(dtype).eps / 2


class Operator(ABC):
    """One node. elementwise: an output entry depends on one input entry, and none shares it."""

    elementwise: bool = False

    @abstractmethod
    def forward(self, *x: Tensor) -> Tensor:
        """The operator itself, on inputs [rows, *shape]."""

    @abstractmethod
    def box(self, *inputs: Box) -> Box:
        """Bounds of the output, from those of the inputs."""


class Input(Operator):
    """The input of the network."""

    elementwise = True

    def forward(self, *x: Tensor) -> Tensor:
        return x[0]

    def box(self, *inputs: Box) -> Box:
        return inputs[0]


@dataclass(frozen=True, eq=False)
class Affine(Operator):
    """x -> linear(x) + bias. absolute: the linear map with the absolute values of its coefficients; transpose: its
    transpose, of [rows, *output] to [rows, *input]; terms: the most products in one sum of the map; uses: of the transpose, 0
    where it computes nothing."""

    linear: Map
    absolute: Map
    transpose: Map
    bias: Tensor | None = None
    terms: int = 1
    uses: int = 1
    elementwise: bool = False

    def forward(self, *x: Tensor) -> Tensor:
        z = self.linear(x[0])
        return z if self.bias is None else z + self.bias

    def box(self, *inputs: Box) -> Box:
        center = inputs[0].center
        radius = torch.maximum(inputs[0].upper - center, center - inputs[0].lower)
        middle, reach = self.forward(center), self.absolute(radius)
        slack = gamma(self.terms, middle.dtype) * self.flow(inputs[0])
        return Box(middle - reach, middle + reach).widened(slack)

    def flow(self, x: Box) -> Tensor:
        """[rows, *output]: the sum of the magnitudes of what is added up in each output."""
        total = self.absolute(x.magnitude)
        return total if self.bias is None else total + self.bias.abs()

    def back(self, A: Tensor) -> Tensor:
        """Coefficients [rows, S, *output] of the output as those [rows, S, *input] of the input."""
        found: Tensor = self.transpose(A.flatten(0, 1)).unflatten(0, A.shape[:2])
        return found


class Sum(Operator):
    """The sum of several nodes of one shape."""

    def forward(self, *x: Tensor) -> Tensor:
        return torch.stack(x).sum(0)

    def box(self, *inputs: Box) -> Box:
        found = Box(self.forward(*(x.lower for x in inputs)), self.forward(*(x.upper for x in inputs)))
        flow = self.forward(*(x.magnitude for x in inputs))
        return found.widened(gamma(len(inputs), found.lower.dtype) * flow)


@dataclass(frozen=True)
class Concat(Operator):
    """Nodes side by side. dim: of an example with its row; sizes: of the parts in it."""

    dim: int
    sizes: Sequence[int]

    def forward(self, *x: Tensor) -> Tensor:
        return torch.cat(x, self.dim)

    def box(self, *inputs: Box) -> Box:
        return Box(self.forward(*(x.lower for x in inputs)), self.forward(*(x.upper for x in inputs)))

    def back(self, A: Tensor) -> list[Tensor]:
        """Coefficients of the output as those of the parts."""
        return list(A.split(self.sizes, self.dim + 1))


class Line(NamedTuple):
    """slope * x + intercept, a line an entry; turn, lift: what is added to them at alpha = 1. None stands for 0."""

    slope: Tensor
    intercept: Tensor | None = None
    turn: Tensor | None = None
    lift: Tensor | None = None

    def at(self, alpha: Tensor) -> tuple[Tensor, Tensor | None]:
        """Slope and intercept for alpha [rows, S, *shape]."""
        slope = self.slope if self.turn is None else self.slope + alpha * self.turn
        if self.lift is None or self.intercept is None:
            return slope, self.intercept
        return slope, self.intercept + alpha * self.lift


class Relaxation(NamedTuple):
    """Lines below and above an activation on a box, all [rows, 1, *shape]; every alpha in [0, 1] is sound. alpha: where CROWN
    puts it. loose: where the activation is not a line itself. flow: the magnitude of what a line adds up."""

    lower: Line
    upper: Line
    alpha: Tensor
    loose: Tensor
    flow: Tensor


class Activation(Operator):
    """An entrywise function that is not affine."""

    elementwise = True

    @abstractmethod
    def loose(self, x: Box) -> Tensor:
        """[rows, *shape] bool: where it is not a line on the box, so that a tighter box helps."""

    @abstractmethod
    def relax(self, x: Box) -> Relaxation:
        """Lines below and above it on the box."""
