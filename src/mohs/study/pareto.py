"""Robustness against accuracy, over a set of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mohs.attacks import CW
from mohs.attacks.base import Attack
from mohs.certificates.clever import clever_points
from mohs.data import Examples
from mohs.errors import RequestError, UnknownName
from mohs.losses import Loss, cross_entropy
from mohs.models import Prepared, prepare
from mohs.oracle import Oracle
from mohs.report.words import number, percent, plural
from mohs.study.base import Claim, Figure, Findings, Line, Lines, Study, Subject, Table
from mohs.threat import NormThreat, Threat

POINTS = 60  # of a drawn fit
MISSED = 0.2  # of a model's examples without a distance: more, and the mean of the others, which are the nearest, says nothing


@dataclass(frozen=True, kw_only=True)
class LeastIFGSM(Attack):
    """I-FGSM (Kurakin et al., ICLR workshop 2017, arXiv:1607.02533) in balls whose radius is searched for: doubled until a
    success, then halfway between what failed and what did not, `attempts` in all, an example its own."""

    epsilon: float = 0.02
    attempts: int = 9
    steps: int = 50
    step_size: float = 0.1  # in units of the radius
    loss: Loss = cross_entropy

    paper = "Su et al., ECCV 2018, arXiv:1808.01688"
    sets = ("linf",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        return self.attempts * self.steps, self.attempts * self.steps

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        x, epsilon = x0, torch.full((len(x0),), self.epsilon, dtype=torch.float64, device=x0.device)
        failed, reached = torch.zeros_like(epsilon), torch.full_like(epsilon, torch.inf)
        for _ in range(self.attempts):
            x, radius = threat.origin(x0), epsilon.float()
            for _ in oracle.steps(self.steps):
                x = threat.step(x, oracle.gradient(x, self.loss).gradient, x0, self.step_size, radius)
            oracle.scores(x)
            reached = oracle.best.distance
            failed = torch.where(reached <= epsilon * (1 + 1e-6), failed, epsilon)
            epsilon = torch.where(reached.isfinite(), (failed + reached) / 2, 2 * epsilon)
        return x


@dataclass(frozen=True)
class Metric:
    """How robust a model is at an example: the larger, the more. measure: (prepared model, examples, study, seed) -> [n] float64,
    inf where nothing was found."""

    title: str
    measure: Callable[[Prepared, Examples, Pareto, int], Tensor]


def _linf(prepared: Prepared, data: Examples, study: Pareto, seed: int) -> Tensor:
    return LeastIFGSM(steps=study.ifgsm_steps)(prepared, data.x, data.y, threat="linf:inf", seed=seed).distance


def _l2(prepared: Prepared, data: Examples, study: Pareto, seed: int) -> Tensor:
    attack = CW(steps=study.cw_steps, search_steps=study.cw_search, learning_rate=study.cw_rate, initial_const=0.1)
    return attack(prepared, data.x, data.y, threat="l2:inf", seed=seed).distance


def _clever(prepared: Prepared, data: Examples, study: Pareto, seed: int) -> Tensor:
    found = clever_points(
        prepared, data.x, data.y, norm="l2", batches=study.clever_batches, per_batch=study.clever_samples,
        top=min(study.clever_classes, prepared.judge.model.classes - 1), seed=seed, ids=data.ids,
    )  # fmt: skip
    return torch.from_numpy(found.score)


METRICS = {
    "linf": Metric("Linf distance, I-FGSM", _linf),
    "l2": Metric("L2 distance, C&W", _l2),
    "clever": Metric("L2 estimate, CLEVER", _clever),
}


@dataclass(frozen=True)
class Fit:
    """y = a ln(1 - accuracy) + b by least squares; a's 95% interval by Student's t, infinite for two models or fewer."""

    a: float
    b: float
    low: float
    high: float
    r2: float

    @staticmethod
    def of(error: Sequence[float], y: Sequence[float]) -> Fit:
        from scipy.stats import linregress, t

        line = linregress([math.log(e) for e in error], y)
        half = float(t.ppf(0.975, len(y) - 2) * line.stderr) if len(y) > 2 else math.inf
        return Fit(float(line.slope), float(line.intercept), line.slope - half, line.slope + half, float(line.rvalue**2))

    def at(self, accuracy: float) -> float:
        return self.a * math.log(1 - accuracy) + self.b

    def __str__(self) -> str:
        return f"{self.a:.3g} ln(1 - accuracy) {'-' if self.b < 0 else '+'} {abs(self.b):.3g}, R² {self.r2:.2f}"


@dataclass(frozen=True)
class Measured:
    """Of one model. distances: by metric, of the examples attacked."""

    name: str
    wrong: int
    n: int
    distances: Mapping[str, Tensor]

    @property
    def accuracy(self) -> float:
        return 1 - self.wrong / self.n

    @property
    def error(self) -> float:
        """Of a model without a mistake, that of half a one: a logarithm has no value at 0."""
        return max(self.wrong, 0.5) / self.n

    def mean(self, metric: str) -> float:
        """Over the examples where there is a distance, as in the paper."""
        known = self.distances[metric][self.distances[metric].isfinite()]
        return float(known.mean()) if len(known) else math.nan

    def facts(self) -> dict[str, Any]:
        means = {metric: self.mean(metric) for metric in self.distances}
        lists = {f"{metric}_distances": values.tolist() for metric, values in self.distances.items()}
        return {"model": self.name, "accuracy": self.accuracy, "n": self.n, **means, **lists}


@dataclass(frozen=True, kw_only=True)
class Pareto(Study):
    """Is robustness the price of accuracy?

    The mean least distance to an adversarial example against accuracy, a dot a model, with a fit of a ln(1 - accuracy) + b: Su,
    Zhang, Chen, Yi, Chen, Gao, ECCV 2018, arXiv:1808.01688, whose fits are over 18 networks of ImageNet and not comparable in
    size. Adversarial training leaves that curve: fit networks trained alike.

    metrics: `linf` by I-FGSM with a search for the budget, `l2` by Carlini & Wagner, `clever`, the estimate of the L2 distance by
    Weng et al., ICLR 2018, arXiv:1801.10578. attacked: examples, the first that every model gets right. ifgsm_steps: of each of
    nine budgets. cw_steps, cw_search, cw_rate: of C&W, values of its constant, and of its Adam, which at 0.01 needs thousands of
    steps where distances are large. clever_batches, clever_samples: of gradients, an
    example and class; clever_classes: the likeliest others, which are looked at (500, 1,024 and all in the paper).
    """

    metrics: tuple[str, ...] = ("linf", "l2", "clever")
    attacked: int = 50
    ifgsm_steps: int = 50
    cw_steps: int = 200
    cw_search: int = 6
    cw_rate: float = 0.01
    clever_batches: int = 10
    clever_samples: int = 64
    clever_classes: int = 3

    several = True

    def check(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise UnknownName("metric", name, METRICS)
        if self.clever_batches < 2:
            raise RequestError(f"clever_batches should be 2 or more, not {self.clever_batches}")

    def run(self, subject: Subject) -> Findings:
        if len(subject.models) < 3:
            raise RequestError(
                f"a front needs 3 models or more, and {plural(len(subject.models), 'model')} came: give them one by one"
            )
        ready = [prepare(model, subject.data.x, rows=subject.rows) for model in subject.models]
        right = subject.rightly(ready)
        data, found = subject.common(right, self.attacked), []
        for model, prepared, answers in zip(subject.models, ready, right, strict=True):
            subject.say(f"distances of {model.name}")
            distances = {name: METRICS[name].measure(prepared, data, self, subject.seed) for name in self.metrics}
            found.append(Measured(model.name, int((~answers).sum()), len(answers), distances))
        return _findings(found, self.metrics, len(data))


def _findings(found: Sequence[Measured], metrics: Sequence[str], attacked: int) -> Findings:
    fits = {metric: _fit(found, metric) for metric in metrics}
    front = {metric: _front(found, metric) for metric in metrics}
    notes = [
        f"{m.name}, {METRICS[metric].title}: nothing was found for {missed} of {attacked}, which the mean leaves out"
        for m in found
        for metric in metrics
        if (missed := int((~m.distances[metric].isfinite()).sum()))
    ]
    columns = ("model", "accuracy", *(METRICS[metric].title for metric in metrics), "on the front")
    return Findings(
        words=(
            f"The mean least distance at which each of {plural(len(found), 'model')} is broken, over "
            f"{plural(attacked, 'example')} that all get right, against accuracy. Distances of attacks are upper bounds, "
            "CLEVER is an estimate."
        ),
        table=Table(
            columns,
            tuple(
                (
                    m.name,
                    percent(m.accuracy),
                    *(number(m.mean(metric)) for metric in metrics),
                    ", ".join(metric for metric in metrics if m.name in front[metric]) or "no",
                )
                for m in found
            ),
        ),
        figures=tuple(_figures(found, fits)),
        claims=tuple(_claims(found, fits)),
        notes=tuple(notes),
        facts=(
            *(m.facts() for m in found),
            *({"fit": metric, **vars(fit)} for metric, fit in fits.items() if fit is not None),
        ),
    )


def _fit(found: Sequence[Measured], metric: str) -> Fit | None:
    """None where the models have one accuracy, or fewer than three a distance."""
    known = [m for m in found if math.isfinite(m.mean(metric))]
    if len(known) < 3 or len({m.error for m in known}) < 2:
        return None
    return Fit.of([m.error for m in known], [m.mean(metric) for m in known])


def _front(found: Sequence[Measured], metric: str) -> set[str]:
    """Models that no other beats in one of accuracy and robustness without losing in the other."""

    def beats(one: Measured, two: Measured) -> bool:
        here, there = (one.accuracy, one.mean(metric)), (two.accuracy, two.mean(metric))
        return here != there and here[0] >= there[0] and here[1] >= there[1]

    return {m.name for m in found if not any(beats(other, m) for other in found)}


def _claims(found: Sequence[Measured], fits: Mapping[str, Fit | None]) -> Iterator[Claim]:
    for metric, fit in fits.items():
        claim = f"{METRICS[metric].title}: the more accurate, the less robust (a > 0)"
        short = [m.name for m in found if float((~m.distances[metric].isfinite()).double().mean()) > MISSED]
        if short:
            yield Claim(claim, f"no distance for more than {MISSED:.0%} of the examples of {', '.join(short)}", None)
            continue
        if fit is None:
            yield Claim(claim, "the accuracies are one, or too few: no fit", None)
            continue
        said = f"{fit}; a's 95% interval {fit.low:.3g} to {fit.high:.3g}"
        yield Claim(claim, said, True if fit.low > 0 else False if fit.high < 0 else None)


def _figures(found: Sequence[Measured], fits: Mapping[str, Fit | None]) -> Iterator[Figure]:
    for metric, fit in fits.items():
        dots = Line(
            "models",
            tuple(1 - m.error for m in found),
            tuple(m.mean(metric) for m in found),
            dots=True,
            texts=tuple(m.name for m in found),
        )
        lines = [dots]
        if fit is not None:
            low, high = math.log(min(m.error for m in found)), math.log(max(m.error for m in found))
            drawn = [1 - math.exp(low + (high - low) * i / (POINTS - 1)) for i in range(POINTS)]
            lines.append(Line(str(fit), tuple(drawn), tuple(fit.at(accuracy) for accuracy in drawn)))
        yield Lines(METRICS[metric].title, "accuracy", "mean distance", tuple(lines))
