"""Threats that move what an image shows: rotation and translation of the whole, or a flow of its own at every pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mohs.errors import ThreatError
from mohs.threat.transform import TransformThreat, amount


@dataclass(frozen=True, kw_only=True)
class SpatialThreat(TransformThreat):
    """The image rotated about its middle by up to `rotation` degrees, then shifted by up to `translation` pixels each way;
    what comes in from outside is black, the lowest value of the bounds (0 where they have no end).

    A point is (angle, dx, dy) [rows, 3], degrees counter-clockwise, pixels to the right and pixels down. Sampling is
    bilinear. Engstrom, Tran, Tsipras, Schmidt, Madry, ICML 2019, arXiv:1712.02779.
    """

    rotation: float = 0.0
    translation: float = 0.0
    name = "spatial"

    def __post_init__(self) -> None:
        for budget in ("rotation", "translation"):
            amount(self, budget, getattr(self, budget))

    def __str__(self) -> str:
        turn, shift = self.rotation * self.epsilon, self.translation * self.epsilon
        parts = [f"rotation:{turn:g}deg"] if self.rotation else []
        parts += [f"translation:{shift:g}px"] if self.translation or not parts else []
        return "+".join(parts) + str(self.constraints)

    def reach(self, x0: Tensor) -> Tensor:
        return x0.new_tensor([self.rotation, self.translation, self.translation])

    def transform(self, p: Tensor, x0: Tensor) -> Tensor:
        height, width = x0.shape[2:]
        y, x = _pixels(x0)
        angle, dx, dy = p[:, :, None, None].unbind(1)
        angle = torch.deg2rad(angle)
        sine, less = angle.sin(), 2 * (angle / 2).sin().square()  # less: 1 - cosine, exact at 0
        u, v = x - (width - 1) / 2 - dx, y - (height - 1) / 2 - dy
        black = self.bounds[0] if math.isfinite(self.bounds[0]) else 0.0
        return sample(x0, y + (u * sine - v * less - dy), x + (-v * sine - u * less - dx), black)

    def fits(self, x0: Tensor) -> None:
        self.images(x0)
        side = min(x0.shape[2:])
        if self.rotation > 180 or self.translation > side:
            raise ThreatError(
                f"the threat {self} goes beyond half a turn or the side of the image, {side} pixels; "
                "an example: rotation:30deg+translation:3px"
            )

    def describe(self) -> str:
        turn, shift = self.rotation * self.epsilon, self.translation * self.epsilon
        parts = [f"rotate the image by up to {turn:g} degrees"] if self.rotation else []
        parts += [f"shift it by up to {shift:g} pixels each way"] if self.translation else []
        return " and ".join(parts or ["change nothing"])


@dataclass(frozen=True, kw_only=True)
class FlowThreat(TransformThreat):
    """Every pixel is read from a place up to epsilon away, in units of half the image's width and height.

    A point is the flow [rows, 2, height, width] in pixels, to the right and down: pixel (i, j) shows what was at
    (i + p[1], j + p[0]), bilinearly, and the edge where that lies outside. Xiao, Zhu, Li, He, Liu, Song, ICLR 2018,
    arXiv:1801.02612; the budget, in the coordinates of an image from -1 to 1, is that of Laidlaw, Singla, Feizi, ICLR
    2021, arXiv:2006.12655.
    """

    epsilon: float
    name = "flow"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ThreatError(f"the threat flow has epsilon {self.epsilon}; it must be 0 or more")

    def __str__(self) -> str:
        return f"flow:{self.epsilon:g}{self.constraints}"

    def reach(self, x0: Tensor) -> Tensor:
        height, width = x0.shape[2:]
        return x0.new_tensor([width / 2, height / 2])[:, None, None].expand(2, height, width)

    def transform(self, p: Tensor, x0: Tensor) -> Tensor:
        height, width = x0.shape[2:]
        y, x = _pixels(x0)
        return sample(x0, (y + p[:, 1]).clamp(0, height - 1), (x + p[:, 0]).clamp(0, width - 1), 0.0)

    def fits(self, x0: Tensor) -> None:
        self.images(x0)
        if 2 < self.epsilon < math.inf:
            raise ThreatError(f"the threat {self} moves pixels beyond the image, which is 2 wide; an example: flow:0.05")

    def describe(self) -> str:
        return f"bend the image: show at every pixel what was up to {self.epsilon / 2:.1%} of its side away"


def _pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column numbers, [height, 1] and [1, width]."""
    height, width = x.shape[2:]
    return torch.arange(height, device=x.device)[:, None].to(x), torch.arange(width, device=x.device)[None].to(x)


def sample(x: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    """x [n, channels, height, width] read bilinearly at (rows, columns) [n, ...], differentiable in both: [n, channels, ...].
    Whole numbers give pixels to the bit, which the sampler of torch, in coordinates from -1 to 1, does not."""
    height, width = x.shape[2:]
    top, left = rows.detach().floor(), columns.detach().floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    framed = pad(x, (1, 1, 1, 1), value=outside).flatten(2)
    line = [(top + (1 + k)).clamp(0, height + 1).long() * (width + 2) for k in (0, 1)]
    place = [(left + (1 + k)).clamp(0, width + 1).long() for k in (0, 1)]

    def at(i: int, j: int) -> Tensor:
        index = (line[i] + place[j]).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return framed.gather(2, index).view(*x.shape[:2], *rows.shape[1:])

    return torch.lerp(torch.lerp(at(0, 0), at(0, 1), right), torch.lerp(at(1, 0), at(1, 1), right), down)
