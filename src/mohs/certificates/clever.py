"""CLEVER: a robustness estimate by extreme value theory. Weng et al., ICLR 2018, arXiv:1801.10578.

An estimate and no certificate: gradients that are masked make it too large (Goodfellow 2018, arXiv:1804.07870).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from mohs.certificates.lipschitz import network_bound
from mohs.data import Examples, load_data
from mohs.errors import ModelError, RequestError, ThreatError
from mohs.models import Model, Prepared, TorchModel, as_model, load_model, prepare
from mohs.models.contract import Finding, check_contract
from mohs.models.torch_model import Outputs
from mohs.report.bounds import place, save_clever
from mohs.rng import Stream
from mohs.threat import Knowledge, Targeted, parse_goal

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}  # q of the gradient's norm
RADII = {"linf": 0.1, "l2": 5.0, "l1": 40.0}  # of the ball, where none is named
SHAPES = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # the fit's starts
FAR = 15.0  # the logarithms of shape and of the end's distance, in ranges, stay within it
LEAST_P = 0.001  # of the Kolmogorov-Smirnov test, for a fit to stand


@dataclass(frozen=True, eq=False)
class Scores:
    """Of n examples and the T classes each could be moved to; float64.

    classes [n, T]: those classes, -1 where there is none. margin [n, T]: z_y - z_class at x, 0 where x is wrong
    already. lipschitz [n, T]: the location of the reverse Weibull fit to the batch maxima, or their largest where `fitted` [n, T]
    is False: no fit could be had, or the Kolmogorov-Smirnov test rejects it. steepest [n, T]: the largest gradient norm seen.
    bound [n, T]: min(margin / lipschitz, R).
    """

    classes: np.ndarray
    margin: np.ndarray
    lipschitz: np.ndarray
    fitted: np.ndarray
    steepest: np.ndarray
    radius: float

    @property
    def bound(self) -> np.ndarray:
        return _within(self.margin, self.lipschitz, self.radius)

    @property
    def score(self) -> np.ndarray:
        """[n]: the least bound over classes; 0 of an example that is wrong already, inf where there is no class to move to."""
        return _least(self.bound, self.classes)

    @property
    def sampled(self) -> np.ndarray:
        """[n]: the same with the steepest gradient seen, which is at most the local Lipschitz constant: no smaller."""
        bound = _within(self.margin, self.steepest, self.radius)
        return _least(bound, self.classes)


def clever_points(
    prepared: Prepared,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "l2",
    goal: str = "untargeted",
    radius: float | None = None,
    batches: int = 50,
    per_batch: int = 128,
    top: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Scores:
    """CLEVER of inputs x [n, *input] with labels y [n].

    goal: untargeted, or targeted at a class by number, `least-likely`, `next`, `random`. norm: of the distance, linf, l2, l1.
    radius: R of the ball gradients are sampled in, which caps the score. batches, per_batch: N_b and N_s; 500 and 1024 in the
    paper, with R = 5. top: the likeliest classes that are tried; all without. Points leave the bounds of the input, as in the
    authors' code.
    """
    if norm not in DUAL:
        raise ThreatError(f"CLEVER has no norm {norm!r}; it has {', '.join(DUAL)}")
    r = RADII[norm] if radius is None else radius
    if not 0 < r < math.inf:
        raise RequestError(f"the radius {r:g} of the ball of samples should be above 0")
    if batches < 2 or per_batch < 1:
        raise RequestError(f"{batches} batches of {per_batch} have no distribution; give at least 2 of 1, such as 50 of 128")
    model = prepared.guide.model
    if model.gives < Knowledge.GRADIENT:
        raise ModelError(f"CLEVER is made of gradients, and {model.name} gives {model.gives}")
    x, y = x.float().to(model.device), y.to(model.device)
    stream = Stream.of(seed, torch.arange(len(x)) if ids is None else ids)
    stream = Stream(stream.keys.to(model.device)).at("clever")
    logits = prepared.judge.reference(x)
    classes = _classes(goal, logits, y, stream, top)
    right = (logits.argmax(1) == y)[:, None] & (classes >= 0)
    gap = logits.gather(1, y[:, None]) - logits.gather(1, classes.clamp_min(0))
    margin = gap.where(right, torch.zeros_like(gap)).double().cpu().numpy()
    maxima, generators = np.zeros((*classes.shape, batches)), stream.at("ball").generators()
    for i in range(len(x)):
        others = classes[i][classes[i] >= 0]
        if (margin[i] > 0).any():
            for b in range(batches):
                points = x[i] + in_ball(generators[i], norm, per_batch, x.shape[1:]) * r
                maxima[i, : len(others), b] = _steepest(prepared, points, int(y[i]), others, DUAL[norm])
        if watch:
            watch(i + 1, len(x))
    fits = [location(maxima[i, t]) for i in range(len(x)) for t in range(classes.shape[1])]
    lipschitz = np.array([place for place, _ in fits]).reshape(classes.shape)
    fitted = np.array([good for _, good in fits]).reshape(classes.shape)
    return Scores(classes.cpu().numpy(), margin, lipschitz, fitted, maxima.max(2), r)


def location(maxima: np.ndarray) -> tuple[float, bool]:
    """The right end of the distribution of batch maxima [N_b], by maximum likelihood of a reverse Weibull distribution, and
    whether the fit stands; where not, the largest of them.

    As in the authors' code: the maxima are moved by their largest and divided by their range, the likelihood is penalised by
    0.01 shape^2, Nelder-Mead starts from several shapes, and of the fits the one of the best Kolmogorov-Smirnov p-value is taken.
    """
    top, span = float(maxima.max()), float(np.ptp(maxima))
    if not span > 1e-6 * abs(top):  # a constant gradient, to rounding
        return top, False
    y = (top - maxima) / span  # in [0, 1]; the end lies at -d, d > 0

    def loss(theta: np.ndarray) -> float:
        c, d = np.exp(np.clip(theta, -FAR, FAR))
        log = np.log(y + d)
        scale = (_logmeanexp(c * log)) / c  # its maximum likelihood, given the others; in logarithms
        return float(-len(y) * (math.log(c) - c * scale - 1) - (c - 1) * log.sum() + 0.01 * c * c)

    best, p = top, 0.0
    for shape in SHAPES:
        found = optimize.minimize(
            loss, [math.log(shape), math.log(0.1)], method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-4}
        )
        c, d = np.exp(np.clip(found.x, -FAR, FAR))
        scale = math.exp(_logmeanexp(c * np.log(y + d)) / c)
        value = (
            float(stats.kstest(y, stats.weibull_min(c, -d, scale).cdf).pvalue) if math.isfinite(found.fun) and scale > 0 else 0.0
        )
        if value > p:
            best, p = top + d * span, value
    return (best, True) if p >= LEAST_P and math.isfinite(best) else (top, False)


def in_ball(generator: torch.Generator, norm: str, n: int, shape: torch.Size) -> Tensor:
    """[n, *shape]: uniform in the unit ball."""
    d = math.prod(shape)
    draw = torch.empty(n, d + (norm == "l1"), device=generator.device)
    if norm == "linf":
        points = draw.uniform_(-1, 1, generator=generator)
    elif norm == "l2":
        points = draw.normal_(generator=generator)
        points *= torch.rand(n, 1, generator=generator, device=draw.device) ** (1 / d) / points.norm(dim=1, keepdim=True)
    else:  # d + 1 exponential draws, of which the last is the distance to the sphere
        share = draw.exponential_(generator=generator)
        share /= share.sum(1, keepdim=True)
        points = share[:, :-1].mul(torch.randint(0, 2, (n, d), generator=generator, device=draw.device) * 2 - 1)
    return points.view(n, *shape)


def _classes(goal: str, logits: Tensor, y: Tensor, stream: Stream, top: int | None) -> Tensor:
    parsed = parse_goal(goal)
    count = logits.shape[1] - 1
    if parsed.cases(count + 1) == [parsed] and isinstance(parsed, Targeted) and type(parsed) is Targeted:
        parsed.check(count + 1)
        aim = parsed.aim(y, logits, stream)
        assert aim.target is not None
        return aim.target.where(parsed.applies(aim), torch.full_like(y, -1))[:, None]
    if goal != "untargeted":
        raise ThreatError(f"CLEVER is untargeted, or targeted at one class of each example, and not {goal!r}")
    if top is not None and not 1 <= top <= count:
        raise RequestError(f"{top} of {count} other classes cannot be tried; give 1 to {count}")
    return logits.scatter(1, y[:, None], -torch.inf).topk(top or count, dim=1).indices


def _steepest(prepared: Prepared, points: Tensor, y: int, others: Tensor, q: float) -> np.ndarray:
    """[T]: the largest ||grad (z_y - z_t)||_q over points [m, *input]."""
    found = torch.zeros(len(others), device=points.device)
    for part in points.split(prepared.guide.rows):
        part.requires_grad_()
        with torch.enable_grad():
            logits = prepared.guide.logits(part)
            for t, other in enumerate(others.tolist()):
                gap = (logits[:, y] - logits[:, other]).sum()
                gradient = torch.autograd.grad(gap, part, retain_graph=t < len(others) - 1)[0]
                found[t] = torch.maximum(found[t], torch.linalg.vector_norm(gradient.flatten(1), q, dim=1).max())
    return found.double().cpu().numpy()


def _within(margin: np.ndarray, lipschitz: np.ndarray, radius: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(margin > 0, np.minimum(np.where(lipschitz > 0, margin / lipschitz, np.inf), radius), 0.0)


def _least(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """[n]: over the classes there are; inf without any."""
    return np.asarray(np.where(classes >= 0, values, np.inf).min(1, initial=np.inf))


def _logmeanexp(values: np.ndarray) -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).mean()))


LOGITS = {"linf": 2.0, "l2": math.sqrt(2), "l1": 1.0}  # of a difference of two logits, for a change of 1 of all in that norm


@dataclass(frozen=True, eq=False)
class Estimates:
    """CLEVER of labelled examples beside what is known from other sides, float64 [n]: `certain`, the distance that the product
    of the layers' Lipschitz constants leaves (None where they are not to be had, `why` says so), and `attacked`, that of the
    nearest success of an attack (None without one). All are 0 of an example that is wrong already."""

    scores: Scores
    y: np.ndarray
    ids: np.ndarray
    certain: np.ndarray | None
    why: str | None
    attacked: np.ndarray | None
    about: dict[str, Any]
    seconds: float
    findings: list[Finding] = field(default_factory=list)

    @property
    def fallbacks(self) -> int:
        """Pairs of example and class without a fit that stands."""
        return int((~self.scores.fitted & (self.scores.margin > 0)).sum())

    def facts(self) -> dict[str, Any]:
        """Every number, as JSON knows them."""
        found = self.scores
        nearest = np.where(found.classes >= 0, found.bound, np.inf).argmin(1)
        rows = np.arange(len(self.y))
        columns = {
            "id": self.ids.tolist(),
            "y": self.y.tolist(),
            "clever": _finite(found.score),
            "class": found.classes[rows, nearest].tolist(),
            "fit": _fits(found, nearest),
            "sampled": _finite(found.sampled),
            "product": [None] * len(self.y) if self.certain is None else _finite(self.certain),
            "attack": [None] * len(self.y) if self.attacked is None else _finite(self.attacked),
        }
        examples = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return {
            **self.about,
            "kind": "estimate, not a certificate",
            "source": "Weng et al., ICLR 2018, arXiv:1801.10578",
            "radius": found.radius,
            "n": len(self.y),
            "wrong": int((found.margin <= 0).all(1).sum()),
            "pairs": int((found.margin > 0).sum()),
            "fallbacks": self.fallbacks,
            "no_product": self.why,
            "summary": self.summary(),
            "seconds": round(self.seconds, 3),
            "examples": examples,
        }

    def summary(self) -> dict[str, Any]:
        """Means over the examples that are right and have numbers everywhere, and how CLEVER lies to the attack."""
        score = self.scores.score
        right = (score > 0) & np.isfinite(score)
        if self.attacked is not None:
            right &= np.isfinite(self.attacked) & (self.attacked > 0)
        means = {"product": self.certain, "clever": score, "sampled": self.scores.sampled, "attack": self.attacked}
        found: dict[str, Any] = {"n": int(right.sum())}
        if not right.any():
            return found
        found |= {name: float(value[right].mean()) for name, value in means.items() if value is not None}
        if self.attacked is not None:
            ratio = score[right] / self.attacked[right]
            found |= {"clever_over_attack": float(np.median(ratio)), "clever_above_attack": int((ratio > 1).sum())}
        return found

    def save(self, folder: str | Path) -> list[Path]:
        """Write `clever.json` and `report.html` into a folder, which is made; RunError where it is not empty."""
        return save_clever(self.facts(), Path(folder))


def clever(
    model: str | Model | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    norm: str = "l2",
    goal: str = "untargeted",
    radius: float | None = None,
    batches: int = 50,
    per_batch: int = 128,
    top: int | None = None,
    attack: bool = True,
    limit: int | None = None,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    outputs: Outputs = "logits",
    device: str = "cpu",
    rows: int = 128,
    trust_pickle: bool = False,
    out: str | Path | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Estimates:
    """CLEVER of every example, and where it lies between the product of layer norms and an attack.

    model, data: as `mohs.audit` takes them; norm, goal, radius, batches, per_batch, top: as of `clever_points`. attack: look for
    the nearest success too, an upper bound of what CLEVER estimates, by FMN. out: a folder for `save`. Raises RequestError.
    """
    folder = place(out, "clever") if out is not None else None
    examples = data if isinstance(data, Examples) else load_data(data, limit=limit, seed=seed, bounds=bounds)
    x, y = examples.x, examples.y
    if isinstance(model, str):
        subject = load_model(model, x=x, bounds=bounds, outputs=outputs, device=device, trust_pickle=trust_pickle)
    else:
        subject = as_model(model, x, bounds, outputs=outputs)
    findings = check_contract(subject, x, y)
    if subject.random:
        raise ModelError(f"{subject.name} answers at random, and CLEVER is made of the gradients of one function")
    prepared = prepare(subject, x[:8], rows=rows)
    started = time.perf_counter()
    scores = clever_points(
        prepared, x, y, norm=norm, goal=goal, radius=radius, batches=batches, per_batch=per_batch, top=top, seed=seed,
        ids=examples.ids, watch=watch,
    )  # fmt: skip
    certain, why = _product(subject, x, scores, norm)
    attacked = _attacked(prepared, x, y, norm, goal, seed) if attack else None
    about = {
        "model": subject.name,
        "sha256": subject.fingerprint(),
        "data": examples.name,
        "seed": seed,
        "norm": norm,
        "goal": goal,
    }
    about |= {"batches": batches, "per_batch": per_batch, "top": top}
    ids = examples.ids.numpy()
    result = Estimates(scores, y.numpy(), ids, certain, why, attacked, about, time.perf_counter() - started, findings)
    if folder is not None:
        result.save(folder)
    return result


def _product(model: Model, x: Tensor, scores: Scores, norm: str) -> tuple[np.ndarray | None, str | None]:
    if not isinstance(model, TorchModel) or model.outputs != "logits":
        return None, "the network's logits are not to be seen inside"
    try:
        constant = network_bound(model.module, x[:1].to(model.device), norm)
    except ModelError as error:
        return None, str(error)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # torch.fx may fail in any way
        return None, f"torch.fx cannot trace the network: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return _least(scores.margin, scores.classes) / (LOGITS[norm] * constant), None


def _attacked(prepared: Prepared, x: Tensor, y: Tensor, norm: str, goal: str, seed: int) -> np.ndarray:
    from mohs.attacks import FMN
    from mohs.threat import parse_threat

    outcome = FMN()(prepared, x, y, threat=parse_threat(f"{norm}:inf"), goal=parse_goal(goal), seed=seed)
    return np.asarray(outcome.distance.double().cpu().numpy())


def _finite(values: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _fits(found: Scores, nearest: np.ndarray) -> list[str | None]:
    """How the Lipschitz constant of the nearest class was had, by example."""
    rows = np.arange(len(nearest))
    named = np.where(found.fitted[rows, nearest], "reverse Weibull", "largest sample")
    return [str(name) if margin > 0 else None for name, margin in zip(named, found.margin[rows, nearest], strict=True)]
