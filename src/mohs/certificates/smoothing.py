"""Randomised smoothing: certificates by voting under noise. Cohen, Rosenfeld, Kolter, ICML 2019, arXiv:1902.02918.

What is certified is not the model f but the smoothed g(x) = argmax_c P[f(x + noise) = c], which is deployed as
`mohs.defend.SmoothedModel`. A certificate holds with probability 1 - alpha, for each example by itself. Noise is not clipped to
the bounds. Rounding of x + noise to float32 is left out of account, as everywhere in practice (Jin, Ohrimenko, Rubinstein 2022,
arXiv:2205.10159).
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mohs.certificates import confidence
from mohs.certificates.radii import Smoothing, smoothing
from mohs.certificates.sampling import Sampler
from mohs.data import Examples, load_data
from mohs.defend import Transformed
from mohs.errors import ModelError, RequestError
from mohs.models import Model, Prepared, TorchModel, as_model, load_model, prepare
from mohs.models.checks import training
from mohs.models.contract import Finding, check_contract
from mohs.models.load import load_module
from mohs.models.torch_model import Outputs
from mohs.report.bounds import place, save_smoothing
from mohs.report.tables import finite
from mohs.rng import Stream
from mohs.store.verdict import Score

Watch = Callable[[int, int], None]  # examples done, of how many
MOST = 10**18  # draws: more than any probability that is not refused and any alpha want


@dataclass(frozen=True)
class Certificates:
    """Of n examples, int64 or float64 arrays [n].

    predicted: the class most often seen in the selection, -1 where no draw gave one. hits, samples: draws of the estimation and
    those of the class among them; none of an example whose class is not its label. radius: certified around x, 0 without.
    open: whether the budget ended before it was clear if a radius asked for holds. selection: draws that chose the class.
    """

    predicted: np.ndarray
    hits: np.ndarray
    samples: np.ndarray
    radius: np.ndarray
    open: np.ndarray
    selection: int


@dataclass(frozen=True)
class Fixed:
    """CERTIFY of the paper: n draws and the Clopper-Pearson bound; given up as soon as no more hits could lift it above 1/2,
    which is the answer of all n draws."""

    smoothing: Smoothing
    n: int = 100_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        _check(self.smoothing, self.n, self.alpha, 0.5, lambda: confidence.draws_needed(0.5, self.alpha), "to certify anything")

    @cached_property
    def needed(self) -> int:
        """The fewest hits of n that certify anything."""
        return confidence.hits_needed(self.n, 0.5, self.alpha)

    def undecided(self, hits: np.ndarray, seen: np.ndarray) -> np.ndarray:
        return np.asarray((seen < self.n) & (hits + self.n - seen >= self.needed))

    def radius(self, hits: np.ndarray, seen: np.ndarray) -> np.ndarray:
        lower = np.where(seen == self.n, confidence.clopper_pearson(hits, np.maximum(seen, 1), self.alpha), 0.0)
        return np.array([self.smoothing.radius(p) for p in lower.tolist()])


@dataclass(frozen=True)
class AtRadius:
    """Whether one radius holds, in as few draws as it takes: until the evidence for or against `p > probability(r)` is
    1 / alpha, or n draws are made. Against a false certificate that is alpha however often one looks (`confidence.above`);
    giving up wrongly, at most another alpha, costs a certificate and proves nothing false."""

    smoothing: Smoothing
    r: float
    n: int = 100_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.r < math.inf:
            raise RequestError(f"a radius of {self.r:g} should be above 0")
        _check(self.smoothing, self.n, self.alpha, self.p, self._least, f"to certify a radius of {self.r:g}")

    @property
    def p(self) -> float:
        return self.smoothing.probability(self.r)

    def undecided(self, hits: np.ndarray, seen: np.ndarray) -> np.ndarray:
        against = confidence.below(hits, seen - hits, self.p)
        return np.asarray((seen < self.n) & (self._evidence(hits, seen) < self._wanted) & (against < self._wanted))

    def radius(self, hits: np.ndarray, seen: np.ndarray) -> np.ndarray:
        return np.where(self._evidence(hits, seen) >= self._wanted, self.r, 0.0)

    @property
    def _wanted(self) -> float:
        return -math.log(self.alpha)

    def _evidence(self, hits: np.ndarray, seen: np.ndarray) -> np.ndarray:
        return confidence.above(hits, seen - hits, self.p)

    def _least(self) -> int:
        """The fewest draws that are evidence enough, all hits: each adds to it."""
        return bisect.bisect_left(range(MOST), self._wanted, key=lambda n: float(self._evidence(np.array(n), np.array(n))))


def _check(smoothing: Smoothing, n: int, alpha: float, p: float, least: Callable[[], int], purpose: str) -> None:
    if not 0 < alpha < 0.5:
        raise RequestError(f"alpha, the probability of a false certificate, should lie between 0 and 1/2, and is {alpha:g}")
    if p >= 1 - 1e-12:
        raise RequestError(
            f"no number of samples certifies so large a radius under {smoothing.noise} noise of sigma {smoothing.sigma:g}: give "
            "a larger sigma, or a smaller radius"
        )
    if n < (needed := least()):
        raise RequestError(
            f"{n} samples are too few {purpose} at a confidence of {1 - alpha:g}, even if all of them agree: give at least "
            f"{needed:,}, or a larger sigma"
        )


def select(sampler: Sampler, classes: int, n0: int) -> np.ndarray:
    """The class most often seen in n0 draws of each example, [n]; -1 where none had one."""
    wanted = np.full(len(sampler.x), n0)
    counts = np.zeros((len(sampler.x), classes + 1), np.int64)  # the last: no number
    while wanted.any():
        rows, labels = sampler(wanted)
        np.add.at(counts, (rows, labels), 1)
        wanted -= np.bincount(rows, minlength=len(wanted))
    return np.where(counts[:, :-1].any(1), counts[:, :-1].argmax(1), -1)


def certify_points(
    prepared: Prepared,
    x: Tensor,
    y: Tensor | None,
    rule: Fixed | AtRadius,
    *,
    n0: int = 100,
    seed: int = 0,
    ids: Tensor | None = None,
    watch: Watch | None = None,
) -> Certificates:
    """CERTIFY around inputs x [n, *input]: a class from n0 draws, then its probability from others, of which the rule says how
    many. Where y [n] is given, an example whose class is another is not estimated: it is wrong at every radius.
    """
    if n0 < 1:
        raise RequestError(f"{n0} samples select no class; give --selection 1 or more, such as 100")
    x = x.float().to(prepared.judge.model.device)
    stream = Stream.of(seed, torch.arange(len(x)) if ids is None else ids)
    if x.device.type != "cpu":
        stream = Stream(stream.keys.to(x.device))
    predicted = select(_sampler(prepared, x, rule, stream.at("selection")), prepared.judge.model.classes, n0)
    sampler = _sampler(prepared, x, rule, stream.at("estimation"))
    hits, seen = np.zeros(len(x), np.int64), np.zeros(len(x), np.int64)
    going = predicted >= 0 if y is None else (predicted >= 0) & (predicted == y.cpu().numpy())
    while going.any():
        rows, labels = sampler(np.where(going, rule.n - seen, 0))
        first = np.searchsorted(rows, rows)  # in ascending order
        block = (np.arange(len(rows)) - first) // sampler.block
        for k in range(int(block.max()) + 1):  # looked at after every block, however many came at once
            now = (block == k) & going[rows]
            part = rows[now]
            np.add.at(hits, part, labels[now] == predicted[part])
            np.add.at(seen, part, 1)
            touched = np.unique(part)
            going[touched] = rule.undecided(hits[touched], seen[touched])
        if watch:
            watch(int((~going).sum()), len(x))
    radius = rule.radius(hits, seen)
    spent = (seen >= rule.n) & (radius == 0) & isinstance(rule, AtRadius)
    return Certificates(predicted, hits, seen, radius, spent, n0)


def _sampler(prepared: Prepared, x: Tensor, rule: Fixed | AtRadius, stream: Stream) -> Sampler:
    return Sampler(prepared, x, rule.smoothing, stream)


@dataclass(frozen=True, eq=False)
class Smoothed:
    """What the smoothed classifier is worth on labelled examples: certificates, labels [n], ids [n] and how they were had."""

    certificates: Certificates
    y: np.ndarray
    ids: np.ndarray
    rule: Fixed | AtRadius
    radii: tuple[float, ...]
    about: dict[str, Any]
    seconds: float
    findings: list[Finding] = field(default_factory=list)

    def accuracy(self, radius: float = 0.0) -> Score:
        """Certified accuracy: the share of examples whose class is right and holds within the radius, abstentions counted as
        wrong; undecided are those whose samples ended too early to say so of a radius asked for."""
        found = self.certificates
        return Score(int(((found.radius > 0) & (found.radius >= radius)).sum()), int(found.open.sum()), len(self.y))

    @property
    def clean(self) -> Score:
        """Of the classes selected."""
        return Score(len(self.y) - self.wrong, 0, len(self.y))

    @property
    def wrong(self) -> int:
        return int((self.certificates.predicted != self.y).sum())

    @property
    def abstained(self) -> int:
        """Right by the selection, and not certified at any radius (or at the one asked for), with nothing left open."""
        found = self.certificates
        return int(((found.predicted == self.y) & (found.radius == 0) & ~found.open).sum())

    def facts(self) -> dict[str, Any]:
        """Every number, as JSON knows them."""
        found, smoothing = self.certificates, self.rule.smoothing
        accuracy = [{"radius": r, **_numbers(self.accuracy(r))} for r in self.radii]
        return {
            **self.about,
            "norm": smoothing.norm,
            "noise": smoothing.noise,
            "sigma": smoothing.sigma,
            "source": smoothing.source,
            "samples": self.rule.n,
            "selection": found.selection,
            "alpha": self.rule.alpha,
            "bound": "confidence sequence (beta-binomial mixture)" if self.at_radius else "Clopper-Pearson",
            "at_radius": self.at_radius,
            "n": len(self.y),
            "certified_accuracy": accuracy,
            "wrong": self.wrong,
            "abstained": self.abstained,
            "open": int(found.open.sum()),
            "samples_mean": float(found.samples.mean()) + found.selection,
            "samples_total": int(found.samples.sum()) + found.selection * len(self.y),
            "seconds": round(self.seconds, 3),
            "examples": [
                dict(zip(("id", "y", "predicted", "hits", "samples", "radius"), row, strict=True))
                for row in zip(
                    self.ids.tolist(),
                    self.y.tolist(),
                    found.predicted.tolist(),
                    found.hits.tolist(),
                    found.samples.tolist(),
                    found.radius.tolist(),
                    strict=True,
                )
            ],
        }

    @property
    def at_radius(self) -> float | None:
        return self.rule.r if isinstance(self.rule, AtRadius) else None

    def save(self, folder: str | Path) -> list[Path]:
        """Write `smoothing.json` and `report.html` into a folder, which is made; RunError where it is not empty."""
        return save_smoothing(self.facts(), Path(folder))


def certify(
    model: str | Model | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    sigma: float,
    norm: str = "l2",
    noise: str | None = None,
    samples: int = 100_000,
    selection: int = 100,
    alpha: float = 0.001,
    at_radius: float | None = None,
    radii: Sequence[float] = (),
    denoiser: str | nn.Module | None = None,
    limit: int | None = None,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    outputs: Outputs = "logits",
    device: str = "cpu",
    rows: int = 128,
    trust_pickle: bool = False,
    out: str | Path | None = None,
    watch: Watch | None = None,
) -> Smoothed:
    """Certify a model smoothed by noise on labelled examples.

    model, data: as `mohs.audit` takes them. sigma: standard deviation of the noise, in the units of the input. norm: `l2`, `l1`
    or `linf`; noise: `gaussian`, `laplace` or `uniform`, what is usual for the norm without one. samples, selection: n and n0 of
    the paper. alpha: the probability of a false certificate, of each example. at_radius: ask of this radius alone, in as few
    samples as it takes. radii: where certified accuracy is told; evenly spaced without any. denoiser: a module, or where to load
    one from, put before the model: trained on noisy inputs, it makes of a model that was not one that stands the noise (Salman,
    Sun, Yang, Kapoor, Kolter, NeurIPS 2020, arXiv:2003.01908). out: a folder for `save`. Raises RequestError.
    """
    folder = place(out, "smoothing") if out is not None else None
    examples = data if isinstance(data, Examples) else load_data(data, limit=limit, seed=seed, bounds=bounds)
    kind = smoothing(norm, sigma, examples.x[0].numel(), noise)
    rule = Fixed(kind, samples, alpha) if at_radius is None else AtRadius(kind, at_radius, samples, alpha)
    for radius in radii:
        if at_radius is None and radius > 0:
            p = kind.probability(radius)
            _check(kind, samples, alpha, p, partial(confidence.draws_needed, p, alpha), f"to certify a radius of {radius:g}")
    if isinstance(model, str):
        x = examples.x
        subject = load_model(model, x=x, bounds=bounds, outputs=outputs, device=device, trust_pickle=trust_pickle)
    else:
        subject = as_model(model, examples.x, bounds, outputs=outputs)
    if denoiser is not None:
        subject = denoised(subject, denoiser, examples.x, trust_pickle)
    findings = check_contract(subject, examples.x, examples.y)
    if subject.random:
        raise ModelError(
            f"{subject.name} answers at random, and smoothing brings the noise itself: give the model without its noise"
        )
    prepared = prepare(subject, examples.x[:8], rows=rows)
    started = time.perf_counter()
    found = certify_points(prepared, examples.x, examples.y, rule, n0=selection, seed=seed, ids=examples.ids, watch=watch)
    about = {"model": subject.name, "sha256": subject.fingerprint(), "data": examples.name, "seed": seed, "rows": rows}
    result = Smoothed(
        found,
        examples.y.numpy(),
        examples.ids.numpy(),
        rule,
        tuple(radii) or _grid(rule),
        about,
        time.perf_counter() - started,
        findings,
    )
    if folder is not None:
        result.save(folder)
    return result


def denoised(model: Model, denoiser: str | nn.Module, x: Tensor, trust_pickle: bool = False) -> Model:
    """The model behind a denoiser [n, *input] -> [n, *input]: a module, `package.module:factory`, a .pt2 or TorchScript file."""
    name = denoiser if isinstance(denoiser, str) else type(denoiser).__name__
    module = load_module(denoiser, model.device, trust_pickle) if isinstance(denoiser, str) else denoiser
    with torch.no_grad():
        try:
            shape = module(x[:2].float().to(model.device)).shape
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"the denoiser {name} does not take inputs {list(x.shape[1:])}: {reason}") from error
    if shape != x[:2].shape:
        raise ModelError(f"a denoiser gives back the shape it takes, {list(x.shape[1:])}; {name} gives {list(shape[1:])}")
    for finding in training(module):
        raise ModelError(f"the denoiser: {finding.message}")
    if not isinstance(model, TorchModel):
        return Transformed(model, module, differentiable=True, name=f"denoiser {name}")
    twin = model.twin(nn.Sequential(module, model.module).eval())
    twin.name = f"{model.name} behind {name}"
    return twin


def _grid(rule: Fixed | AtRadius) -> tuple[float, ...]:
    """0 and round numbers up to the largest radius that can be certified; of one radius, that one."""
    if isinstance(rule, AtRadius):
        return (rule.r,)
    most = rule.smoothing.radius(rule.alpha ** (1 / rule.n))
    scale = 10 ** math.floor(math.log10(most / 8))
    step = next(k * scale for k in (1, 2, 2.5, 5, 10) if k * scale >= most / 8)
    return tuple(float(f"{k * step:.6g}") for k in range(int(most / step) + 1))


def _numbers(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {"low": finite(score.low), "high": finite(score.high), "interval95": [low, high], "n": score.n}
