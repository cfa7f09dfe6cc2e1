"""The loss over the weights, in directions that are as large as the filters they move."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mohs.data import Examples
from mohs.errors import RequestError
from mohs.geometry import per_row
from mohs.models import Model, TorchModel
from mohs.models.batched import Batched
from mohs.report.words import number, percent, plural
from mohs.rng import Stream
from mohs.store.verdict import wilson
from mohs.study.base import Claim, Figure, Findings, Line, Lines, Map, Study, Subject, Table
from mohs.study.evidence import LEVEL, mostly

FLAT = 1e-3  # of the rise along a line: a dent that is smaller is none


class Around:
    """The weights of a model, which may be moved and come back; the caller's own stay where they are.

    Only weights of two dimensions and more move: biases and the parameters of normalisations stay, as in the paper's figures,
    and so do running statistics, which evaluation mode uses.
    """

    def __init__(self, model: Model, data: Examples, rows: int) -> None:
        if not isinstance(model, TorchModel):
            raise RequestError(f"{model.name} has no weights within reach: a landscape is that of a torch network's weights")
        if model.random:
            raise RequestError(f"{model.name} is random: its loss is another at every look, and so would be its landscape")
        module = copy.deepcopy(model.module).requires_grad_(False)
        self.weights = [weight for weight in module.parameters() if weight.ndim > 1 and weight.is_floating_point()]
        if not self.weights:
            raise RequestError(f"{model.name} has no weights of two dimensions or more: there is no landscape to draw")
        self.origin = [weight.clone() for weight in self.weights]
        self.scorer = Batched(model.twin(module), model.batch or rows, 1)
        self.x, self.y = data.x.to(model.device), data.y.to(model.device)

    def direction(self, stream: Stream) -> list[Tensor]:
        """Gaussian, each filter (the first dimension of a weight) scaled to the norm of the filter it moves."""
        return [filter_normalised(_drawn(stream, i, weight), weight) for i, weight in enumerate(self.origin)]

    def at(self, *moves: tuple[float, Sequence[Tensor]]) -> tuple[float, float]:
        """Mean cross-entropy and accuracy at the weights plus so much of each direction."""
        for i, weight in enumerate(self.weights):
            weight.copy_(sum((size * d[i] for size, d in moves), start=self.origin[i]))
        logits = self.scorer.scores(self.x).double()
        right = float((logits.argmax(1) == self.y).double().mean())
        return float(functional.cross_entropy(logits, self.y)), right


def filter_normalised(direction: Tensor, weight: Tensor) -> Tensor:
    """d_j ||w_j|| / ||d_j|| for every filter j."""
    size, own = (value.flatten(1).double().norm(dim=1) for value in (weight, direction))
    scale: Tensor = size / (own + 1e-10)
    return direction * per_row(scale.to(direction.dtype), direction)


def _drawn(stream: Stream, number: int, weight: Tensor) -> Tensor:
    drawn = stream.at("weight", number).normal(*weight.shape)[0]
    return drawn.to(weight.device, weight.dtype)


@dataclass(frozen=True)
class Measured:
    """Of one model. lines [directions][points]; grid [points][points]; sharpness of each direction; near: accuracy at the
    radius, the mean over both sides of all directions."""

    name: str
    loss: float
    right: int
    n: int
    lines: Tensor
    grid: Tensor
    sharpness: tuple[float, ...]
    near: float

    @property
    def sharp(self) -> float:
        return sum(self.sharpness) / len(self.sharpness)

    @property
    def convex(self) -> int:
        """Lines that nowhere bend down by more than rounding."""
        bend = self.lines[:, 2:] - 2 * self.lines[:, 1:-1] + self.lines[:, :-2]
        rise = self.lines.amax(1) - self.lines.amin(1)
        return int((bend.amin(1) >= -FLAT * rise).sum())

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "loss": self.loss,
            "accuracy": self.right / self.n,
            "n": self.n,
            "sharpness": self.sharp,
            "sharpness_by_direction": self.sharpness,
            "accuracy_at_radius": self.near,
            "convex_lines": self.convex,
            "lines": self.lines.tolist(),
            "grid": self.grid.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class Landscape(Study):
    """How does the loss lie around the weights?

    L(theta + a delta + b eta) on the examples, delta and eta Gaussian and filter-normalised: Li, Xu, Taylor, Studer, Goldstein,
    NeurIPS 2018, arXiv:1712.09913. Filter normalisation makes networks comparable whose weights differ in scale alone.

    span: how far, from -span to span; at 1 every filter is moved by its own length. points: an axis, odd. directions: of the
    lines; the surface is over the first two. radius: at which the sharpness is read: how much the loss rises, the mean of both
    sides of a direction. Our own reading: the paper compares widths of contours by eye.
    """

    span: float = 1.0
    points: int = 21
    directions: int = 10
    radius: float = 0.2

    several = True

    def check(self) -> None:
        if self.points < 5 or self.points % 2 == 0:
            raise RequestError(f"points should be odd, 5 or more, so that the weights stand in the middle; not {self.points}")
        if self.directions < 2:
            raise RequestError(f"a landscape needs 2 directions or more, not {self.directions}")

    def run(self, subject: Subject) -> Findings:
        around = [Around(model, subject.data, subject.rows) for model in subject.models]
        found = []
        for model, weights in zip(subject.models, around, strict=True):
            subject.say(f"the loss around {model.name}")
            found.append(self._measured(model.name, weights, subject))
        return self._findings(found)

    @torch.no_grad()
    def _measured(self, name: str, around: Around, subject: Subject) -> Measured:
        stream = Stream.of(subject.seed, torch.arange(1)).at("landscape")
        drawn = [around.direction(stream.at("direction", i)) for i in range(self.directions)]
        steps = self._steps()
        loss, right = around.at()
        sides = [[around.at((size, d)) for size in (-self.radius, self.radius)] for d in drawn]
        return Measured(
            name=name,
            loss=loss,
            right=round(right * len(subject.data)),
            n=len(subject.data),
            lines=torch.tensor([[around.at((a, d))[0] for a in steps] for d in drawn], dtype=torch.float64),
            grid=torch.tensor([[around.at((a, drawn[0]), (b, drawn[1]))[0] for a in steps] for b in steps], dtype=torch.float64),
            sharpness=tuple((below[0] + above[0]) / 2 - loss for below, above in sides),
            near=sum(side[1] for pair in sides for side in pair) / (2 * self.directions),
        )

    def _steps(self) -> list[float]:
        half = self.points // 2
        return [self.span * i / half for i in range(-half, half + 1)]

    def _findings(self, found: Sequence[Measured]) -> Findings:
        columns = ("model", "accuracy", "loss", f"sharpness at {self.radius:g}", f"accuracy at {self.radius:g}", "convex lines")
        rows = tuple(
            (m.name, percent(m.right / m.n), number(m.loss), number(m.sharp), percent(m.near), f"{m.convex} of {self.directions}")
            for m in found
        )
        return Findings(
            words=(
                f"The mean cross-entropy of the examples over the weights, from {-self.span:g} to {self.span:g} of filter-"
                f"normalised Gaussian directions: at 1 every filter is moved by its own length. Sharpness is the rise of the "
                f"loss at {self.radius:g}, the mean over {plural(self.directions, 'direction')}."
            ),
            table=Table(columns, rows),
            figures=tuple(self._figures(found)),
            claims=tuple(self._claims(found)),
            notes=(
                "Weights of one dimension (biases, batch norm) and running statistics stay where they are. Two random directions "
                "of very many show little: what a picture lacks, the network may have.",
            ),
            facts=tuple(m.facts() for m in found),
        )

    def _figures(self, found: Sequence[Measured]) -> Iterator[Figure]:
        steps = tuple(self._steps())
        low, high = min(float(m.grid.min()) for m in found), max(float(m.grid.max()) for m in found)
        for m in found:
            values = tuple(map(tuple, m.grid.tolist()))
            yield Map(
                m.name, "direction 1", "direction 2", steps, steps, values, "loss", low=low, high=high, log=True, surface=True
            )
        lines = [
            Line(m.name, steps, tuple(m.lines.mean(0).tolist()), tuple(m.lines.amin(0).tolist()), tuple(m.lines.amax(0).tolist()))
            for m in found
        ]
        title = f"Along {plural(self.directions, 'direction')}: the mean, least and greatest loss"
        yield Lines(title, "step, in units of the filters", "loss", tuple(lines), log=True)
        half = self.points // 2
        rises = [(m.name, (m.lines + m.lines.flip(1)) / 2 - m.lines[:, half : half + 1]) for m in found]
        sharp = [Line(name, steps[half:], tuple(rise.mean(0).tolist()[half:])) for name, rise in rises]
        yield Lines("Sharpness: the mean rise of the loss by the size of the step", "step", "rise of the loss", tuple(sharp))

    def _claims(self, found: Sequence[Measured]) -> Iterator[Claim]:
        for m in found:
            said, held = mostly(m.convex, self.directions)
            yield Claim(f"Around {m.name} the loss is convex along most directions", f"convex lines: {said}", held)
        by = {m.name: m for m in found}
        for name in by:
            if f"{name}-noskip" in by:
                yield Claim(f"Shortcuts make {name} flatter than {name}-noskip", *_sharper(by[f"{name}-noskip"], by[name]))
        if len(found) > 1:
            yield Claim("The sharper of two models has the greater error", *_concordant(found))


def _sharper(one: Measured, two: Measured) -> tuple[str, bool | None, float]:
    """Whether `one` is the sharper, by the test of Mann and Whitney over directions, and by how much."""
    from scipy.stats import mannwhitneyu

    finite = all(math.isfinite(value) for value in (*one.sharpness, *two.sharpness))
    p = float(mannwhitneyu(one.sharpness, two.sharpness).pvalue) if finite else 1.0
    said = f"sharpness {number(two.sharp)} and {number(one.sharp)}, Mann-Whitney p = {p:.2g} over directions"
    return said, None if p >= LEVEL else one.sharp > two.sharp, one.sharp - two.sharp


def _concordant(found: Sequence[Measured]) -> tuple[str, bool | None]:
    """Over the pairs that differ in both: sharpness by Mann and Whitney, accuracy by intervals that do not meet."""
    agree = against = 0
    for one, two in combinations(found, 2):
        sharper = _sharper(one, two)[1]
        (low1, high1), (low2, high2) = wilson(one.right, one.n), wilson(two.right, two.n)
        if sharper is not None and (high1 < low2 or high2 < low1):
            agree += sharper == (high1 < low2)
            against += sharper != (high1 < low2)
    pairs = len(found) * (len(found) - 1) // 2
    said = f"{agree} of {plural(pairs, 'pair')} agree, {against} do not, the others differ in one of the two too little to say"
    return said, None if agree == against == 0 else not against
