"""A model behind an HTTP endpoint."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mohs.errors import RequestError
from mohs.models.base import Model
from mohs.models.http.client import Client, Query
from mohs.models.http.endpoint import Endpoint
from mohs.models.http.wire import encode
from mohs.rng import Stream
from mohs.store.answers import Answers
from mohs.threat import Knowledge


class HttpModel(Model):
    """An endpoint's scores, or its labels as one-hot rows; nothing else of its answer is passed on.

    What is sent is what is judged: equal bytes are asked about once, and an endpoint whose answers differ is asked once a draw.
    A row without an answer is NaN, and `lapse` says why. bounds: of the inputs [rows, *input], which the description's range is
    mapped from. rate: queries a second. total, spend: the most that is sent over the wire, in queries and in money, retries
    included. answers: the file of a run that goes on. Raises RequestError, Missing, and RunFailed where the endpoint is gone.
    """

    remote = True

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        rate: float | None = None,
        total: int | None = None,
        spend: float | None = None,
        answers: Path | None = None,
    ) -> None:
        self.endpoint, self.name, self.bounds = endpoint, endpoint.url, bounds
        self.classes, self.gives, self.bits = len(endpoint.names), endpoint.gives, endpoint.bits
        self.outputs = "labels" if self.gives == Knowledge.LABEL else "logits"  # what `logits` returns
        if spend is not None and not endpoint.price:
            raise RequestError(
                f"--spend {spend:g} needs what a query costs: say price = 0.001 in the description, or leave it out"
            )
        afforded = None if spend is None else math.floor(spend / endpoint.price * (1 + 1e-12))
        limit = min((most for most in (total, afforded) if most is not None), default=None)
        self.client = Client(endpoint, Answers(answers, limit), rate)
        self._lapses: dict[bytes, str] = {}
        self._draws: list[int] | None = None

    def logits(self, x: Tensor) -> Tensor:
        """[rows, classes] float32 of x [rows, *input]; NaN where there was no answer."""
        return self.draw(x, self._numbers(len(x)))

    def draw(self, x: Tensor, numbers: Sequence[int]) -> Tensor:
        """`logits` of the draws of these numbers, one a row."""
        parts = [self._part(row) for row in x]
        replies = self.client.ask([Query(_key(part, number), part) for part, number in zip(parts, numbers, strict=True)])
        for part, reply in zip(parts, replies, strict=True):
            if reply.scores is None:
                self._lapses[_key(part, 0)] = reply.reason
        nothing = np.full(self.classes, np.nan)
        rows = [nothing if reply.scores is None else reply.scores for reply in replies]
        return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(len(x), self.classes))

    def drawn(self, stream: Stream) -> HttpModel:
        if not self.random:
            return self
        twin = copy.copy(self)
        twin._draws = stream.keys.tolist()
        return twin

    def lapse(self, x: Tensor) -> list[str]:
        return [f"undecided: {self._lapses.get(_key(self._part(row), 0), 'the endpoint did not answer')}" for row in x]

    def fingerprint(self) -> str:
        """sha256 of the description."""
        return hashlib.sha256(self.endpoint.model_dump_json(by_alias=True).encode()).hexdigest()

    def keep(self, path: Path) -> None:
        """Write the answers to a file from here on."""
        self.client.answers.move(path)

    def _numbers(self, n: int) -> list[int]:
        """The address of each row's draw: the same number is the same answer, today and after a stop."""
        if not self.random:
            return [0] * n
        return self._draws[:n] if self._draws is not None else torch.randint(1, 2**62, (n,)).tolist()

    def _part(self, row: Tensor) -> bytes:
        low, high = self.bounds
        u = row.detach().cpu().float()
        return encode(self.endpoint, (u if self.bounds == (0.0, 1.0) else (u - low) / (high - low)).numpy())


def _key(part: bytes, number: int) -> bytes:
    return hashlib.sha256(part + b"#%d" % number).digest()
