"""Clean and robust accuracy of a network that is being trained: a quick look, not an audit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mohs.certificates import Interval
from mohs.rng import Stream
from mohs.threat import Threat
from mohs.train.batch import Batch, crafting

STEPS, STEP_SIZE = 10, 0.25
MOST = 1024  # held-out examples attacked
AT_ONCE = 256


class Score(NamedTuple):
    """Shares of the held-out examples, 0 to 1; robust: right at the last point of PGD-10, too; clean where there is no threat.
    proved: what intervals prove, where that was asked for. flat: whether the network gives every example the same scores."""

    clean: float
    robust: float
    proved: float | None = None
    flat: bool = False


def score(
    network: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, seed: int, device: torch.device, prove: bool = False
) -> Score:
    """The same draws at every call, so that epochs compare."""
    n = min(len(x), MOST)
    scores, attacked, proved = [], [], None
    with crafting(network):
        for rows in torch.arange(n).split(AT_ONCE):
            batch = Batch(
                network=network,
                x0=x[rows].to(device),
                y=y[rows].to(device),
                rows=rows,
                stream=Stream(Stream.of(seed, rows).at("validation").keys.to(device)),
                given=threat,
            )
            scores.append(_scores(batch, batch.x0))
            if threat is not None:
                point = batch.ascend(batch.misled, batch.random_point(), steps=STEPS, step_size=STEP_SIZE)
                attacked.append(_scores(batch, batch.shown(point)))
        if threat is not None and prove:
            least = Interval()(network, x[:n].to(device), y[:n].to(device), threat=threat)
            proved = float((least > 0).all(1).double().mean())
    clean = torch.cat(scores)
    robust = torch.cat(attacked) if attacked else clean
    right, withstood = (int((logits.argmax(1) == y[:n]).sum()) / n for logits in (clean, robust))
    return Score(right, withstood, proved, flat=n > 1 and bool((clean == clean[:1]).all()))


def _scores(batch: Batch, x: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = batch.network(x)
    return scores.cpu()
