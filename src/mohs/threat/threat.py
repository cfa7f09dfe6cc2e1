"""Threats: the set an adversary may choose from, and what they know. An attack moves a point of it, a row an example."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from mohs import geometry
from mohs.errors import ThreatError
from mohs.geometry import Norm, Number, per_row
from mohs.rng import Stream
from mohs.threat.constraints import Constraints

if TYPE_CHECKING:
    from mohs.models import Model

ULP = 2.0**-23  # of float32 at 1: what x0 + epsilon may be rounded by


class Knowledge(IntEnum):
    """What the adversary gets to see, and what a model gives: each level includes those below."""

    TRANSFER = 0  # nothing: an attack made elsewhere, judged once
    LABEL = 1  # the predicted class
    SCORES = 2  # the logits or probabilities
    GRADIENT = 3  # derivatives

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class Threat(ABC):
    """S(x0) as points p [rows, ...]; for a norm the point is the input itself, so that attacks read as printed.

    epsilon: the budget, in the set's own units; infinite for minimal-norm attacks. bounds: the model's, which the
    Oracle's maker fills in. Every method is differentiable where it says so and couples no rows.
    """

    epsilon: float
    knowledge: Knowledge = Knowledge.GRADIENT
    constraints: Constraints = field(default_factory=Constraints)
    bounds: tuple[float, float] = (0.0, 1.0)

    name: ClassVar[str]

    @abstractmethod
    def origin(self, x0: Tensor) -> Tensor:
        """The point of no change."""

    @abstractmethod
    def apply(self, p: Tensor, x0: Tensor, draw: Stream | None = None) -> Tensor:
        """The input at a point, differentiable in p; `draw` is the randomness of sets that have any."""

    @abstractmethod
    def distance(self, p: Tensor, x0: Tensor) -> Tensor:
        """[rows] float64, in the units of epsilon, differentiable."""

    def roughly(self, p: Tensor, x0: Tensor) -> Tensor:
        """The distance within a thousandth, for less where that can be had."""
        return self.distance(p, x0)

    @abstractmethod
    def project(self, p: Tensor, x0: Tensor, epsilon: Number | None = None) -> Tensor:
        """The nearest point of the set (of budget `epsilon`, a number or one a row, where given). May overwrite p."""

    def shrink(self, p: Tensor, x0: Tensor, epsilon: Tensor, size: Tensor) -> Tensor:
        """The projection onto the ball of epsilon [rows] of points p of the set, at distances `size` [rows] beyond it."""
        return self.project(p.clone(), x0, epsilon.to(p.dtype))

    @abstractmethod
    def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Number, epsilon: Number | None = None) -> Tensor:
        """The steepest step along the gradient g, projected. `size`, a number or one a row, is in units of epsilon
        (of 1 where epsilon is infinite). May overwrite g."""

    @abstractmethod
    def random_point(self, x0: Tensor, stream: Stream, epsilon: Number | None = None) -> Tensor:
        """A random point of the set; uniform in the ball for the convex norms."""

    @abstractmethod
    def check(self, x0: Tensor) -> None:
        """Raise ThreatError where the threat does not fit the examples."""

    def change_shape(self, x0: Tensor) -> tuple[int, ...]:
        """The shape of a change that examples x0 can share."""
        return self.origin(x0[:1]).shape[1:]

    def shared(self, change: Tensor, x0: Tensor, stream: Stream) -> Tensor:
        """One change [1, *change_shape], the same for all rows, as their points; the stream draws what differs, if anything."""
        return self.project(change.expand(len(x0), *change.shape[1:]).clone(), x0)

    def contains(self, p: Tensor, x0: Tensor) -> Tensor:
        """[rows] bool, decided in float64 with one float32 ulp of the bounds to spare."""
        return self.distance(p, x0) <= self.epsilon * (1 + 1e-6) + self.rounding()

    def rounding(self) -> float:
        """What float32 may add to a distance."""
        return 0.0

    def words(self) -> str:
        """The threat for someone who never heard of norms."""
        sees = {
            Knowledge.GRADIENT: "knows the model and its gradients",
            Knowledge.SCORES: "sees the model's scores",
            Knowledge.LABEL: "sees only the predicted class",
            Knowledge.TRANSFER: "never asks the model",
        }[self.knowledge]
        budget = self.describe() if math.isfinite(self.epsilon) else "change the input as little as will do"
        return f"An adversary who {sees} may {budget}, inside [{self.bounds[0]:g}, {self.bounds[1]:g}]{self.constraints.words()}."

    @abstractmethod
    def describe(self) -> str:
        """What the budget allows, after `may`."""

    def shown(self, x: Tensor, x0: Tensor) -> Tensor:
        """x as bounds and constraints let it be seen: x0 outside the mask, clipped to the box, on the grid."""
        limits = self.constraints
        if limits.mask is not None:
            x = torch.where(limits.mask.to(x.device), x, x0)
        low, high = limits.box(x0, self.bounds)
        x = x.clamp(min=low).clamp(max=high)
        if limits.bits is None:
            return x
        grid, spare = limits.snap(x.detach(), self.bounds), ULP * max(map(abs, self.bounds))
        outside = (grid < low - spare) | (grid > high + spare)
        return torch.where(outside, limits.toward(x.detach(), x0, self.bounds), grid) + (x - x.detach())

    def within(self, bounds: tuple[float, float]) -> Self:
        """The threat in a model's bounds."""
        return replace(self, bounds=bounds)

    def facing(self, model: Model) -> Self:
        """The threat as one against a model: in its bounds, and made of what it sees where the set is. Whoever prepares an
        attack calls it once more than needed: what a threat has been given it keeps."""
        return self.within(model.bounds)

    def digest(self) -> str | None:
        """sha256 of what the set is made of beside its text, None where that is all."""
        return self.constraints.digest()

    def minimal(self) -> Self:
        """The same threat without a budget: the nearest success is wanted."""
        return replace(self, epsilon=math.inf)


