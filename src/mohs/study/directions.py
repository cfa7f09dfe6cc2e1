"""The loss around examples, in the direction an adversary takes and in one drawn at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.data import Examples
from mohs.errors import Refused, RequestError
from mohs.geometry import per_row
from mohs.losses import Loss, cross_entropy
from mohs.models import Model
from mohs.models.batched import Batched
from mohs.report.words import number, percent, plural
from mohs.rng import Stream
from mohs.study.base import Claim, Figure, Findings, Line, Lines, Map, Mark, Study, Subject, Table
from mohs.study.evidence import greater, mostly
from mohs.threat import Knowledge, NormThreat, parse_threat

DENT = 1e-6  # of the loss, relative: a rise or a fall that is smaller is rounding
WAY = 6  # steps from an example to one epsilon, whatever the picture's grid


@dataclass(frozen=True)
class Measured:
    """Of one model. ahead, aside [n, points]: the losses along the adversarial and the random direction, through the example;
    way [n, 1 + WAY]: from the example to one epsilon along the gradient; beside [n]: at one epsilon along the random direction;
    mean [points, points] by random (rows) and adversarial step; pictured: the same of single examples; flat [n]: whether there
    is no gradient; outside: the share of the inputs looked at that leave the box."""

    name: str
    ahead: Tensor
    aside: Tensor
    way: Tensor
    beside: Tensor
    mean: Tensor
    pictured: Tensor
    flat: Tensor
    outside: float

    @property
    def rises(self) -> tuple[Tensor, Tensor]:
        """[n]: how much the loss rises at one epsilon along each direction."""
        here = self.way[:, 0]
        return self.way[:, -1] - here, self.beside - here

    @property
    def steady(self) -> int:
        """Examples with a gradient along which the loss rises, and falls nowhere on the way to one epsilon."""
        up = self.rises[0] > DENT * self.way[:, 0].abs()
        even = (self.way.diff(dim=1) >= -DENT * self.way[:, :-1].abs()).all(1)
        return int((up & even & ~self.flat).sum())


@dataclass(frozen=True, kw_only=True)
class Directions(Study):
    """How does the loss rise towards an adversary, and how at random?

    loss(x + u e1 + v e2): e1 is the steepest direction of the threat's norm along the gradient at x (its sign for linf), e2 a
    random one of the same norm, at right angles to it. u and v are in units of epsilon; the square has half a side of one
    epsilon. Inputs that leave the box are looked at as they are: clipped, the plane would bend.

    threat: a norm with a budget. span: how far, in epsilons. points: an axis, odd. only: ids of examples, `3,17`, to picture;
    else the first `pictured`. loss: `logit_difference` where cross-entropy saturates. Several models: from the least robust to
    the most.
    """

    threat: str = "linf:8/255"
    span: float = 2.0
    points: int = 21
    only: str = ""
    pictured: int = 2
    loss: Loss = cross_entropy

    several = True

    def check(self) -> None:
        self._within()
        if self.points < 5 or self.points % 2 == 0 or self.span < 1:
            raise RequestError(
                f"points should be odd, 5 or more, and span a number, 1 or more; not {self.points} and {self.span:g}"
            )

    def _within(self) -> NormThreat:
        threat = parse_threat(self.threat)
        if not isinstance(threat, NormThreat) or threat.name == "l0" or not 0 < threat.epsilon < torch.inf:
            raise RequestError(f"the study needs linf, l2 or l1 with a budget, such as linf:8/255; not {self.threat!r}")
        return threat

    def run(self, subject: Subject) -> Findings:
        threat, shown = self._within(), self._shown(subject.data)
        found = []
        for model in subject.models:
            if model.gives < Knowledge.GRADIENT:
                raise Refused(f"the adversarial direction is the gradient's, and {model.name} gives {model.gives}")
            subject.say(f"the loss around the examples of {model.name}")
            found.append(self._measured(model, subject, threat, shown))
        return self._findings(subject.data, found, shown)

    def _shown(self, data: Examples) -> list[int]:
        """Rows of the examples to picture."""
        if not self.only:
            return list(range(min(self.pictured, len(data))))
        where = {int(i): row for row, i in enumerate(data.ids.tolist())}
        try:
            return [where[int(text)] for text in self.only.split(",")]
        except (ValueError, KeyError):
            raise RequestError(f"only should name ids of the examples, such as {data.ids[0]}; not {self.only!r}") from None

    def _steps(self) -> list[float]:
        half = self.points // 2
        return [self.span * i / half for i in range(-half, half + 1)]

    def _measured(self, model: Model, subject: Subject, threat: NormThreat, shown: list[int]) -> Measured:
        x, y = subject.data.x.to(model.device), subject.data.y.to(model.device)
        batched = Batched(model, model.batch or subject.rows, 1)
        g = torch.cat([self._gradient(batched, *part) for part in zip(x.split(batched.rows), y.split(batched.rows), strict=True)])
        e1 = threat.norm.steepest(g)
        e2 = _aside(threat, e1, Stream.of(subject.seed, subject.data.ids).at("directions"))
        steps, low, high = self._steps(), *model.bounds
        values = torch.empty(self.points, self.points, len(x), dtype=torch.float64)
        left = 0

        def at(u: float, v: float) -> Tensor:
            return x + threat.epsilon * (u * e1 + v * e2)

        def loss(moved: Tensor) -> Tensor:
            return self.loss(batched.scores(moved), Aim(y)).double().cpu()

        for i, v in enumerate(steps):
            for j, u in enumerate(steps):
                moved = at(u, v)
                left += int(((moved < low) | (moved > high)).flatten(1).any(1).sum())
                values[i, j] = loss(moved)
        middle = self.points // 2
        return Measured(
            name=model.name,
            ahead=values[middle].T,
            aside=values[:, middle].T,
            way=torch.stack([loss(at(k / WAY, 0.0)) for k in range(WAY + 1)], dim=1),
            beside=loss(at(0.0, 1.0)),
            mean=values.mean(2),
            pictured=values[:, :, shown].permute(2, 0, 1),
            flat=(g.flatten(1) == 0).all(1).cpu(),
            outside=left / values.numel(),
        )

    def _gradient(self, model: Batched, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self.loss(model.logits(x), Aim(y)).sum(), x)
        return g.detach()

    def _findings(self, data: Examples, found: Sequence[Measured], shown: list[int]) -> Findings:
        n, facts = len(data), [_facts(m) for m in found]
        notes = [
            f"{m.name}: {percent(m.outside)} of the inputs looked at leave the box, and stay so." for m in found if m.outside
        ]
        notes += [
            f"{m.name}: {int(m.flat.sum())} of {plural(n, 'example')} have no gradient at all, a sign of masking"
            for m in found
            if m.flat.any()
        ]
        return Findings(
            words=(
                f"The mean loss of {plural(n, 'example')} over the plane of the gradient's steepest direction and a random one "
                f"of the same norm, both in units of epsilon, within {self.threat} and beyond. A rise is steady where there is a "
                f"gradient, the loss at epsilon is above that of the example, and it falls at none of {WAY} steps on the way. "
                "Claims on rises are decided by the sign test over the examples, on steady ones by the 95% Wilson interval of "
                "their share against a half."
            ),
            table=Table(
                ("model", "loss", "rise at epsilon, adversarial", "rise at epsilon, random", "steady rises"),
                tuple(
                    (
                        str(fact["model"]),
                        number(fact["loss"]),
                        number(fact["adversarial_rise"]),
                        number(fact["random_rise"]),
                        f"{fact['steady']} of {n}",
                    )
                    for fact in facts
                ),
            ),
            figures=tuple(self._figures(data, found, shown)),
            claims=tuple(self._claims(found, n)),
            notes=tuple(notes),
            facts=tuple(facts),
        )

    def _claims(self, found: Sequence[Measured], n: int) -> Iterator[Claim]:
        for m in found:
            ahead, aside = m.rises
            yield Claim(f"{m.name}: the loss rises more along the gradient than at random", *greater((ahead - aside).tolist()))
            said, held = mostly(m.steady, n)
            yield Claim(f"{m.name}: for most examples it rises steadily up to epsilon, as an honest gradient has it", said, held)
        for one, two in pairwise(found):
            gap = one.rises[0] - two.rises[0]
            yield Claim(f"Along the gradient the loss of {one.name} rises more than that of {two.name}", *greater(gap.tolist()))

    def _figures(self, data: Examples, found: Sequence[Measured], shown: list[int]) -> Iterator[Figure]:
        steps = tuple(self._steps())
        lows, highs = [float(m.mean.min()) for m in found], [float(m.mean.max()) for m in found]
        for m in found:
            yield self._map(f"{m.name}, the mean", m.mean, min(lows), max(highs), surface=True)
        for k, row in enumerate(shown):
            for m in found:
                yield self._map(f"{m.name}, example {int(data.ids[row])}", m.pictured[k])
        lines = [
            Line(f"{m.name}, {name}", steps, tuple(losses.mean(0).tolist()))
            for m in found
            for name, losses in (("adversarial", m.ahead), ("random", m.aside))
        ]
        yield Lines("The mean loss along each direction", "step, in epsilons", "loss", tuple(lines))

    def _map(self, title: str, values: Tensor, low: float | None = None, high: float | None = None, surface: bool = False) -> Map:
        steps, rows = tuple(self._steps()), tuple(map(tuple, values.tolist()))
        mark = (Mark("the example", 0.0, 0.0),)
        ahead, aside = "adversarial direction, epsilons", "random direction, epsilons"
        return Map(title, ahead, aside, steps, steps, rows, "loss", (), mark, low, high, surface=surface, frame=1.0)


def _facts(m: Measured) -> dict[str, Any]:
    ahead, aside = m.rises
    return {
        "model": m.name,
        "loss": float(m.way[:, 0].mean()),
        "adversarial_rise": float(ahead.mean()),
        "random_rise": float(aside.mean()),
        "steady": m.steady,
        "without_gradient": int(m.flat.sum()),
        "outside_box": m.outside,
        "mean": m.mean.tolist(),
    }


def _aside(threat: NormThreat, e1: Tensor, stream: Stream) -> Tensor:
    """A random direction of the threat's norm 1, at right angles to e1."""
    e2 = threat.norm.sphere(torch.zeros_like(e1), Stream(stream.keys.to(e1.device)))
    along = (e1 * e2).flatten(1).sum(1) / e1.flatten(1).square().sum(1).clamp_min(1e-30)
    e2 = e2 - per_row(along, e1) * e1
    return e2 / per_row(threat.norm.distance(e2).to(e2.dtype).clamp_min(1e-30), e2)
