"""Tests by which a claim holds, does not, or stays undecided. Level 5%, two-sided."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mohs.report.words import percent
from mohs.store.verdict import wilson

LEVEL = 0.05
PERMUTATIONS = 9999  # drawn, with a fixed seed, where there are more


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


def ranked(one: Sequence[float], two: Sequence[float]) -> tuple[str, bool | None]:
    """Whether one rises with the other, by Spearman's rank correlation and its permutation test, two-sided: over all pairings,
    up to 7 values, else over so many drawn at random. Ties share their mean rank."""
    from scipy.stats import permutation_test, rankdata, spearmanr

    if len(set(one)) < 2 or len(set(two)) < 2:
        return "too few to rank", None
    ranks = rankdata(two)
    found = permutation_test(
        (rankdata(one),),
        lambda moved, axis: (moved * ranks).sum(axis),  # the correlation, but for constants
        permutation_type="pairings",
        n_resamples=PERMUTATIONS,
        random_state=0,
    )
    correlation = float(spearmanr(one, two).statistic)
    said = f"rank correlation {correlation:.2f}, permutation test p = {found.pvalue:.2g}"
    return said, None if found.pvalue >= LEVEL else correlation > 0


def between(first: int, second: int, n: int, risk: float = LEVEL) -> tuple[float, float]:
    """The interval of confidence 1 - risk of the difference of two shares of the same n examples, of which `first` are of the
    first alone and `second` of the second alone: both parts by Clopper and Pearson, so that it is valid for every n."""
    from mohs.certificates.confidence import clopper_pearson

    def least(count: int) -> float:
        return float(clopper_pearson(np.array(count), n, risk / 4))

    def most(count: int) -> float:
        return 1 - least(n - count)

    return least(first) - most(second), most(first) - least(second)
