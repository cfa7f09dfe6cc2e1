"""The classes a model sees on a plane through three examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mohs.attacks import DDN
from mohs.data import Examples
from mohs.errors import Refused, RequestError
from mohs.models import Model
from mohs.models.batched import Batched
from mohs.report.words import class_name, number, plural
from mohs.rng import Stream
from mohs.study.base import Claim, Figure, Findings, Map, Mark, Study, Subject, Table
from mohs.study.evidence import greater
from mohs.threat import Knowledge

MARGIN = 0.35  # of the triangle's size, that is drawn around it


@dataclass(frozen=True)
class Plane:
    """Through examples x [3, *input]; corners [3, 2] and what lies on the plane are in orthonormal coordinates, so that lengths
    on it are those of L2."""

    x: Tensor
    basis: Tensor  # [2, *input]
    corners: Tensor

    @staticmethod
    def through(x: Tensor) -> Plane:
        """Gram and Schmidt, in float64."""
        a, b = (x[1:] - x[0]).double()
        first = a / a.norm()
        rest = b - (b * first).sum() * first
        if rest.norm() <= 1e-5 * b.norm():
            raise RequestError("three examples on one line span no plane: choose others")
        second = rest / rest.norm()
        corners = [[0.0, 0.0], [float(a.norm()), 0.0], [float((b * first).sum()), float(rest.norm())]]
        return Plane(x, torch.stack([first, second]), torch.tensor(corners, dtype=torch.float64))

    def at(self, uv: Tensor) -> Tensor:
        """Inputs [n, *input], float32, at places uv [n, 2]."""
        moved: Tensor = torch.tensordot(uv, self.basis, dims=1)
        return (self.x[0].double() + moved).float()

    def foot(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where inputs x [n, *input] fall on the plane at right angles, [n, 2], and how far they are off it, [n]."""
        away = (x.double() - self.x[0].double()).flatten(1)
        flat = self.basis.flatten(1)
        uv = away @ flat.T
        return uv, (away - uv @ flat).norm(dim=1)


@dataclass(frozen=True)
class Seen:
    """One plane by one model. labels, outside [vs, us]: the class, and whether the input leaves the box; nearest [3]: at least
    how far it is on the plane, inside the box, from each corner to another class; distance [3]: the least change an attack found;
    adversarial [3, *input] and the labels reached there."""

    labels: Tensor
    outside: Tensor
    nearest: Tensor
    distance: Tensor
    adversarial: Tensor
    reached: Tensor


