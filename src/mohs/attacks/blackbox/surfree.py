"""SurFree: along circles through a known success, without an estimate of the normal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs import geometry
from mohs.attacks.base import Attack
from mohs.attacks.blackbox.frequency import image, spectrum
from mohs.attacks.blackbox.labels import Labels
from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class SurFree(Attack):
    """In the plane of u, the way from x0 to the success x, and of a random v orthogonal to it, the points
    x0 + ||x - x0|| cos a (cos a u + sin a v) lie on a circle on which a flat boundary's nearest point is met.

    A direction is tried at the angles a = 1, -1, ..., 1/T, -1/T times the largest; the first that reaches the goal is led on
    by bisection to the boundary, and x goes there. After the largest angle, further steps of a T-th of it come first. The
    largest is `angle` degrees at the beginning, divided by rho after a success and multiplied by it after a failure. v is of
    cosines in the lowest `part` of the frequencies, with coefficients of -1, 0 or 1 times the tanh of those of x0, made
    orthogonal to the last `orthogonal` directions (half as many as there are entries at most) and to u. A bisection ends
    after `bisections` steps, or once the cosines of its ends differ by `tolerance`. The transform is of the whole image; the
    authors' code also has one of 8 x 8 blocks, and looks at the opposite angle within the bisection.
    Maho, Furon, Le Merrer, CVPR 2021, arXiv:2011.12807.

    When to use: when a row may ask a few hundred labels only, on images: it comes near before an estimate of a normal has
    begun to pay. Go on with `hop-skip-jump` or `qeba`, which start from the success it found.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(8)
    >>> outcome = attacks.SurFree(queries=300)(model, x, y, threat="l2:inf+knowledge:label")
    >>> int(outcome.broken.sum()), int(outcome.backwards.sum())
    (8, 0)
    """

    queries: int = 5000
    T: int = 3
    angle: float = 30.0
    rho: float = 0.98
    orthogonal: int = 100
    part: float = 0.5
    bisections: int = 10
    tolerance: float = 0.01
    starts: int = 100

    paper = "Maho, Furon & Le Merrer, CVPR 2021, arXiv:2011.12807"
    knowledge = Knowledge.LABEL
    sets = ("l2",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        labels = Labels.of(oracle, self.queries)
        x = labels.start(self.starts, self.bisections)
        most = torch.full((len(x0),), math.radians(self.angle), device=x0.device)
        shaped = spectrum(x0).tanh() * self._kept(x0)
        known = x0.new_zeros(len(x0), max(1, min(self.orthogonal, x0[0].numel() // 2)), *x0.shape[1:])
        s = State(*oracle.compact(x0, x, most, shaped, known))
        for k in labels.steps():
            v = self._direction(s, oracle.stream.at("direction", k))
            s.known[:, k % s.known.shape[1]] = v
            angle, miss = self._sign(labels, s, v)
            done = angle != 0
            found = done.nonzero()[:, 0]
            angle = self._bisect(labels, s, v, angle, miss)
            x = s.x.index_copy(0, found, circle(labels, s, v, angle, found))
            near = threat.distance(x, s.x0) < threat.distance(s.x, s.x0)
            x = torch.where(per_row(near, x), x, s.x)
            most = torch.where(done, s.most / self.rho, s.most * self.rho).clamp(max=math.pi / 2)
            s = State(*oracle.compact(*s._replace(x=x, most=most)))
        return s.x

    def _kept(self, x0: Tensor) -> Tensor:
        """1 for coefficients of the lowest `part` of frequencies, in the order of their sums over height and width."""
        shape = x0.shape[1:]
        sides = shape[-2:] if len(shape) > 1 else shape
        order = torch.zeros(sides, device=x0.device)
        for dim, side in enumerate(sides):
            order += torch.arange(side, device=x0.device).view([-1 if d == dim else 1 for d in range(len(sides))])
        rank = order.flatten().argsort(stable=True).argsort().view(sides)
        return (rank < self.part * order.numel()).to(x0.dtype)

    def _direction(self, s: State, stream: Stream) -> Tensor:
        """v, a unit vector a row."""
        v = image(s.shaped * (stream.integers(3, *s.shaped.shape[1:]) - 1), s.x0.shape[1:])
        flat, known = v.flatten(1), s.known.flatten(2)
        along = total((known * flat[:, None]).flatten(0, 1)).view(known.shape[:2]).to(v.dtype)
        for k in range(known.shape[1]):
            flat = flat - along[:, k, None] * known[:, k]
        u = unit(s.x - s.x0).flatten(1)
        return geometry.L2.steepest((flat - total(flat * u).to(v.dtype)[:, None] * u).view_as(v))

    def _sign(self, labels: Labels, s: State, v: Tensor) -> tuple[Tensor, Tensor]:
        """The angle [rows] that reaches the goal, 0 where none does, and beyond it, on its side, one that does not."""
        angle = torch.zeros_like(s.most)
        todo = labels.rows()
        for part in (sign * (1 - i / self.T) for i in range(self.T) for sign in (1, -1)):
            hit = labels.reached(circle(labels, s, v, part * s.most, todo), todo)
            angle[todo[hit]] = part * s.most[todo[hit]]
            todo = todo[~hit & (labels.left[todo] > 0)]
        step = angle.sign() * s.most / self.T
        todo = (angle.abs() == s.most).nonzero()[:, 0]
        while len(todo):
            wider = angle + step
            hit = labels.reached(circle(labels, s, v, wider, todo), todo)
            angle[todo[hit]] = wider[todo[hit]]
            todo = todo[hit & (angle[todo].abs() + step[todo].abs() < math.pi / 2)]
        return angle, angle + step

    def _bisect(self, labels: Labels, s: State, v: Tensor, hit: Tensor, miss: Tensor) -> Tensor:
        """The widest angle [rows] between one that reaches the goal and one that does not."""
        for _ in range(self.bisections):
            todo = ((hit != 0) & ((hit.cos() - miss.cos()).abs() > self.tolerance) & (labels.left > 0)).nonzero()[:, 0]
            if len(todo) == 0:
                break
            middle = (hit + miss) / 2
            reached = labels.reached(circle(labels, s, v, middle, todo), todo)
            hit, miss = hit.clone(), miss.clone()
            hit[todo[reached]], miss[todo[~reached]] = middle[todo[reached]], middle[todo[~reached]]
        return hit


class State(NamedTuple):
    """A row each. x: the nearest success; most: the largest angle tried, radians; shaped: the size of each coefficient of a
    direction; known [rows, n, *input]: the last directions."""

    x0: Tensor
    x: Tensor
    most: Tensor
    shaped: Tensor
    known: Tensor


def unit(v: Tensor) -> Tensor:
    return geometry.L2.steepest(v.clone())


def circle(labels: Labels, s: State, v: Tensor, angle: Tensor, rows: Tensor) -> Tensor:
    """The points of rows at their angles, clipped."""
    way, a, x0 = (s.x - s.x0)[rows], per_row(angle[rows], v), s.x0[rows]
    size = per_row(labels.threat.norm.distance(way).to(v.dtype), v)
    return labels.boxed(x0 + a.cos() * (a.cos() * way + a.sin() * size * v[rows]), rows)
