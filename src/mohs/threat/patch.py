"""The patch: a small picture of any content over the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.errors import ThreatError
from mohs.geometry import Number
from mohs.rng import Stream
from mohs.threat.spatial import sample
from mohs.threat.threat import Threat

WHERE = 5  # entries of a point before the pixels


@dataclass(frozen=True, kw_only=True)
class PatchThreat(Threat):
    """x0 with a patch over it, of any content: anywhere inside the image or at `place`, turned by up to `turn` degrees either
    way, magnified by a factor within `scale`.

    size: height and width in pixels; where None, a square of `share` of the image's area. place: row and column of its
    upper left pixel; where None, any. epsilon: its opacity, 1 (nothing is seen through it) at most, and so is a distance.
    A point is [rows, 5 + channels * height * width]: opacity; how far down and to the right it lies, each as a share of what
    there is room for; angle in degrees, counter-clockwise; factor; and the pixels, in the model's bounds. Places are whole
    pixels where the factor is 1. Pixels are read bilinearly and the rim is sharp; corners that turn out of the image are cut.
    Steps move the pixels alone, in units of the range.
    Brown, Mane, Roy, Abadi, Gilmer, NIPS workshop 2017, arXiv:1712.09665.
    """

    epsilon: float = 1.0
    size: tuple[int, int] | None = None
    share: float = 0.0
    turn: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    place: tuple[int, int] | None = None
    name = "patch"

    def __post_init__(self) -> None:
        low, high = self.scale
        if not (self.epsilon >= 0 and 0 <= self.turn <= 180 and 0 < low <= high < math.inf):
            raise ThreatError(
                f"the threat {self} should have an opacity above 0, a turn from 0 to 180 degrees and a scale of two factors "
                f"above 0, the lower first; {EXAMPLE}"
            )
        if (min(self.size) < 1) if self.size else not 0 < self.share <= 1:
            raise ThreatError(f"the threat {self} has no area: give it sides of 1 pixel or more, or a share; {EXAMPLE}")

    def __str__(self) -> str:
        parts = [f"patch:{self.size[0]}x{self.size[1]}" if self.size else f"patch:{100 * self.share:g}%"]
        parts += [f"turn:{self.turn:g}deg"] if self.turn else []
        parts += [f"scale:{self.scale[0]:g}-{self.scale[1]:g}"] if self.scale != (1.0, 1.0) else []
        parts += [f"place:{self.place[0]},{self.place[1]}"] if self.place else []
        parts += [f"opacity:{self.epsilon:g}"] if self.epsilon != 1 else []
        return "+".join(parts) + str(self.constraints)

    def sides(self, x0: Tensor) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.size:
            return self.size
        side = max(1, round(math.sqrt(self.share * math.prod(x0.shape[2:]))))
        return side, side

    def change_shape(self, x0: Tensor) -> tuple[int, ...]:
        return (x0.shape[1], *self.sides(x0))

    def point(self, where: Tensor, pixels: Tensor) -> Tensor:
        """Points of where [rows, 5] and pixels [rows, channels, height, width]."""
        return torch.cat([where, pixels.flatten(1)], 1)

    def pixels(self, p: Tensor, x0: Tensor) -> Tensor:
        """[rows, channels, height, width]."""
        return p[:, WHERE:].reshape(len(p), *self.change_shape(x0))

    def origin(self, x0: Tensor) -> Tensor:
        where = x0.new_tensor([0.0, 0.5, 0.5, 0.0, min(max(1.0, self.scale[0]), self.scale[1])]).expand(len(x0), WHERE)
        return self.point(where, x0.new_full((len(x0), *self.change_shape(x0)), sum(self.bounds) / 2))

    def apply(self, p: Tensor, x0: Tensor, draw: Stream | None = None) -> Tensor:
        if len(p) == 1:  # a lone row comes twice: torch would sum its gradient in another order than in company
            return self.apply(p.expand(2, *p.shape[1:]), x0.expand(2, *x0.shape[1:]), draw)[:1]
        (height, width), (h, w) = x0.shape[2:], self.sides(x0)
        opacity, down, right, angle, factor = p[:, :WHERE, None, None].unbind(1)
        angle = torch.deg2rad(angle)
        y = torch.arange(height, device=p.device)[:, None].to(p) - self._middle(down, factor, h, height, 0)
        x = torch.arange(width, device=p.device)[None].to(p) - self._middle(right, factor, w, width, 1)
        rows = (y * angle.cos() + x * angle.sin()) / factor + (h - 1) / 2
        columns = (x * angle.cos() - y * angle.sin()) / factor + (w - 1) / 2
        inside = (rows >= -0.5) & (rows < h - 0.5) & (columns >= -0.5) & (columns < w - 0.5)
        pasted = sample(self.pixels(p, x0), rows.detach().clamp(0, h - 1), columns.detach().clamp(0, w - 1), 0.0)
        return self.shown(torch.lerp(x0, pasted, (opacity * inside)[:, None].expand_as(x0)), x0)

    def _middle(self, share: Tensor, factor: Tensor, side: int, room: int, axis: int) -> Tensor:
        """Where the middle of the patch lies, in pixels: every whole place is as likely as the others."""
        if self.place:
            return self.place[axis] + (factor * side - 1) / 2
        free = (room - factor * side).clamp(min=0)
        return torch.minimum((share * (free + 1)).floor(), free) + (factor * side - 1) / 2

    def distance(self, p: Tensor, x0: Tensor) -> Tensor:
        return p[:, 0].double()

    def contains(self, p: Tensor, x0: Tensor) -> Tensor:
        return super().contains(p, x0) & (self.project(p.clone(), x0, 1.0) == p).all(1)

    def project(self, p: Tensor, x0: Tensor, epsilon: Number | None = None) -> Tensor:
        most = torch.as_tensor(self.epsilon if epsilon is None else epsilon, device=p.device).to(p).clamp(max=1.0)
        low = p.new_tensor([0.0, 0.0, 0.0, -self.turn, self.scale[0]])
        high = torch.cat([most.expand(len(p))[:, None], p.new_tensor([1.0, 1.0, self.turn, self.scale[1]]).expand(len(p), 4)], 1)
        where = torch.minimum(torch.maximum(p[:, :WHERE], low), high)
        return torch.cat([where, p[:, WHERE:].clamp(*self.bounds)], 1)

    def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Number, epsilon: Number | None = None) -> Tensor:
        """Every pixel by `size` of the range along the sign of its slope, as opaque as may be."""
        far = torch.as_tensor(size, device=p.device).to(p).expand(len(p))[:, None] * (self.bounds[1] - self.bounds[0])
        moved = p[:, WHERE:] + g[:, WHERE:].sign() * far
        return self.project(torch.cat([torch.ones_like(p[:, :1]), p[:, 1:WHERE], moved], 1), x0, epsilon)

    def random_point(self, x0: Tensor, stream: Stream, epsilon: Number | None = None) -> Tensor:
        """Pixels and places uniform, as opaque as may be."""
        low, high = self.bounds
        pixels = stream.at("pixels").uniform(*self.change_shape(x0)).mul_(high - low).add_(low)
        return self.project(self.point(self.anywhere(stream), pixels.to(x0)), x0, epsilon)

    def anywhere(self, stream: Stream) -> Tensor:
        """Random placements [rows, 5], opaque: uniform in place, angle and factor, as the paper draws them."""
        down, right, angle, factor = stream.at("where").uniform(4).unbind(1)
        low, high = self.scale
        return torch.stack([torch.ones_like(down), down, right, self.turn * (2 * angle - 1), low + (high - low) * factor], 1)

    def shared(self, change: Tensor, x0: Tensor, stream: Stream) -> Tensor:
        """The pixels change [1, channels, height, width] at a random place in each row."""
        return self.project(self.point(self.anywhere(stream).to(x0), change.expand(len(x0), *change.shape[1:])), x0)

    def check(self, x0: Tensor) -> None:
        self.constraints.check(x0, self.bounds)
        if x0.ndim != 4:
            raise ThreatError(
                f"the threat {self} lies over images [channels, height, width], and the inputs have shape {list(x0.shape[1:])}"
            )
        if not all(map(math.isfinite, self.bounds)):
            raise ThreatError(f"the threat {self} may show anything within the model's bounds, and they are {list(self.bounds)}")
        top, left = self.place or (0, 0)
        (height, width), (h, w) = x0.shape[2:], self.sides(x0)
        if min(top, left) < 0 or top + self.scale[1] * h > height or left + self.scale[1] * w > width:
            raise ThreatError(
                f"the threat {self} does not fit: a patch of {h} x {w} pixels, magnified {self.scale[1]:g} times and placed at "
                f"row {top}, column {left}, is not inside an image of {height} x {width}; {EXAMPLE}"
            )

    def describe(self) -> str:
        what = f"{self.size[0]} x {self.size[1]} pixels" if self.size else f"{self.share:.1%} of the image"
        where = f"from row {self.place[0]}, column {self.place[1]} on" if self.place else "anywhere in the image"
        said = f"put a patch of {what}, of any content, {where}"
        said += f", turned by up to {self.turn:g} degrees" if self.turn else ""
        said += f", magnified {self.scale[0]:g} to {self.scale[1]:g} times" if self.scale != (1.0, 1.0) else ""
        return said + (f", {self.epsilon:.0%} opaque" if self.epsilon < 1 else "")


EXAMPLE = "examples: patch:5x5, patch:10%, patch:5x5+turn:22.5deg+scale:0.5-1, patch:5x5+place:0,3"
