"""Labels under noise, for many examples at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mohs.certificates.radii import Smoothing
from mohs.defend.noise import NOISES
from mohs.models import Prepared
from mohs.rng import Stream

BLOCK = 32  # draws of an example that are taken together


class Sampler:
    """What the model answers under noise, in micro-batches over many examples at once.

    Every example draws from a generator at its own address, in blocks of fixed size, so that its answers are the same in any
    company. Labels are those of the judge: the guide's where its scores leave no doubt.
    """

    def __init__(self, prepared: Prepared, x: Tensor, smoothing: Smoothing, stream: Stream) -> None:
        self.guide, self.judge, self.x = prepared.guide, prepared.judge, x
        self.fill, self.sigma, self.generators = NOISES[smoothing.noise], smoothing.sigma, stream.generators()
        self.block = min(BLOCK, self.guide.rows)
        self.room = torch.empty(self.guide.rows // self.block * self.block, *x.shape[1:], device=x.device)

    def __call__(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One micro-batch of examples that want draws, `wanted` [n]: whose each draw is and its label; -1 without a number."""
        most = len(self.room) // self.block
        first = np.flatnonzero(wanted)[:most]
        each = most // len(first)  # blocks
        counts = np.minimum(wanted[first], each * self.block)
        filled = 0
        for i, count in zip(first.tolist(), counts.tolist(), strict=True):
            for part in self.room[filled : filled + count].split(self.block):
                self.fill(part, self.sigma, self.generators[i]).add_(self.x[i])
            filled += count
        return np.repeat(first, counts), self._labels(self.room[:filled])

    @torch.no_grad()
    def _labels(self, x: Tensor) -> np.ndarray:
        logits = self.guide.scores(x)
        best = logits.topk(2, dim=1).values
        close = (best[:, 0] - best[:, 1] <= self.guide.slack).nonzero()[:, 0]
        if len(close) and self.guide.slack > 0:
            logits[close] = self.judge.scores(x[close])
        labels = logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)
        return labels.cpu().numpy()
