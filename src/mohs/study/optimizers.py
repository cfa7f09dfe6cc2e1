"""What the optimiser of a perturbation does to its success."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from mohs.attacks.gradient.optimizer import OPTIMIZERS, OptimizerPGD
from mohs.data import Examples
from mohs.losses import cross_entropy
from mohs.models import Prepared, prepare
from mohs.oracle import Oracle
from mohs.report.words import number, percent, plural
from mohs.study.base import Claim, Figure, Findings, Line, Lines, Study, Subject, Table
from mohs.study.evidence import LEVEL, between, greater
from mohs.threat import Threat, Untargeted, parse_threat

ADAPTIVE = ("adam", "rmsprop")
LASTING = ("sgd", "adagrad", "ftrl")
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
ALIKE = 0.1  # success rates that differ by less are alike
SIZES = {False: "raw gradients", True: "gradients of one size"}


@dataclass(frozen=True)
class Course:
    """Of one optimiser: broken [n] bool and loss [n] at the last point, after each number of steps."""

    broken: tuple[Tensor, ...]
    loss: tuple[Tensor, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(float(b.double().mean()) for b in self.broken)

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(float(loss.mean()) for loss in self.loss)


@dataclass(frozen=True, kw_only=True)
class Optimizers(Study):
    """What does the optimiser do to a perturbation?

    The perturbation starts at 0 and is moved by Adam, RMSprop, Adagrad, FTRL or SGD, with the constants of Keras, and projected
    onto the threat's set after every step: the attack `pgd-optimizer`. Once with raw gradients, as in Paul,
    Optimizer_Susceptibility notebooks, 2020, once with every example's gradient scaled to a root mean square of 1. Examples are
    those the model gets right.

    threat: a norm with a budget. steps: at most. rate: in units of epsilon.
    """

    threat: str = "linf:8/255"
    steps: int = 50
    rate: float = 0.1

    def run(self, subject: Subject) -> Findings:
        threat = parse_threat(self.threat).facing(subject.model)
        OptimizerPGD().check(threat, Untargeted(), subject.model)
        prepared = prepare(subject.model, subject.data.x, rows=subject.rows)
        data, courses = subject.common(subject.rightly([prepared])), {}
        for normalise, size in SIZES.items():
            for name in OPTIMIZERS:
                subject.say(f"{name}, {size}")
                courses[name, normalise] = self._course(name, normalise, prepared, data, threat, subject.seed)
        return self._findings(courses, len(data))

    @property
    def marks(self) -> tuple[int, ...]:
        """The numbers of steps looked at."""
        return (*(k for k in STEPS if k < self.steps), self.steps)

    def _course(self, name: str, normalise: bool, prepared: Prepared, data: Examples, threat: Threat, seed: int) -> Course:
        broken, losses = [], []
        for steps in self.marks:
            attack = OptimizerPGD(optimizer=name, normalise=normalise, rate=self.rate, steps=steps)
            parts = [
                _ran(attack, prepared, data.take(rows), threat, seed)
                for rows in torch.arange(len(data)).split(prepared.judge.rows)
            ]
            broken.append(torch.cat([part[0] for part in parts]))
            losses.append(torch.cat([part[1] for part in parts]))
        return Course(tuple(broken), tuple(losses))

    def _findings(self, courses: Mapping[tuple[str, bool], Course], n: int) -> Findings:
        def cell(course: Course) -> tuple[str, str]:
            return percent(course.rates[-1]), number(course.losses[-1])

        columns = ("optimiser", *(f"{what}, {size}" for size in SIZES.values() for what in ("broken", "loss")))
        return Findings(
            words=(
                f"{plural(n, 'example')} that the model gets right, {plural(self.steps, 'step')} at most, at a rate of "
                f"{self.rate:g} epsilon, within {self.threat}. Broken: at any step so far; the loss is that of the last point. "
                "That some break more is decided by the sign test over the examples. All break alike where the 95% interval of "
                f"the greatest difference of any two lies within {ALIKE:.0%}, and do not where it lies above: the exact paired "
                "intervals of all pairs, which hold at once (Clopper and Pearson, with Bonferroni's correction)."
            ),
            table=Table(columns, tuple((name, *cell(courses[name, False]), *cell(courses[name, True])) for name in OPTIMIZERS)),
            figures=tuple(self._figures(courses)),
            claims=_claims(courses),
            notes=("An optimiser that stands still says nothing of the model: a verdict is that of `apgd` and what follows it.",),
            facts=tuple(
                {
                    "optimizer": name,
                    "normalise": normalise,
                    "steps": self.marks,
                    "broken": course.rates,
                    "loss": course.losses,
                    "n": n,
                }
                for (name, normalise), course in courses.items()
            ),
        )

    def _figures(self, courses: Mapping[tuple[str, bool], Course]) -> Iterator[Figure]:
        marks = tuple(float(k) for k in self.marks)
        for normalise, size in SIZES.items():
            own = {name: courses[name, normalise] for name in OPTIMIZERS}
            yield Lines(f"Broken, {size}", "steps", "share", tuple(Line(name, marks, c.rates) for name, c in own.items()))
            yield Lines(f"Loss, {size}", "steps", "cross-entropy", tuple(Line(name, marks, c.losses) for name, c in own.items()))


def _ran(attack: OptimizerPGD, prepared: Prepared, data: Examples, threat: Threat, seed: int) -> tuple[Tensor, Tensor]:
    """Of each example: whether it was broken on the way, and the loss where the perturbation ended."""
    oracle = Oracle.begin(prepared, threat, Untargeted(), data.x, data.y, ids=data.ids, seed=seed, stop=False)
    part = oracle.attempt(oracle.aim, 0)
    last = attack.run(part, part.x0, threat)
    part.settle(last)
    loss = cross_entropy(prepared.judge.scores(last), part.aim).double().cpu()
    return oracle.outcome().broken, loss


def _claims(courses: Mapping[tuple[str, bool], Course]) -> tuple[Claim, ...]:
    last = {key: course.broken[-1].double() for key, course in courses.items()}

    def mean(names: tuple[str, ...], normalise: bool) -> Tensor:
        return torch.stack([last[name, normalise] for name in names]).mean(0)

    gap = mean(ADAPTIVE, False) - mean(LASTING, False)
    return (
        Claim("With raw gradients, Adam and RMSprop break more than SGD, Adagrad and FTRL", *greater(gap.tolist())),
        Claim(
            f"With gradients of one size, all break alike, within {ALIKE:.0%}",
            *_alike({name: last[name, True] for name in OPTIMIZERS}),
        ),
    )


def _alike(broken: Mapping[str, Tensor]) -> tuple[str, bool | None]:
    """By the 95% interval of the greatest difference of any two: the intervals of all pairs hold at once."""
    best, worst = (choose(broken, key=lambda name: float(broken[name].sum())) for choose in (max, min))
    pairs = list(combinations(broken.values(), 2))
    intervals = [between(int((one > two).sum()), int((two > one).sum()), len(one), LEVEL / len(pairs)) for one, two in pairs]
    least = max(0.0, *(max(low, -high) for low, high in intervals))
    most = max(max(high, -low) for low, high in intervals)
    rates = ", ".join(f"{name} {percent(float(broken[name].mean()))}" for name in (best, worst))
    said = f"{rates}; the greatest difference is {percent(least)} to {percent(most)}"
    return said, True if most <= ALIKE else False if least > ALIKE else None
