"""Feature squeezing of the input."""

from __future__ import annotations

from mohs.defend.base import Defence
from mohs.defend.bit_depth import BitDepth
from mohs.defend.median import Median
from mohs.models import Model


def feature_squeezing(model: Model, *, bits: int = 4, window: int = 2) -> Defence:
    """Bit depth reduction, then median smoothing, each an own defence. Attacks pass the first as the identity and the second by
    its gradient. The authors compare the model's answers with and without, to detect; here the squeezed answer is the model's.
    Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155.

    When to use: as a yardstick for other defences of the input. To reject instead, as its authors do, `mohs detect --with
    squeezing`.
    """
    return BitDepth(Median(model, window=window), bits=bits)
