"""Several sets at once: what each of them allows, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mohs.errors import ThreatError
from mohs.geometry import Number
from mohs.rng import Stream
from mohs.threat.threat import NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class CompositeThreat(Threat):
    """All inputs that the transformations of `parts`, in their order, make of x0, and then the change that a norm allows, each
    within epsilon times its own budget. Laidlaw & Feizi, NeurIPS 2019, arXiv:1906.00001, join colours, flow and Linf so.

    A point is the parts' points, flattened, one after the other; a norm's point is x0 and its change. The distance is
    the largest of the parts' distances over their budgets. Constraints are the composite's and bind what is shown.
    """

    epsilon: float = 1.0
    parts: tuple[Threat, ...]
    name = "composite"

    def __post_init__(self) -> None:
        for part in self.parts:
            if not 0 < part.epsilon < math.inf:
                raise ThreatError(f"{part} is joined with another set: its budget must be above 0 and finite")

    def __str__(self) -> str:
        return "+".join(str(replace(part, epsilon=part.epsilon * self.epsilon)) for part in self.parts) + str(self.constraints)

    def within(self, bounds: tuple[float, float]) -> Self:
        return replace(self, bounds=bounds, parts=tuple(part.within(bounds) for part in self.parts))

    def origin(self, x0: Tensor) -> Tensor:
        return _join([part.origin(x0) for part in self.parts])

    def split(self, p: Tensor, x0: Tensor) -> list[Tensor]:
        """The parts' points."""
        shapes = [part.origin(x0[:1]).shape[1:] for part in self.parts]
        points = p.split([math.prod(shape) for shape in shapes], 1)
        return [point.reshape(len(p), *shape) for point, shape in zip(points, shapes, strict=True)]

    def apply(self, p: Tensor, x0: Tensor, draw: Stream | None = None) -> Tensor:
        if len(p) == 1:  # a lone row comes twice: torch would sum its gradient in another order than in company
            return self.apply(p.expand(2, *p.shape[1:]), x0.expand(2, *x0.shape[1:]), draw)[:1]
        x, points = x0, self.split(p, x0)
        for part, point in zip(self.parts, points, strict=True):
            if not isinstance(part, NormThreat):
                x = part.apply(point, x)
        for part, point in zip(self.parts, points, strict=True):
            if isinstance(part, NormThreat):
                x = x + (point - x0)
        return self.shown(x, x0)

    def distance(self, p: Tensor, x0: Tensor) -> Tensor:
        points = zip(self.parts, self.split(p, x0), strict=True)
        return torch.stack([part.distance(point, x0) / part.epsilon for part, point in points]).amax(0)

    def project(self, p: Tensor, x0: Tensor, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        points = zip(self.parts, self.split(p, x0), strict=True)
        return _join([part.project(point, x0, part.epsilon * budget) for part, point in points])

    def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Number, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        each = zip(self.parts, self.split(p, x0), self.split(g, x0), strict=True)
        free = not isinstance(budget, Tensor) and math.isinf(budget)  # a step is then of the parts' budgets
        return _join([part.step(q, v, x0, size * part.epsilon if free else size, part.epsilon * budget) for part, q, v in each])

    def random_point(self, x0: Tensor, stream: Stream, epsilon: Number | None = None) -> Tensor:
        budget = self.epsilon if epsilon is None else epsilon
        return _join([part.random_point(x0, stream.at("part", i), part.epsilon * budget) for i, part in enumerate(self.parts)])

    def check(self, x0: Tensor) -> None:
        self.constraints.check(x0, self.bounds)
        for part in self.parts:
            part.check(x0)

    def rounding(self) -> float:
        """Of the norm's change, as a share of its budget."""
        return max(part.rounding() / part.epsilon for part in self.parts)

    def describe(self) -> str:
        return ", and then ".join(replace(part, epsilon=part.epsilon * self.epsilon).describe() for part in self.parts)


def _join(points: list[Tensor]) -> Tensor:
    return torch.cat([point.flatten(1) for point in points], 1)
