"""The inputs that a threat admits, as bounds need them: a box around each example, and the ball of a norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.certificates.operators import Box, gamma
from mohs.errors import DataError, Refused
from mohs.threat import NormThreat, Threat

DUAL = {"l1": torch.inf, "l2": 2.0}  # the norm that a linear function moves by, over the ball of each


class Ball(NamedTuple):
    """Inputs within radius of center [rows, *input]; dual: the order of the dual norm."""

    center: Tensor
    radius: float
    dual: float


@dataclass(frozen=True)
class Region:
    """What lies in the box, and in the ball where there is one. [rows, *input]."""

    box: Box
    ball: Ball | None = None

    def rows(self, part: slice | Tensor) -> Region:
        ball = None if self.ball is None else self.ball._replace(center=self.ball.center[part])
        return Region(self.box.rows(part), ball)

    def to(self, dtype: torch.dtype) -> Region:
        ball = None if self.ball is None else self.ball._replace(center=self.ball.center.to(dtype))
        return Region(self.box.to(dtype), ball)

    def lower(self, A: Tensor, *, sound: bool = True) -> Tensor:
        """[rows, S]: what A [rows or 1, S, *input] times the input comes to at least.

        The box's bound or the ball's by its dual norm, whichever is higher. sound: with rounding taken off."""
        center = self.box.center
        radius = torch.maximum(self.box.upper - center, center - self.box.lower)
        size = A.abs()
        found = dot(A, center, sound) - dot(size, radius, sound)
        if self.ball is not None:
            length = torch.linalg.vector_norm(A.flatten(2), ord=self.ball.dual, dim=2)
            found = torch.maximum(found, dot(A, self.ball.center, sound) - self.ball.radius * length)
        if not sound:
            return found
        return found - 2 * gamma(summed(A.shape[2:]), A.dtype) * dot(size, self.box.magnitude + radius)

    def minimiser(self, A: Tensor) -> Tensor:
        """[rows, S, *input]: inputs of the region at which A [rows, S, *input] times the input is low: where `lower` is attained,
        in the box or on the ball, and pulled into the other."""
        with torch.enable_grad():
            A = A.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.lower(A, sound=False).sum(), A)
        inside = torch.maximum(torch.minimum(found, self.box.upper.unsqueeze(1)), self.box.lower.unsqueeze(1))
        if self.ball is None:
            return inside
        order = 1.0 if self.ball.dual == torch.inf else self.ball.dual / (self.ball.dual - 1)
        center = self.ball.center.unsqueeze(1)
        length = torch.linalg.vector_norm((inside - center).flatten(2), ord=order, dim=2)
        share = (self.ball.radius / length).clamp(max=1).view(*A.shape[:2], *[1] * (A.ndim - 2))
        pulled: Tensor = center + share * (inside - center)
        return pulled


def dot(A: Tensor, v: Tensor, sound: bool = False) -> Tensor:
    """[rows, S]: the sum over all entries of A [rows or 1, S, *shape] times v [rows or 1, *shape]. sound: a dimension at a time,
    so that rounding is that of `summed` additions."""
    if sound:
        found = A * v.unsqueeze(1)
        while found.ndim > 2:
            found = found.sum(2)
        return found
    A, v = A.flatten(2), v.flatten(1)
    if A.shape[1] == 1:
        return (A * v.unsqueeze(1)).sum(2)
    if len(A) == 1:
        return v @ A[0].t()
    return A @ v[0] if len(v) == 1 else torch.stack([a @ w for a, w in zip(A, v, strict=True)])  # several times as fast as bmm


def summed(shape: Sequence[int]) -> int:
    """Additions one after the other in a `dot` over entries of a shape."""
    return sum(shape)


def region_of(threat: Threat, x: Tensor) -> Region:
    """What a threat in the model's bounds admits around examples x [n, *input], with the rounding that its successes are
    forgiven. Raises Refused for a set that is not the ball of a norm that bounds are known of, DataError for an example that is
    not in its own set."""
    if not isinstance(threat, NormThreat) or threat.name not in ("linf", *DUAL):
        raise Refused(f"bounds are known over linf, l2 and l1 balls, and the threat is {threat}")
    spare, radius = 2 * threat.rounding(), threat.epsilon * (1 + 1e-6) + 2 * threat.rounding()
    low, high = (torch.as_tensor(side).to(x) for side in threat.constraints.box(x, threat.bounds))
    if bool(((x < low - spare) | (x > high + spare)).any()):
        raise DataError(
            f"the examples run from {float(x.min()):g} to {float(x.max()):g}, outside the bounds "
            f"[{threat.bounds[0]:g}, {threat.bounds[1]:g}] of their threat, and what holds within says nothing of them: give "
            "examples within, or a model with the bounds that it takes"
        )
    box = Box(torch.maximum(low - spare, x - radius), torch.minimum(high + spare, x + radius))
    return Region(box, None if threat.name == "linf" else Ball(x, radius, DUAL[threat.name]))
