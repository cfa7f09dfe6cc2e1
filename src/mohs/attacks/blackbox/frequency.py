"""The orthonormal discrete cosine transform (DCT-II) of the last two dimensions, or of a vector's one; rows never meet."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosines(side: int, n: int, like: Tensor) -> Tensor:
    """[n, side]: the n lowest frequencies, of unit length."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(side, dtype=torch.float64)
    waves = (math.pi * k * (2 * i + 1) / (2 * side)).cos() * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return waves.to(like)


def spectrum(x: Tensor) -> Tensor:
    """The coefficients of x [rows, *input], all of them."""
    return _applied(x, [cosines(x.shape[dim], x.shape[dim], x).T for dim in _dims(x.ndim - 1)])


def image(c: Tensor, shape: torch.Size) -> Tensor:
    """[rows, n, *shape] of coefficients [rows, n, *low], of which low may be fewer than shape in the last two."""
    return _applied(c, [cosines(shape[dim], c.shape[dim], c) for dim in _dims(len(shape))])


def lowest(shape: torch.Size, part: float) -> list[int]:
    """The shape of coefficients where each of the last two dimensions keeps this part of its frequencies, two at least."""
    kept = len(_dims(len(shape)))
    return [*shape[: len(shape) - kept], *(min(side, max(2, round(side * part))) for side in shape[len(shape) - kept :])]


def _dims(ndim: int) -> tuple[int, ...]:
    return (-2, -1) if ndim > 1 else (-1,)


def _applied(c: Tensor, waves: list[Tensor]) -> Tensor:
    """sum_k c_k waves[k] along the last dimensions, row by row: a matrix product over rows would round by their number."""
    across, down = waves[-1], [w.T.contiguous() for w in waves[:-1]]
    rows = (row @ across for row in c)
    return torch.stack([down[0] @ row for row in rows] if down else list(rows))
