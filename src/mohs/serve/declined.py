"""What a server says no with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Declined(Exception):
    """A request that is not answered. status: of HTTP; reason: one word for the metrics; message: for the client;
    retry_after: seconds after which it may be, where that helps."""

    status: int
    reason: str
    message: str
    retry_after: float | None = None