@dataclass(frozen=True, kw_only=True)
class Regions(Study):
    """Which classes lie between three examples, and where are the adversarial ones?

    A plane through three examples of different classes that all models get right, coloured by the class. Lengths are L2. What
    leaves the box is pale, and does not count. An adversarial point (DDN, Rony et al., CVPR 2019, arXiv:1811.09600, the nearest
    found) lies off the plane: a cross marks its foot, and says its class and how far it is from its example.

    classes: three, by number or name, `dog,truck,airplane`; drawn without. planes: that are measured; the first is drawn. points:
    an axis of the picture. Several models: from the least robust to the most.
    """

    classes: str = ""
    planes: int = 6
    points: int = 81

    several = True

    def check(self) -> None:
        if self.points < 10:
            raise RequestError(f"points should be 10 or more, not {self.points}")

    def run(self, subject: Subject) -> Findings:
        for model in subject.models:
            if model.gives < Knowledge.GRADIENT:
                raise Refused(f"adversarial points are found by gradients, and {model.name} gives {model.gives}")
        planes = [(rows, Plane.through(subject.data.x[rows])) for rows in self._triples(subject)]
        found: list[list[Seen]] = []
        for model in subject.models:
            subject.say(f"planes through examples by {model.name}")
            found.append(self._seen(model, subject, planes))
        return self._findings(subject, planes, found)

    def _triples(self, subject: Subject) -> list[Tensor]:
        """Rows of three examples of three classes, each plane its own draw."""
        data = subject.data
        right = torch.ones(len(data), dtype=torch.bool)
        for model in subject.models:
            scores = Batched(model, model.batch or subject.rows, 1).scores(data.x.to(model.device))
            right &= scores.argmax(1).cpu() == data.y
        chosen, present = self._chosen(data), data.y[right].unique()
        if len(present) < 3 or any(c not in present for c in chosen):
            raise RequestError("the plane needs examples of three classes that every model gets right; there are too few of them")
        triples = []
        for k in range(self.planes):
            stream = Stream.of(subject.seed, torch.arange(1)).at("plane", k)
            classes = chosen or present[stream.at("classes").permutation(len(present))[0, :3]].tolist()
            rows = [(right & (data.y == c)).nonzero()[:, 0] for c in classes]
            picks = [int(stream.at("example", c).integers(len(own), 1)) for c, own in zip(classes, rows, strict=True)]
            triples.append(torch.stack([own[i] for own, i in zip(rows, picks, strict=True)]))
        return triples

    def _chosen(self, data: Examples) -> list[int]:
        if not self.classes:
            return []
        names = {name: i for i, name in enumerate(data.class_names or ())}
        found = [names.get(text, int(text) if text.isdecimal() else -1) for text in self.classes.split(",")]
        if len(set(found)) != 3 or -1 in found:
            raise RequestError(f"classes should be three different ones, by number or name; not {self.classes!r}")
        return found

    def _axes(self, plane: Plane) -> tuple[Tensor, Tensor]:
        """Cells of one size along both axes, around the triangle."""
        low, high = plane.corners.amin(0), plane.corners.amax(0)
        cell = float((high - low).max()) * (1 + 2 * MARGIN) / (self.points - 1)
        middle = (low + high) / 2
        counts = [math.ceil(float(side) * (1 + 2 * MARGIN) / cell) // 2 for side in high - low]
        u, v = (m + cell * torch.arange(-c, c + 1, dtype=torch.float64) for m, c in zip(middle, counts, strict=True))
        return u, v

    def _seen(self, model: Model, subject: Subject, planes: Sequence[tuple[Tensor, Plane]]) -> list[Seen]:
        rows = torch.cat([rows for rows, _ in planes])
        x, y = subject.data.x[rows].to(model.device), subject.data.y[rows].to(model.device)
        outcome = DDN()(model, x, y, threat="l2:inf", seed=subject.seed)
        batched = Batched(model, model.batch or subject.rows, 1)
        found = []
        for k, (own, plane) in enumerate(planes):
            part = slice(3 * k, 3 * k + 3)
            u, v = self._axes(plane)
            uv = torch.cartesian_prod(v, u).flip(1)
            labels, outside = map(
                torch.cat, zip(*(_look(batched, plane.at(some)) for some in uv.split(batched.rows)), strict=True)
            )
            away = torch.cdist(plane.corners, uv)
            other = ~outside & (labels != subject.data.y[own][:, None])
            cell = float(u[1] - u[0])
            nearest = away.masked_fill(~other, torch.inf).amin(1) - cell / math.sqrt(2)  # it may reach so far into the cell
            labels, outside = labels.view(len(v), len(u)), outside.view(len(v), len(u))
            found.append(Seen(labels, outside, nearest, outcome.distance[part], outcome.adversarial[part], outcome.label[part]))
        return found

    def _findings(self, subject: Subject, planes: Sequence[tuple[Tensor, Plane]], found: Sequence[Sequence[Seen]]) -> Findings:
        names = [model.name for model in subject.models]
        distance, nearest = ([torch.cat([getattr(s, what) for s in seen]) for seen in found] for what in ("distance", "nearest"))
        corners = torch.cat([rows for rows, _ in planes]).tolist()
        return Findings(
            words=(
                f"{plural(len(planes), 'plane')} through three examples of different classes that every model gets right; "
                "lengths are L2. On the plane: at least how far it is from an example to a point of another class; anywhere: how "
                "far to the nearest adversarial point that was found. Claims are decided by the sign test over the "
                "examples: one that stands on several planes counts once, as most of them have it."
            ),
            table=Table(
                ("model", "median, on the plane", "median, anywhere", "corners"),
                tuple(
                    (name, number(float(n.median())), number(float(d.median())), str(len(d)))
                    for name, n, d in zip(names, nearest, distance, strict=True)
                ),
            ),
            figures=tuple(self._figure(subject, name, planes[0], seen[0]) for name, seen in zip(names, found, strict=True)),
            claims=tuple(_claims(names, distance, nearest, corners)),
            notes=(
                "A plane is two of very many dimensions. Pale: inputs outside the box. A cross is the foot of an adversarial "
                "point, which lies off the plane.",
            ),
            facts=tuple(
                {
                    "model": name,
                    "on_plane": n.tolist(),
                    "anywhere": d.tolist(),
                    "ids": [subject.data.ids[r].tolist() for r, _ in planes],
                }
                for name, n, d in zip(names, nearest, distance, strict=True)
            ),
        )

    def _figure(self, subject: Subject, name: str, drawn: tuple[Tensor, Plane], seen: Seen) -> Figure:
        (rows, plane), data = drawn, subject.data
        u, v = self._axes(plane)
        feet, off = plane.foot(seen.adversarial)
        labels = [class_name(int(c), data.class_names) for c in data.y[rows]]
        corners = zip(labels, data.ids[rows].tolist(), plane.corners.tolist(), strict=True)
        marks = [Mark(f"{text}, example {i}", at[0], at[1]) for text, i, at in corners]
        for k in range(3):
            if seen.distance[k].isfinite():
                reached = class_name(int(seen.reached[k]), data.class_names)
                text = f"{labels[k]} taken for {reached}, {seen.distance[k]:.2g} away, {off[k]:.2g} off the plane"
                marks.append(Mark(text, float(feet[k, 0]), float(feet[k, 1]), cross=True))
        values, pale = (tuple(map(tuple, value.tolist())) for value in (seen.labels, seen.outside))
        classes = tuple(class_name(c, data.class_names) for c in range(subject.model.classes))
        title = f"{name}: {', '.join(labels)}"
        names = ("L2, from the first to the second", "L2")
        axes = (tuple(u.tolist()), tuple(v.tolist()))
        return Map(title, *names, *axes, values, "class", classes, tuple(marks), pale=pale)


def _look(model: Batched, x: Tensor) -> tuple[Tensor, Tensor]:
    """The class of inputs [n, *input], and whether they leave the box, by more than rounding."""
    low, high = model.model.bounds
    spare = 1e-6 * (high - low)
    outside = ((x < low - spare) | (x > high + spare)).flatten(1).any(1)
    return model.scores(x.to(model.model.device)).argmax(1).cpu(), outside


def _claims(
    names: Sequence[str], distance: Sequence[Tensor], nearest: Sequence[Tensor], corners: Sequence[int]
) -> Iterator[Claim]:
    """corners: the row of each example that a distance is of."""
    for name, d, n in zip(names, distance, nearest, strict=True):
        yield Claim(f"{name}: another class lies nearer than the plane shows", *greater(_signs(n, d, corners)))
    for k, j in pairwise(range(len(names))):
        farther = _signs(distance[j], distance[k], corners)
        yield Claim(f"Adversarial points of {names[j]} lie farther than those of {names[k]}", *greater(farther))


def _signs(one: Tensor, two: Tensor, corners: Sequence[int]) -> list[int]:
    """Of each example once: on how many more planes `one` is above `two` than below. Both may be infinite."""
    total = dict.fromkeys(corners, 0)
    for row, above, below in zip(corners, (one > two).tolist(), (one < two).tolist(), strict=True):
        total[row] += above - below
    return list(total.values())
