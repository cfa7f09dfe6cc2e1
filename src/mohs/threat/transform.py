"""Threats of transformed inputs: the point is what a transformation is told, zeros where it does nothing."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.errors import ThreatError
from mohs.geometry import Number, per_row
from mohs.rng import Stream
from mohs.threat.threat import Threat, unit_of


@dataclass(frozen=True, kw_only=True)
class TransformThreat(Threat):
    """All inputs T(p, x0) with |p_i| <= epsilon reach_i: the point holds the parameters p of T.

    In p_i / reach_i the set is the ball of Linf, and so are steps and random points; a distance is the largest of these
    ratios. Constraints bind the transformed input: masked entries stay as they are, the others are clipped to the box of
    the constraints and the model's bounds.
    """

    epsilon: float = 1.0

    @abstractmethod
    def reach(self, x0: Tensor) -> Tensor:
        """[*point], the largest size of each parameter at epsilon 1; 0 where it is not the adversary's to choose."""

    @abstractmethod
    def transform(self, p: Tensor, x0: Tensor) -> Tensor:
        """T(p, x0), differentiable in p; x0 to the bit where p is zero."""

    @abstractmethod
    def fits(self, x0: Tensor) -> None:
        """Raise ThreatError where the transformation does not fit the examples."""

    def origin(self, x0: Tensor) -> Tensor:
        return x0.new_zeros(len(x0), *self.reach(x0).shape)

    def apply(self, p: Tensor, x0: Tensor, draw: Stream | None = None) -> Tensor:
        if len(p) == 1:  # a lone row comes twice: torch would sum its gradient in another order than in company
            return self.apply(p.expand(2, *p.shape[1:]), x0.expand(2, *x0.shape[1:]), draw)[:1]
        return self.shown(self.transform(p, x0), x0)

    def distance(self, p: Tensor, x0: Tensor) -> Tensor:
        reach = self.reach(x0).double()
        fixed = reach == 0
        ratio = p.double().abs() / torch.where(fixed, 1.0, reach)
        return torch.where(fixed & (ratio > 0), torch.inf, ratio).flatten(1).amax(1)

    def project(self, p: Tensor, x0: Tensor, epsilon: Number | None = None) -> Tensor:
        far = (self.reach(x0) * per_row(self.epsilon if epsilon is None else epsilon, p)).nan_to_num(nan=0.0, posinf=math.inf)
        return torch.clamp(p, -far, far)

    def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Number, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        move = self.reach(x0) * per_row(size * unit_of(budget), g)
        return self.project(g.sign_().mul_(move).add_(p), x0, budget)

    def random_point(self, x0: Tensor, stream: Stream, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        reach = self.reach(x0)
        far = reach * per_row(unit_of(budget), x0.new_empty(len(x0), *reach.shape))
        return self.project(stream.uniform(*reach.shape).mul_(2).sub_(1).mul_(far), x0, budget)

    def check(self, x0: Tensor) -> None:
        self.constraints.check(x0, self.bounds)
        self.fits(x0)

    def images(self, x0: Tensor, channels: int | None = None) -> None:
        """Raise ThreatError unless the examples are images, of so many channels where said."""
        if x0.ndim != 4:
            raise ThreatError(
                f"the threat {self} changes images [channels, height, width], and the inputs have shape {list(x0.shape[1:])}"
            )
        if channels is not None and x0.shape[1] != channels:
            raise ThreatError(f"the threat {self} changes colours, which takes {channels} channels, not {x0.shape[1]}")


def amount(threat: Threat, name: str, value: float) -> None:
    """Raise ThreatError unless a budget is a finite number, 0 or more."""
    if not 0 <= value < math.inf:
        raise ThreatError(f"the threat {threat.name} has {name} {value}; it must be a finite number, 0 or more")
