"""Query blinding: noise by which queries of one attack no longer look alike to whoever watches a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.geometry import per_row
from mohs.rng import Stream
from mohs.threat import NormThreat

TRIES = 4  # times a query is sent at most until it is answered
GROWTH = 1.15  # of the noise, from one refusal of a row to the next
MOST = 8
COPIES = 6  # of an example, sent under each noise that is tried out
SIZES = (0.01, 0.02, 0.04, 0.06, 0.08, 0.11, 0.15, 0.2, 0.3)  # of the range
SHARES = (1.0, 0.25, 0.06)


@dataclass(frozen=True)
class Blinding:
    """What is sent of a candidate: a random `share` of its entries moved by `size`, up or down, in units of the input, and the
    whole brought back into the threat's set; what is sent is judged and counted. A refused query is sent anew under fresh noise,
    TRIES times in all, and with each of the first MOST refusals of an example its noise grows by GROWTH.

    Query blinding is Chen, Carlini, Wagner, SPAI 2020, arXiv:1907.05587; that the noise is the smallest which passes, found by
    trial, and that refusals are answered by drawing anew, is the idea of Feng et al., CCS 2023, arXiv:2303.06280. This is not
    their OARS, which changes each attack's own steps: here no attack knows of it.
    """

    size: float
    share: float = 1.0

    def __call__(self, p: Tensor, x0: Tensor, threat: NormThreat, stream: Stream, refused: Tensor) -> Tensor:
        """Points [n, *input] near p [n, *input], in the set around x0. refused [n]: queries of their rows that were refused."""
        noise = self.noise(stream, p.shape[1:]) * per_row(GROWTH ** refused.clamp(max=MOST), p)
        return threat.project(p + threat.constraints.mutable(noise), x0)

    def noise(self, stream: Stream, shape: torch.Size) -> Tensor:
        """[rows, *shape]."""
        stream = stream.at("blinding")
        chosen = stream.at("where").uniform(*shape) < self.share
        return stream.signs(*shape).mul_(self.size).mul_(chosen)


class Trial(NamedTuple):
    """Of COPIES of one example under a noise: how many were refused, and how many of those answered kept its label."""

    blinding: Blinding
    refused: int
    kept: int


def trials(answer: Callable[[Tensor], Tensor], x: Tensor, bounds: tuple[float, float]) -> Iterator[Trial]:
    """Noise by noise, the shortest in L2 first, the next example of x [n, *input] each, until none is refused. answer: logits
    [n, classes] of inputs, NaN where refused."""
    low, high = bounds
    tried = [Blinding(size * (high - low), share) for size, share in product(SIZES, SHARES)]
    for k, blinding in enumerate(sorted(tried, key=lambda b: b.size**2 * b.share)):
        copies = x[k % len(x)].expand(COPIES, *x.shape[1:])
        noise = blinding.noise(Stream.of(k, torch.arange(COPIES)), x.shape[1:])
        z = torch.cat([answer(row) for row in (copies + noise).clamp(low, high).split(1)])  # as a guard sees them
        silent = z.isnan().any(1)
        clean = answer(x[k % len(x)][None]).argmax(1)
        found = Trial(blinding, int(silent.sum()), int((z[~silent].argmax(1) == clean).sum()))
        yield found
        if found.refused == 0:
            return
