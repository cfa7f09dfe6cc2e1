"""Clean and robust accuracy of a network that is being trained: a quick look, not an audit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mohs.rng import Stream
from mohs.threat import Threat
from mohs.train.batch import Batch, crafting

STEPS, STEP_SIZE = 10, 0.25
MOST = 1024  # held-out examples attacked
AT_ONCE = 256


class Score(NamedTuple):
    """Shares of the held-out examples, 0 to 1; robust: right at the last point of PGD-10, too; clean where there is no threat."""

    clean: float
    robust: float


def score(network: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, seed: int, device: torch.device) -> Score:
    """The same draws at every call, so that epochs compare."""
    clean = robust = 0
    with crafting(network):
        for rows in torch.arange(min(len(x), MOST)).split(AT_ONCE):
            batch = Batch(
                network=network,
                x0=x[rows].to(device),
                y=y[rows].to(device),
                rows=rows,
                stream=Stream(Stream.of(seed, rows).at("validation").keys.to(device)),
                given=threat,
            )
            clean += _right(batch, batch.x0)
            if threat is not None:
                point = batch.ascend(batch.misled, batch.random_point(), steps=STEPS, step_size=STEP_SIZE)
                robust += _right(batch, batch.shown(point))
    n = min(len(x), MOST)
    return Score(clean / n, (robust if threat is not None else clean) / n)


def _right(batch: Batch, x: Tensor) -> int:
    with torch.no_grad():
        return int((batch.network(x).argmax(1) == batch.y).sum())
