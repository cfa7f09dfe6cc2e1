"""Gradients from differences of scores along random directions, what NES and SPSA climb by."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mohs.geometry import per_row
from mohs.losses import Loss
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Threat

PAIRS = 32  # asked at once

Draw = Callable[..., Tensor]  # (stream, *shape) -> directions [rows, *shape], such as Stream.normal


def slope(
    oracle: Oracle, x: Tensor, x0: Tensor, threat: Threat, loss: Loss, *, draw: Draw, stream: Stream, pairs: int, size: float
) -> Tensor:
    """mean_j (L(x + size u_j) - L(x - size u_j)) / (2 size) u_j over `pairs` draws u_j.

    Points asked about may leave the ball around x0, not the box; u_j is kept as drawn. The sum runs draw by draw, so that it
    has the same bits whatever the batch.
    """
    g = torch.zeros_like(x)
    for first in range(0, pairs, PAIRS):
        n = min(PAIRS, pairs - first)
        u = threat.constraints.mutable(draw(stream.at("pairs", first), n, *x.shape[1:]))
        rows = torch.arange(len(x), device=x.device).repeat_interleave(2 * n)
        asked = torch.stack([x[:, None] + size * u, x[:, None] - size * u], 1).flatten(0, 2)
        value = oracle.scores(threat.project(asked, x0[rows], math.inf), loss, rows).loss.view(len(x), 2, n)
        for j in range(n):
            g += per_row((value[:, 0, j] - value[:, 1, j]) / (2 * size * pairs), g) * u[:, j]
    return g


def visible(size: float, threat: Threat) -> float:
    """size, or one level of the grid that inputs are rounded to, where that is larger: less is not seen."""
    bits = threat.constraints.bits
    return size if bits is None else max(size, (threat.bounds[1] - threat.bounds[0]) / (2**bits - 1))


def width(samples: int) -> int:
    """Candidates of a row in one call."""
    return min(samples, 2 * PAIRS)
