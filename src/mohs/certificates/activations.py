"""Linear bounds of the activations. CROWN: Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mohs.certificates.operators import Activation, Box, Line, Relaxation, gamma

CELLS = 32  # of the grid on which a smooth activation is held against a line


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """max(x, slope x), 0 <= slope < 1; slope 0 is ReLU.

    Above, the chord; below, any line through 0 of a slope between `slope` and 1. CROWN takes the one that leaves less room.
    """

    slope: float = 0.0

    def forward(self, *x: Tensor) -> Tensor:
        return F.leaky_relu(x[0], self.slope) if self.slope else x[0].relu()

    def box(self, *inputs: Box) -> Box:
        return Box(self.forward(inputs[0].lower), self.forward(inputs[0].upper))

    def loose(self, x: Box) -> Tensor:
        return (x.lower < 0) & (x.upper > 0)

    def relax(self, x: Box) -> Relaxation:
        lower, upper = x.lower.unsqueeze(1), x.upper.unsqueeze(1)
        loose = (lower < 0) & (upper > 0)
        one = torch.ones_like(lower)
        line = torch.where(lower >= 0, one, self.slope * one)
        chord = torch.where(loose, (upper - self.slope * lower) / (upper - lower).clamp_min(torch.finfo(lower.dtype).tiny), line)
        intercept = torch.where(loose, (self.slope - chord) * lower, 0.0 * one)
        turn = torch.where(loose, (1.0 - self.slope) * one, 0.0 * one)
        flow = (line + turn + chord) * torch.maximum(-lower, upper) + intercept
        return Relaxation(Line(line, turn=turn), Line(chord, intercept), (upper >= -lower).to(lower), loose, flow)


@dataclass(frozen=True, eq=False)
class Smooth(Activation):
    """A function with a continuous derivative, whose second one is at most `curvature` in magnitude where it exists.

    A line of any slope k is moved to where it bounds: f(x) - k x lies, between two points of a grid h apart, within
    curvature h^2 / 8 of the line through them. Of the chord's slope and the tangents' at both ends and in the middle, the one
    that is tightest in the middle is CROWN's (alpha = 0), the next is what alpha = 1 turns it into.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    curvature: float
    kinks: float = 0.0  # what the function as computed may leave the smooth one by

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(x[0])

    def box(self, *inputs: Box) -> Box:
        low, high = self._between(inputs[0], torch.zeros_like(inputs[0].lower))
        return Box(low, high)

    def loose(self, x: Box) -> Tensor:
        return x.upper > x.lower

    def relax(self, x: Box) -> Relaxation:
        low, high, middle = x.lower, x.upper, x.center
        wide = high - low > 1e-3
        chord = (self.function(high) - self.function(low)) / (high - low).clamp_min(1e-3)
        slopes = [self.derivative(middle), torch.where(wide, chord, self.derivative(middle))]
        slopes += [self.derivative(low), self.derivative(high)]
        reach = [self._between(x, k) for k in slopes]
        below = _best([(k, c) for k, (c, _) in zip(slopes, reach, strict=True)], middle)
        above = _best([(-k, -c) for k, (_, c) in zip(slopes, reach, strict=True)], middle)
        lower, upper = _line(*below), Line(*(-part for part in _line(*above)))  # type: ignore[operator]
        steepest = torch.stack(slopes).abs().amax(0)
        size = 2 * steepest * x.magnitude + torch.stack([part for pair in reach for part in pair]).abs().amax(0)
        return Relaxation(lower, upper, torch.zeros_like(low).unsqueeze(1), self.loose(x).unsqueeze(1), size.unsqueeze(1))

    def _between(self, x: Box, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the most of f(x) - slope x on the box, outward."""
        step = (x.upper - x.lower) / CELLS
        least = most = self.function(x.upper) - slope * x.upper
        for i in range(CELLS):
            point = x.lower + i * step
            value = self.function(point) - slope * point
            least, most = torch.minimum(least, value), torch.maximum(most, value)
        rounding = gamma(8, step.dtype) * (slope.abs() * x.magnitude + torch.maximum(least.abs(), most.abs()) + x.magnitude)
        slack = self.curvature * step.square() / 8 * (1 + 1e-3) + rounding + self.kinks
        return least - slack, most + slack


def _best(lines: list[tuple[Tensor, Tensor]], middle: Tensor) -> list[Tensor]:
    """Slope and intercept of the line that is highest at the middle, then of the next, entry by entry."""
    slopes, intercepts = (torch.stack(part) for part in zip(*lines, strict=True))
    order = (slopes * middle + intercepts).argsort(dim=0, descending=True)[:2]
    return [part for two in (slopes.gather(0, order), intercepts.gather(0, order)) for part in two]


def _line(k: Tensor, other_k: Tensor, c: Tensor, other_c: Tensor) -> Line:
    parts = (k, c, other_k - k, other_c - c)
    return Line(*(part.unsqueeze(1) for part in parts))


def _sigmoid_slope(x: Tensor) -> Tensor:
    p = x.sigmoid()
    return p * (1 - p)


def _gelu_slope(x: Tensor) -> Tensor:
    density: Tensor = torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5
    below: Tensor = torch.special.ndtr(x)
    return below + x * density


RELU = LeakyReLU()
SIGMOID = Smooth("sigmoid", torch.sigmoid, _sigmoid_slope, 0.0963)  # 1 / (6 sqrt 3)
TANH = Smooth("tanh", torch.tanh, lambda x: 1 - x.tanh().square(), 0.7699)  # 4 / (3 sqrt 3)
SILU = Smooth("silu", F.silu, lambda x: x.sigmoid() + x * _sigmoid_slope(x), 0.5)
GELU = Smooth("gelu", F.gelu, _gelu_slope, 0.798)  # 2 / sqrt(2 pi)
ELU = Smooth("elu", F.elu, lambda x: x.clamp(max=0).exp(), 1.0)


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Smooth:
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold."""

    def function(x: Tensor) -> Tensor:
        return F.softplus(x, beta, threshold)

    gap = 2.0 * float(torch.tensor(-threshold, dtype=torch.float64).exp()) / beta
    return Smooth("softplus", function, lambda x: (beta * x).sigmoid(), beta / 4, gap)
