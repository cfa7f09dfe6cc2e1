"""Threats that change the colours of an image: one smooth map of all colours, or hue, saturation, brightness, contrast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from mohs.errors import ThreatError
from mohs.geometry.solve import total
from mohs.threat.transform import TransformThreat, amount

Triple = tuple[float, float, float]

XYZ: tuple[Triple, Triple, Triple] = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
RGB: tuple[Triple, Triple, Triple] = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))
WHITE = (0.1978, 0.4683)  # u', v' of the white point
DARK = 1e-3  # L* below which chromaticity is not resolved: a 255th of grey is 0.27


@dataclass(frozen=True, kw_only=True)
class RecolorThreat(TransformThreat):
    """Every colour c becomes c + g(c), whichever pixel has it; g is trilinear between the points of a grid over CIELUV, where
    no channel of it exceeds epsilon. L* runs from 0 to 100 and u*, v* from -100 to 100, each a unit of epsilon.

    A point is g [rows, 3, *grid] as a grid over (L*, u*, v*). Inputs are sRGB images. What falls outside the bounds is
    clipped; the authors clip the grid to what a screen shows too.
    Laidlaw & Feizi, NeurIPS 2019, arXiv:1906.00001.
    """

    epsilon: float
    grid: tuple[int, int, int] = (16, 32, 32)
    name = "recolor"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ThreatError(f"the threat recolor has epsilon {self.epsilon}; it must be 0 or more")

    def __str__(self) -> str:
        return f"recolor:{self.epsilon:g}{self.constraints}"

    def reach(self, x0: Tensor) -> Tensor:
        return x0.new_ones(3, *self.grid)

    def transform(self, p: Tensor, x0: Tensor) -> Tensor:
        low, side = self.bounds[0], self.bounds[1] - self.bounds[0]
        luv = cieluv((x0 - low) / side)
        return x0 + side * (srgb(luv + interpolate(p, luv)) - srgb(luv))

    def fits(self, x0: Tensor) -> None:
        self.images(x0, 3)
        if not all(map(math.isfinite, self.bounds)):
            raise ThreatError(f"the threat {self} takes black and white from the model's bounds, and they are {self.bounds}")

    def describe(self) -> str:
        return f"recolour the image, every colour alike wherever it stands, by up to {self.epsilon:.1%} of a channel of CIELUV"


def interpolate(grid: Tensor, colour: Tensor) -> Tensor:
    """The trilinear interpolation of grid [n, 3, *sizes] at colours [n, 3, height, width] of the unit cube, held to its sides
    outside it."""
    place = colour.mul(2).sub(1).clamp(-1, 1).flip(1).permute(0, 2, 3, 1)[:, None]  # the last coordinate comes first
    return grid_sample(grid, place, mode="bilinear", padding_mode="border", align_corners=True)[:, :, 0]


def cieluv(rgb: Tensor) -> Tensor:
    """sRGB [n, 3, ...] in [0, 1] as (L* / 100, (u* + 100) / 200, (v* + 100) / 200)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    x, y, z = _mix(XYZ, linear)
    light = torch.where(y <= (6 / 29) ** 3, (29 / 3) ** 3 * y, 116 * y.clamp(min=(6 / 29) ** 3) ** (1 / 3) - 16)
    whole = (x + 15 * y + 3 * z).clamp(min=1e-10)
    u, v = 13 * light * (4 * x / whole - WHITE[0]), 13 * light * (9 * y / whole - WHITE[1])
    return torch.stack([light / 100, (u + 100) / 200, (v + 100) / 200], 1)


