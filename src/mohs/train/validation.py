"""Clean and robust accuracy of a network that is being trained: a quick look, not an audit."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Shares of the held-out examples, 0 to 1; robust: right at the last point of PGD-10 under every threat; clean where there is
    none. proved: what intervals prove, where that was asked for. flat: whether the network gives every example the same
    scores, or any that are no numbers."""

    clean: float
    robust: float
    proved: float | None = None
    flat: bool = False


def score(
    network: nn.Module, x: Tensor, y: Tensor, threats: Sequence[Threat], seed: int, device: torch.device, prove: bool = False
) -> Score:
    """The same draws at every call, so that epochs compare."""
    n = min(len(x), MOST)
    clean, right, withstood, proved = [], [], [], None
    with crafting(network):
        for rows in torch.arange(n).split(AT_ONCE):
            batch = Batch(
                network=network,
                x0=x[rows].to(device),
                y=y[rows].to(device),
                rows=rows,
                stream=Stream(Stream.of(seed, rows).at("validation").keys.to(device)),
            )
            clean.append(_scores(batch, batch.x0))
            right.append(clean[-1].argmax(1) == y[rows])
            under = [_attacked(batch.against(threat)).argmax(1) == y[rows] for threat in threats]
            withstood.append(torch.stack(under or [right[-1]]).all(0))
        if threats and prove:
            least = [Interval()(network, x[:n].to(device), y[:n].to(device), threat=threat) for threat in threats]
            proved = float((torch.cat(least, 1) > 0).all(1).double().mean())
    logits = torch.cat(clean)
    flat = not bool(logits.isfinite().all()) or (n > 1 and bool((logits == logits[:1]).all()))
    return Score(_share(right), _share(withstood), proved, flat)


def _share(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).double().mean())


def _attacked(batch: Batch) -> Tensor:
    point = batch.ascend(batch.misled, batch.random_point(), steps=STEPS, step_size=STEP_SIZE)
    return _scores(batch, batch.shown(point))


def _scores(batch: Batch, x: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = batch.network(x)
    return scores.cpu()
