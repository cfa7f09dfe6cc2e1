"""How sure a count of hits makes one of a probability. Counts are int64 arrays, and so is what is asked of one at a time."""

from __future__ import annotations

import bisect
import math

import numpy as np
from scipy import special, stats


def clopper_pearson(hits: np.ndarray, n: np.ndarray | int, alpha: float) -> np.ndarray:
    """The exact one-sided lower bound of a probability at confidence 1 - alpha, from `hits` of n draws.

    It is above the probability in at most a share alpha of all cases, for every n. Clopper and Pearson, Biometrika 1934.
    """
    hits, n = np.asarray(hits), np.asarray(n)
    return np.where(hits > 0, stats.beta.ppf(alpha, np.maximum(hits, 1), n - hits + 1), 0.0)


def hits_needed(n: int, p: float, alpha: float) -> int:
    """The fewest hits of n whose lower bound is above p; n + 1 where not even n are enough."""
    return bisect.bisect_right(range(n + 1), p, key=lambda hits: float(clopper_pearson(np.array(hits), n, alpha)))


def draws_needed(p: float, alpha: float) -> int:
    """The fewest draws of which, all hits, the lower bound is above p in (0, 1): alpha ** (1 / n) > p."""
    return math.floor(math.log(alpha) / math.log(p)) + 1


def above(hits: np.ndarray, misses: np.ndarray, p: float) -> np.ndarray:
    """The logarithm of the evidence that a probability is above p, after draws in any order; valid at every time.

    The likelihood ratio of q to p, the mean over q uniform in (p, 1): under every probability of at most p it is a
    supermartingale from 1, so that by Ville's inequality it ever reaches 1 / alpha with probability alpha at most, whenever
    and however often one looks. A one-sided beta-binomial mixture: Robbins, Annals of Mathematical Statistics 1970;
    Howard, Ramdas, McAuliffe, Sekhon, Annals of Statistics 2021, arXiv:1810.08240. For smoothing, by other confidence
    sequences: Voracek, NeurIPS 2024, arXiv:2406.17830.
    """
    return _evidence(hits, misses, p, special.betaincc(hits + 1, misses + 1, p), 1 - p)


def below(hits: np.ndarray, misses: np.ndarray, p: float) -> np.ndarray:
    """The same that it is below p, q uniform in (0, p)."""
    return _evidence(hits, misses, p, special.betainc(hits + 1, misses + 1, p), p)


def _evidence(hits: np.ndarray, misses: np.ndarray, p: float, part: np.ndarray, width: float) -> np.ndarray:
    with np.errstate(divide="ignore"):  # no evidence at all: -inf
        mixture = special.betaln(hits + 1, misses + 1) + np.log(part) - math.log(width)
    return np.asarray(mixture - hits * math.log(p) - misses * math.log1p(-p))
