"""How far a smoothed classifier's class holds, by noise and norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from mohs.defend.noise import NOISES
from mohs.errors import RequestError, ThreatError, UnknownName

_PHI = NormalDist()


@dataclass(frozen=True)
class _Variant:
    """A radius for noise of standard deviation 1 from p in [1/2, 1), and p back from a radius; d: dimensions of the input."""

    radius: Callable[[float, int], float]
    probability: Callable[[float, int], float]
    source: str


def _laplace(p: float, d: int) -> float:
    return -math.log(2 * (1 - p)) / math.sqrt(2)


_COHEN = "Cohen, Rosenfeld, Kolter, ICML 2019, arXiv:1902.02918"
_YANG = "Yang, Duan, Hu, Salman, Razenshteyn, Li, ICML 2020, arXiv:2002.08118"
_VARIANTS = {
    ("l2", "gaussian"): _Variant(lambda p, d: _PHI.inv_cdf(p), lambda r, d: _PHI.cdf(r), _COHEN),
    ("l1", "laplace"): _Variant(
        _laplace, lambda r, d: 1 - math.exp(-r * math.sqrt(2)) / 2, f"Teng, Lee, Yuan, 2020 (openreview:H1lQIgrFDS); {_YANG}"
    ),
    ("l1", "uniform"): _Variant(
        lambda p, d: math.sqrt(12) * (p - 0.5), lambda r, d: min(1.0, 0.5 + r / math.sqrt(12)), f"{_YANG}, table 1"
    ),
    ("l1", "gaussian"): _Variant(
        lambda p, d: _PHI.inv_cdf(p), lambda r, d: _PHI.cdf(r), f"{_COHEN}; an l1 ball lies in the l2 ball of its radius"
    ),
    ("linf", "gaussian"): _Variant(
        lambda p, d: _PHI.inv_cdf(p) / math.sqrt(d),
        lambda r, d: _PHI.cdf(r * math.sqrt(d)),
        f"{_COHEN}; an linf ball of radius r lies in the l2 ball of r sqrt(d), and nothing much better is to be had in high "
        "dimensions (Yang et al. 2020)",
    ),
}
_USUAL = {"l2": "gaussian", "l1": "laplace", "linf": "gaussian"}


@dataclass(frozen=True)
class Smoothing:
    """Noise around an input and the norm of the ball that is certified.

    sigma: the standard deviation of every coordinate, whatever the noise, in the units of the input: a Laplace scale of
    sigma / sqrt(2), uniform in +- sqrt(3) sigma. dimensions: of one input. Raises RequestError for a sigma that is none,
    ThreatError for a norm without a variant.
    """

    norm: str
    noise: str
    sigma: float
    dimensions: int

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise RequestError(
                f"smoothing with sigma {self.sigma:g} is the model itself and certifies nothing; give a sigma above 0, such as "
                "0.25 of the inputs' units: the radii grow with it, and the accuracy falls"
            )
        if self.norm not in _USUAL:
            raise ThreatError(f"smoothing has no certificate for {self.norm!r}; it has {', '.join(_USUAL)}")
        if self.noise not in NOISES:
            raise UnknownName("noise", self.noise, NOISES)
        if (self.norm, self.noise) not in _VARIANTS:
            known = [noise for norm, noise in _VARIANTS if norm == self.norm]
            raise ThreatError(f"{self.noise} noise certifies no {self.norm} radius here; {self.norm} takes {' or '.join(known)}")

    @property
    def _variant(self) -> _Variant:
        return _VARIANTS[self.norm, self.noise]

    @property
    def source(self) -> str:
        return self._variant.source

    def radius(self, p: float) -> float:
        """The radius within which a class that is answered with probability p at least is the likeliest; 0 up to 1/2."""
        return self.sigma * self._variant.radius(p, self.dimensions) if p > 0.5 else 0.0

    def probability(self, radius: float) -> float:
        """The least probability that certifies a radius."""
        return self._variant.probability(radius / self.sigma, self.dimensions)


def smoothing(norm: str, sigma: float, dimensions: int, noise: str | None = None) -> Smoothing:
    """With the noise that is usual for the norm, where none is named: gaussian for l2 and linf, laplace for l1."""
    return Smoothing(norm, noise or _USUAL.get(norm, "gaussian"), sigma, dimensions)
