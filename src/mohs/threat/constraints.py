"""What a threat may not touch: immutable entries, per-feature limits and bounds, the grid of the input format.

Mask, limit and bounds are a box around each example, which every projection honours together with the ball.
Quantising is not a projection of the point: an attack moves a continuous point and the model is shown the rounded
input, with the identity as its derivative (Bengio et al., 2013, arXiv:1308.3432).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.errors import ThreatError
from mohs.geometry import Number


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Tensors have the shape of one input, or broadcast to it.

    mask: bool, True where an entry may change. limit: the most an entry may change, >= 0. low, high: bounds of an
    entry, inside the model's. bits: inputs are k / (2**bits - 1) of the model's range, as in an image file.
    """

    mask: Tensor | None = None
    limit: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    bits: int | None = None

    def __str__(self) -> str:
        parts = [f"quantise:{self.bits}bit"] if self.bits is not None else []
        parts += [name for name in ("mask", "limit") if getattr(self, name) is not None]
        parts += ["bounds"] if self.low is not None or self.high is not None else []
        return "".join(f"+{part}" for part in parts)

    def words(self) -> str:
        """The constraints in plain words, with a leading comma."""
        said = []
        if self.mask is not None:
            said.append(f"only in {int(self.mask.sum())} of {self.mask.numel()} entries")
        if self.limit is not None:
            said.append("no entry beyond its own limit")
        if self.low is not None or self.high is not None:
            said.append("within the bounds given for each entry")
        if self.bits is not None:
            said.append(f"in steps of a {self.bits}-bit file")
        return "".join(f", {part}" for part in said)

    def digest(self) -> str | None:
        """sha256 of the arrays, None without any."""
        arrays = {name: value for name in ("mask", "limit", "low", "high") if (value := getattr(self, name)) is not None}
        if not arrays:
            return None
        sha = hashlib.sha256()
        for name, value in arrays.items():
            sha.update(name.encode() + str(tuple(value.shape)).encode() + value.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def box(self, x0: Tensor, bounds: tuple[float, float]) -> tuple[Number, Number]:
        """The lowest and highest point of each entry; plain numbers where nothing constrains it further."""
        low: Number = bounds[0] if self.low is None else self.low.to(x0)
        high: Number = bounds[1] if self.high is None else self.high.to(x0)
        if self.limit is not None:
            reach = self.limit.to(x0)
            low, high = _most(x0 - reach, low), _least(x0 + reach, high)
        if self.low is not None or self.high is not None:  # an example outside such bounds is left where it is
            low, high = _least(x0, low), _most(x0, high)
        if self.mask is not None:
            fixed = ~self.mask.to(x0.device)
            low = torch.where(fixed, x0, torch.as_tensor(low).to(x0))
            high = torch.where(fixed, x0, torch.as_tensor(high).to(x0))
        return low, high

    def mutable(self, g: Tensor) -> Tensor:
        """The gradient with nothing where nothing may change."""
        return g if self.mask is None else g * self.mask.to(g)

    def check(self, x0: Tensor, bounds: tuple[float, float]) -> None:
        """Raise ThreatError where a constraint does not fit the examples x0 [rows, *input]."""
        for name in ("mask", "limit", "low", "high"):
            value = getattr(self, name)
            if value is not None:
                try:
                    torch.broadcast_to(value, x0.shape[1:])
                except RuntimeError:
                    raise ThreatError(
                        f"the constraint {name} has shape {list(value.shape)}, which does not broadcast to an input "
                        f"of shape {list(x0.shape[1:])}"
                    ) from None
        if self.mask is not None and not self.mask.any():
            raise ThreatError("the constraint mask lets no entry change: there is nothing to attack")
        if self.limit is not None and bool((self.limit < 0).any()):
            raise ThreatError("the constraint limit holds a negative number; it is the most an entry may change")
        if self.bits is not None and float((self.snap(x0, bounds) - x0).abs().max()) > 1e-6 * (bounds[1] - bounds[0]):
            raise ThreatError(
                f"quantise:{self.bits}bit asks for inputs on the grid of {2**self.bits} values, and the examples are not "
                "on it; quantise the data first, so that clean accuracy is that of what the model will be sent"
            )

    def snap(self, x: Tensor, bounds: tuple[float, float]) -> Tensor:
        """x moved to the nearest point of the grid (x itself without `bits`)."""
        if self.bits is None:
            return x
        low, side, levels = bounds[0], bounds[1] - bounds[0], 2**self.bits - 1
        grid: Tensor = low + torch.round((x - low) / side * levels) * side / levels  # k / 255 to the bit, as files are read
        return grid

    def toward(self, x: Tensor, x0: Tensor, bounds: tuple[float, float]) -> Tensor:
        """x moved to the grid, each entry rounded toward x0: never farther from x0 than x in any norm."""
        assert self.bits is not None
        unit = (bounds[1] - bounds[0]) / (2**self.bits - 1)
        return self.snap(x0 + torch.trunc((x - x0) / unit * (1 + 1e-6)) * unit, bounds)


def _most(a: Number, b: Number) -> Number:
    return torch.maximum(torch.as_tensor(a), torch.as_tensor(b).to(torch.as_tensor(a)))


def _least(a: Number, b: Number) -> Number:
    return torch.minimum(torch.as_tensor(a), torch.as_tensor(b).to(torch.as_tensor(a)))
