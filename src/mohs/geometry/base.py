"""What a norm must know: distance, exact projection, steepest step, random point. Pure functions of tensors.

Shapes: x, x0, v, g, w [rows, *input]; epsilon, gap [rows] (or a number where said); `low` and `high` are the box, numbers
or tensors that broadcast to x, and x0 lies in it. Nothing couples rows: every reduction runs over the dimensions after
the first. Distances are float64, points float32.
"""

from __future__ import annotations

from typing import Protocol, overload

from torch import Tensor

from mohs.rng import Stream

Number = float | Tensor


@overload
def per_row(value: Tensor, like: Tensor) -> Tensor: ...
@overload
def per_row(value: float, like: Tensor) -> float: ...
def per_row(value: Number, like: Tensor) -> Number:
    """A number as it is; one a row as [rows, 1, ..., 1], to broadcast over `like` [rows, *input]."""
    return value.view(-1, *[1] * (like.ndim - 1)) if isinstance(value, Tensor) and value.ndim == 1 else value


class Norm(Protocol):
    """The geometry of one norm p; q is its dual exponent, 1/p + 1/q = 1."""

    @property
    def name(self) -> str:
        """As in the grammar."""

    def distance(self, delta: Tensor) -> Tensor:
        """||delta||_p [rows], float64, differentiable."""

    def dual(self, g: Tensor) -> Tensor:
        """||g||_q [rows], in g's dtype."""

    def steepest(self, g: Tensor) -> Tensor:
        """argmax <g, d> over ||d||_p <= 1; zeros where g is zero. May overwrite g."""

    def project(self, x: Tensor, x0: Tensor, epsilon: Number, low: Number, high: Number) -> Tensor:
        """The Euclidean projection of x onto {||. - x0||_p <= epsilon} and the box together, exact. May overwrite x."""

    def prox(self, v: Tensor, scale: Tensor) -> Tensor:
        """argmin ||w - v||_2^2 / 2 + scale ||w||_p, scale [rows] >= 0. May overwrite v."""

    def between(self, v: Tensor, e: Tensor, s: Tensor, low: Number, high: Number) -> Tensor:
        """argmin over the box of ||d - e||_p and ||d - v||_2 together, the first counting for nothing at s = 0 and for
        everything at s = 1: a step d from v to e [rows, *input], s broadcasts over them, 0 <= s < 1.
        Brendel et al., NeurIPS 2019, arXiv:1907.01003."""

    def ball(self, x0: Tensor, stream: Stream) -> Tensor:
        """A uniform sample of the unit ball, [rows, *input]: a perturbation, not a point."""

    def sphere(self, x0: Tensor, stream: Stream) -> Tensor:
        """A random perturbation of norm exactly 1 (the start of APGD)."""

    def hyperplane(self, x: Tensor, w: Tensor, gap: Tensor, low: Number, high: Number) -> Tensor:
        """The point of the box nearest to x in this norm with <w, point - x> = gap, exact; where that hyperplane misses
        the box, the point of the box that comes nearest to it. x lies in the box; gap [rows] float64.
        Croce & Hein, ICML 2020, arXiv:1907.02044."""