def srgb(luv: Tensor) -> Tensor:
    """The inverse of `cieluv`, beyond [0, 1] for colours that no screen shows. Chromaticities are held within those of
    light, since near black, where they are quotients of small numbers, slopes would have no bound."""
    light = 100 * luv[:, 0]
    scale = 13 * light.clamp(min=DARK)
    u = ((200 * luv[:, 1] - 100) / scale + WHITE[0]).clamp(0, 1)
    v = ((200 * luv[:, 2] - 100) / scale + WHITE[1]).clamp(0.01, 1)
    y = torch.where(light <= 8, light * (3 / 29) ** 3, ((light.clamp(min=8) + 16) / 116) ** 3)
    x, z = y * (9 * u / (4 * v)), y * ((12 - 3 * u - 20 * v) / (4 * v))
    linear = torch.stack(_mix(RGB, torch.stack([x, y, z], 1)), 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def _mix(matrix: tuple[Triple, Triple, Triple], colour: Tensor) -> list[Tensor]:
    a, b, c = colour.unbind(1)
    return [i * a + j * b + k * c for i, j, k in matrix]


GREY = (0.299, 0.587, 0.114)
IN_PHASE, QUADRATURE = (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)  # the two chroma axes of YIQ
FROM_CHROMA = ((0.956, 0.621), (-0.272, -0.647), (-1.106, 1.703))


@dataclass(frozen=True, kw_only=True)
class SemanticThreat(TransformThreat):
    """Hue, saturation, contrast and brightness, changed in this order.

    A point is (hue, saturation, brightness, contrast) [rows, 4]: a turn of the chroma plane of YIQ, in whole turns; by how
    much of itself the distance of a colour from its grey grows; what is added everywhere, as a share of the range; by how
    much of itself the distance of every value from the image's mean grey grows. Hue and saturation after Hosseini &
    Poovendran, CVPR workshops 2018, arXiv:1804.00499, who turn the hue of HSV, which has no derivative at greys; the
    four together after Hsiung, Tsai, Chen, Ho, CVPR 2023, arXiv:2202.04235.
    """

    hue: float = 0.0
    saturation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    name = "semantic"

    BUDGETS = ("hue", "saturation", "brightness", "contrast")

    def __post_init__(self) -> None:
        for budget in self.BUDGETS:
            amount(self, budget, getattr(self, budget))

    def __str__(self) -> str:
        parts = [f"{name}:{value * self.epsilon:g}" for name in self.BUDGETS if (value := getattr(self, name))]
        return "+".join(parts or ["hue:0"]) + str(self.constraints)

    def reach(self, x0: Tensor) -> Tensor:
        return x0.new_tensor([self.hue, self.saturation, self.brightness, self.contrast])

    def transform(self, p: Tensor, x0: Tensor) -> Tensor:
        hue, saturation, brightness, contrast = p[:, :, None, None, None].unbind(1)
        coloured = x0.shape[1] == 3
        grey = _weigh(GREY, x0) if coloured else x0
        middle = (total(grey) / grey[0].numel()).to(x0.dtype)[:, None, None, None]
        x = x0
        if coloured:
            x = x + _turn(x0, 2 * math.pi * hue)
            x = x + saturation * (x - grey)
        x = x + contrast * (x - middle)
        side = self.bounds[1] - self.bounds[0]
        return x + brightness * (side if math.isfinite(side) else 1.0)

    def fits(self, x0: Tensor) -> None:
        self.images(x0, 3 if self.hue or self.saturation else None)
        if self.hue > 0.5 or self.brightness > 1:
            raise ThreatError(
                f"the threat {self} goes beyond half a turn of hue or the whole range of brightness; "
                "an example: hue:0.1+saturation:0.2+brightness:0.1+contrast:0.2"
            )

    def describe(self) -> str:
        budget = {name: getattr(self, name) * self.epsilon for name in self.BUDGETS if getattr(self, name)}
        said = {
            "hue": "turn the hue of the image by up to {:.1%} of the colour circle",
            "saturation": "change its saturation by up to {:.1%}",
            "brightness": "change its brightness by up to {:.1%} of the range",
            "contrast": "change its contrast by up to {:.1%}",
        }
        parts = [said[name].format(value) for name, value in budget.items()] or ["change nothing"]
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _weigh(weights: Triple, x: Tensor) -> Tensor:
    """[n, 1, height, width]."""
    return weights[0] * x[:, :1] + weights[1] * x[:, 1:2] + weights[2] * x[:, 2:]


def _turn(x: Tensor, angle: Tensor) -> Tensor:
    """What is added to x as its chroma turns: nothing, to the bit, at angle 0."""
    sine, less = angle.sin(), 2 * (angle / 2).sin().square()  # less: 1 - cosine
    i, q = _weigh(IN_PHASE, x), _weigh(QUADRATURE, x)
    di, dq = -q * sine - i * less, i * sine - q * less
    return torch.cat([a * di + b * dq for a, b in FROM_CHROMA], 1)
