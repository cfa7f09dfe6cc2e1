"""Tests by which a claim holds, does not, or stays undecided. Level 5%, two-sided."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mohs.report.words import percent
from mohs.store.verdict import wilson

LEVEL = 0.05


def sign_test(up: int, down: int) -> float:
    """The exact two-sided p of so many of each sign; ties are left out before."""
    n, k = up + down, min(up, down)
    return min(1.0, float(2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n))


def greater(differences: Sequence[float]) -> tuple[str, bool | None]:
    """Whether paired differences are above 0 more often than below, by the sign test; in words, and the verdict."""
    up, down = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = sign_test(up, down)
    said = f"above in {up} of {len(differences)}, below in {down}; sign test p = {p:.2g}"
    return said, None if p >= LEVEL else up > down


def mostly(count: int, n: int) -> tuple[str, bool | None]:
    """Whether more than half do, by the 95% Wilson interval."""
    low, high = wilson(count, n)
    said = f"{count} of {n}, {percent(low)} to {percent(high)}"
    return said, True if low > 0.5 else False if high < 0.5 else None