@dataclass(frozen=True)
class NormThreat(Threat):
    """All inputs of the box within epsilon of x0 in a norm: the point is the input."""

    epsilon: float
    knowledge: Knowledge = field(default=Knowledge.GRADIENT, kw_only=True)
    constraints: Constraints = field(default_factory=Constraints, kw_only=True)
    bounds: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """The geometry."""

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ThreatError(f"the threat {self.name} has epsilon {self.epsilon}; it must be 0 or more")

    def __str__(self) -> str:
        return f"{self.name}:{self.epsilon:g}{self.constraints}"

    def origin(self, x0: Tensor) -> Tensor:
        return x0.clone()

    def apply(self, p: Tensor, x0: Tensor, draw: Stream | None = None) -> Tensor:
        if self.constraints.bits is None:
            return p
        shown = self._quantised(p.detach(), x0)
        return shown + (p - p.detach()) if p.requires_grad else shown

    def distance(self, p: Tensor, x0: Tensor) -> Tensor:
        return self.norm.distance(self.apply(p, x0).double() - x0.double())

    def roughly(self, p: Tensor, x0: Tensor) -> Tensor:
        return self.norm.distance(self.apply(p, x0) - x0)  # a float32 difference

    def contains(self, p: Tensor, x0: Tensor) -> Tensor:
        """The ball, and the box of bounds and constraints too: an attack that forgets one makes no success."""
        shown, spare = self.apply(p, x0), self.rounding()
        if self.epsilon == math.inf:
            return self._boxed(shown, x0)
        inside = self.norm.distance(shown - x0) <= self.epsilon * 1.001 + 2 * spare  # float32 rules out what is plainly far
        rows = inside.nonzero()[:, 0]
        near, origin = shown.index_select(0, rows), x0.index_select(0, rows)
        ball = self.norm.distance(near.double() - origin.double()) <= self.epsilon * (1 + 1e-6) + spare
        inside[rows] = ball & self._boxed(near, origin)
        return inside

    def _boxed(self, shown: Tensor, x0: Tensor) -> Tensor:
        """[rows] bool: inputs within the box, by a float32 ulp of the bounds."""
        low, high = self.constraints.box(x0, self.bounds)
        return torch.maximum(shown - high, low - shown).flatten(1).amax(1) <= self.rounding()

    def project(self, p: Tensor, x0: Tensor, epsilon: Number | None = None) -> Tensor:
        low, high = self.constraints.box(x0, self.bounds)
        return self.norm.project(p, x0, self.epsilon if epsilon is None else epsilon, low, high)

    def shared(self, change: Tensor, x0: Tensor, stream: Stream) -> Tensor:
        """x0 + change, projected."""
        return self.project(x0 + change, x0)

    def farthest(self, x0: Tensor) -> Tensor:
        """[rows] float64: the distance of the point of the box that is farthest from x0."""
        low, high = self.constraints.box(x0, self.bounds)
        return self.norm.distance(torch.maximum(high - x0, x0 - low))

    def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Number, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        direction = self.norm.steepest(self.constraints.mutable(g))
        return self.project(direction.mul_(per_row(size * unit_of(budget), g)).add_(p), x0, budget)

    def random_point(self, x0: Tensor, stream: Stream, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        offset = self.constraints.mutable(self.norm.ball(x0, stream))
        return self.project(offset.mul_(per_row(unit_of(budget), x0)).add_(x0), x0, budget)

    def check(self, x0: Tensor) -> None:
        self.constraints.check(x0, self.bounds)
        side = self.bounds[1] - self.bounds[0]
        widest = float(self.norm.distance(torch.full_like(x0[:1], side))[0])
        if math.isfinite(self.epsilon) and self.epsilon > widest * (1 + 1e-9):
            raise ThreatError(
                f"epsilon {self.epsilon:g} is outside the box: two inputs in {list(self.bounds)} of this shape are at most "
                f"{widest:g} apart in {self.name}; epsilon is in the units of the input (8/255, not 8, for images in [0, 1])"
            )

    def _quantised(self, p: Tensor, x0: Tensor) -> Tensor:
        """The grid point nearest to p; toward x0 for entries that rounding would carry out of the box, and rows out of the
        ball."""
        shown, nearer = self.constraints.snap(p, self.bounds), self.constraints.toward(p, x0, self.bounds)
        low, high = self.constraints.box(x0, self.bounds)
        spare = self.rounding()
        shown = torch.where((shown < low - spare) | (shown > high + spare), nearer, shown)
        inside = self.norm.distance(shown.double() - x0.double()) <= self.epsilon * (1 + 1e-6) + spare
        return torch.where(per_row(inside, p), shown, nearer)

    def rounding(self) -> float:
        return ULP * max(map(abs, self.bounds))


def unit_of(epsilon: Number) -> Number:
    """What a step is measured in: epsilon, or 1 where there is none."""
    if isinstance(epsilon, Tensor):
        return torch.where(epsilon.isfinite(), epsilon, 1.0)
    return epsilon if math.isfinite(epsilon) else 1.0


@dataclass(frozen=True)
class Linf(NormThreat):
    """Every entry moves by at most epsilon."""

    name = "linf"

    def describe(self) -> str:
        return f"change every entry of the input by at most {self.epsilon:g} ({_grey(self)})"

    @property
    def norm(self) -> Norm:
        return geometry.LINF


@dataclass(frozen=True)
class L2(NormThreat):
    """The Euclidean length of the change is at most epsilon."""

    name = "l2"

    def describe(self) -> str:
        return f"change the input by a vector of Euclidean length at most {self.epsilon:g}"

    def shrink(self, p: Tensor, x0: Tensor, epsilon: Tensor, size: Tensor) -> Tensor:
        """On the way to x0, which stays in the box."""
        return torch.lerp(x0, p, per_row((epsilon / size).nan_to_num(0).to(p.dtype), p))

    @property
    def norm(self) -> Norm:
        return geometry.L2


@dataclass(frozen=True)
class L1(NormThreat):
    """The absolute changes sum to at most epsilon."""

    name = "l1"

    def describe(self) -> str:
        return f"change the input by amounts that sum, without sign, to at most {self.epsilon:g}"

    @property
    def norm(self) -> Norm:
        return geometry.L1


@dataclass(frozen=True)
class L0(NormThreat):
    """At most epsilon entries change; with `pixels`, epsilon positions of [channels, ...] inputs."""

    pixels: bool = field(default=False, kw_only=True)
    name = "l0"

    def describe(self) -> str:
        return f"set {self.epsilon:g} {'pixels' if self.pixels else 'entries'} of the input to anything"

    @property
    def norm(self) -> Norm:
        return geometry.L0_PIXELS if self.pixels else geometry.L0

    def __str__(self) -> str:
        return f"l0:{self.epsilon:g}{'px' if self.pixels else ''}{self.constraints}"


def _grey(threat: Threat) -> str:
    """A budget as a share of the range, and in grey levels of an 8-bit image."""
    share = threat.epsilon / (threat.bounds[1] - threat.bounds[0])
    return f"{share:.1%} of the range, {share * 255:.3g} of 255 grey levels"
