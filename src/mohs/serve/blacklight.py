"""Blacklight: queries that share most of a probabilistic fingerprint are those of one attack."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, deque
from itertools import chain

import numpy as np


class Blacklight:
    """Attacks by query send inputs that hardly differ; honest ones do not.

    An input in `bounds` is brought to 0..255, rounded to multiples of `quantisation` and flattened. Every window of
    `window` values in a row, `step` apart, is hashed with a secret salt; the `fingerprints` greatest distinct hashes are the
    fingerprint, a random choice of windows that is the same for the same windows. A query is an attack's if it shares
    more than `threshold` of them with an earlier one. Every query is kept, whoever sent it and however it was answered.
    Li, Shan, Wenger, Zhang, Zheng, Zhao, USENIX Security 2022, arXiv:2006.14042; defaults are those recalled of the
    paper for small images (for ImageNet a window of 50). Where the passage was not at hand: values are rounded
    to the nearest multiple; windows run through the array in its own order, channels first; the hash is a keyed BLAKE2b of
    64 bits in place of a salted SHA-3.

    The paper clears its memory from time to time; here the oldest query is forgotten beyond `remember`, about 10 kB each, so
    that an attack slower than `remember` other queries goes unseen. An exact repetition is taken for an attack.
    """

    def __init__(
        self,
        bounds: tuple[float, float] = (0.0, 1.0),
        *,
        quantisation: int = 50,
        window: int = 20,
        step: int = 1,
        fingerprints: int = 50,
        threshold: int = 25,
        remember: int = 20_000,
        salt: bytes | None = None,
    ) -> None:
        self.bounds, self.quantisation, self.window, self.step = bounds, quantisation, window, step
        self.fingerprints, self.threshold, self.remember = fingerprints, threshold, remember
        self.salt = secrets.token_bytes(32) if salt is None else salt
        self._number = 0
        self._kept: deque[tuple[int, list[int]]] = deque()
        self._seen_in: dict[int, list[int]] = {}  # hash -> the numbers of the queries that have it, oldest first

    def __call__(self, x: np.ndarray) -> bool:
        """Whether one input [*input] looks like an earlier one; it is remembered."""
        fingerprint = self.fingerprint(x)
        attack = self.matches(fingerprint) > self.threshold
        self._remember(fingerprint)
        return attack

    def fingerprint(self, x: np.ndarray) -> list[int]:
        """The greatest hashes of the windows, distinct, at most `fingerprints`."""
        low, high = self.bounds
        levels = np.rint((x.reshape(-1).astype(np.float64) - low) / (high - low) * 255 / self.quantisation)
        text = levels.clip(-128, 127).astype(np.int8).tobytes()
        starts = range(0, max(1, len(text) - self.window + 1), self.step)
        windows = {text[start : start + self.window] for start in starts}
        hashes = (hashlib.blake2b(window, digest_size=8, key=self.salt).digest() for window in windows)
        return sorted({int.from_bytes(digest) for digest in hashes}, reverse=True)[: self.fingerprints]

    def matches(self, fingerprint: list[int]) -> int:
        """The most hashes that one earlier query shares with these."""
        counts = Counter(chain.from_iterable(self._seen_in.get(value, ()) for value in fingerprint))
        return max(counts.values(), default=0)

    def _remember(self, fingerprint: list[int]) -> None:
        self._kept.append((self._number, fingerprint))
        for value in fingerprint:
            self._seen_in.setdefault(value, []).append(self._number)
        self._number += 1
        if len(self._kept) > self.remember:
            _, oldest = self._kept.popleft()
            for value in oldest:
                holders = self._seen_in[value]
                holders.pop(0)
                if not holders:
                    del self._seen_in[value]
