"""What bounds a server's work: sizes, rates, quotas."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """body: bytes of one; held: bytes of all bodies being read or answered; examples: of one request; waiting: examples
    before the model; seconds: in which a body must have come."""

    body: int = 8 * MIB
    held: int = 128 * MIB
    examples: int = 256
    waiting: int = 4096
    seconds: float = 30.0


class TokenBucket:
    """`rate` tokens a second, `burst` at most; full at first. Times are seconds of one clock."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.at = float(burst), now

    def take(self, n: int, now: float) -> float:
        """0 and n tokens gone, or the seconds until there are n and none gone; n may not exceed `burst`."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if n <= self.tokens:
            self.tokens -= n
            return 0.0
        return (n - self.tokens) / self.rate


class Quota:
    """`most` in every window of `seconds`, the first of which begins at `now`."""

    def __init__(self, most: int, seconds: float, now: float) -> None:
        self.most, self.seconds = most, seconds
        self.used, self.until = 0, now + seconds

    def take(self, n: int, now: float) -> float:
        """0 and n used, or the seconds until the next window and none used; n may not exceed `most`."""
        if now >= self.until:
            self.used, self.until = 0, now + self.seconds
        if self.used + n > self.most:
            return self.until - now
        self.used += n
        return 0.0
