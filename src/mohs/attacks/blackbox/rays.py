"""RayS: the sign vector along which the boundary is nearest, by flipping blocks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.labels import Labels
from mohs.geometry import per_row
from mohs.oracle import Oracle
from mohs.threat import Knowledge, NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class RayS(Attack):
    """x0 + r s with signs s, all +1 at first, and the least radius r known. At stage l the entries are cut into 2^l blocks
    of neighbours, and the signs of one block after the other are flipped: if the flip does not reach the goal at the radius
    known, one label has shown it to be worthless; else the flip stays and the radius is bisected down to `tolerance` of the
    range. After the last block the next stage begins; after single entries, whole vectors again.

    The radius is that of the box before clipping, all of it at first. A row for which no flip ever reaches the goal survives.
    Chen & Gu, KDD 2020, arXiv:2006.12792.

    When to use: the attack by labels in linf, with no step sizes to choose; it needs no start, and a few hundred labels show
    whether gradients of a defence lie. In l2 use `hop-skip-jump`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/7 = 0.1429 away in linf
    >>> outcome = attacks.RayS(queries=100)(model, x, y, threat="linf:inf+knowledge:label")
    >>> round(float(outcome.distance), 2), int(outcome.backwards)
    (0.14, 0)
    """

    queries: int = 10000
    tolerance: float = 1e-3

    paper = "Chen & Gu, KDD 2020, arXiv:2006.12792"
    random = False
    knowledge = Knowledge.LABEL
    sets = ("linf",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        labels = Labels.of(oracle, self.queries)
        labels.skip(oracle.best.distance == 0)
        range_ = threat.bounds[1] - threat.bounds[0]
        signs = torch.ones_like(x0) if oracle.begun is None else torch.where(oracle.begun < x0, -1.0, 1.0)
        radius = torch.full((len(x0),), range_, device=x0.device)
        idle, place = torch.zeros_like(radius, dtype=torch.bool), torch.full_like(radius, -1, dtype=torch.long)
        s = State(x0, signs, signs.clone(), radius, torch.zeros_like(radius), radius.clone(), idle, place)
        for _ in labels.steps():
            s = self._step(labels, s, range_)
            s = State(*oracle.compact(*s))
        return labels.boxed(s.x0 + per_row(s.radius, s.x0) * s.signs, torch.arange(len(s.x0), device=s.x0.device))

    def _step(self, labels: Labels, s: State, range_: float) -> State:
        """One label of every row: of a flip at the radius known, or of a bisection."""
        rows = labels.rows()
        trial = torch.where(per_row(s.busy, s.trial), s.trial, flipped(s.signs, s.place))
        radius = torch.where(s.busy, (s.low + s.high) / 2, s.radius)
        hit = torch.zeros_like(s.busy)
        p = labels.boxed(s.x0[rows] + per_row(radius[rows], s.x0) * trial[rows], rows)
        hit[rows] = labels.reached(p, rows)
        low = torch.where(s.busy & ~hit, radius, torch.where(s.busy, s.low, 0.0))
        high = torch.where(hit, radius, s.high)
        begun = s.busy | hit
        busy = begun & (high - low > self.tolerance * range_)
        done = begun & ~busy
        signs = torch.where(per_row(done, s.signs), trial, s.signs)
        known = torch.where(done, high, s.radius)
        return State(s.x0, signs, trial, known, low, torch.where(busy, high, known), busy, s.place + (~busy).long())


class State(NamedTuple):
    """A row each. signs and radius: the nearest success; trial: signs in hand, flipped in a block; low, high: the bracket of
    their radius while busy; place: of the block, counted over all stages, -1 where nothing is flipped yet."""

    x0: Tensor
    signs: Tensor
    trial: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor
    busy: Tensor
    place: Tensor


def flipped(signs: Tensor, place: Tensor) -> Tensor:
    """signs [rows, *input] with the block at `place` [rows] turned: 1 block of all entries, 2 halves, 4 quarters, ..., single
    entries, and again."""
    d = signs[0].numel()
    stages = (d - 1).bit_length() + 1
    parts = [min(2**stage, d) for stage in range(stages)]
    size = torch.tensor([-(-d // part) for part in parts], device=signs.device)
    blocks = -(-d // size)
    ends = blocks.cumsum(0)
    at = place.clamp(min=0) % ends[-1]
    stage = torch.searchsorted(ends, at, right=True)
    first = (at - (ends - blocks)[stage]) * size[stage]
    entry = torch.arange(d, device=signs.device)
    inside = (entry >= first[:, None]) & (entry < (first + size[stage])[:, None]) & (place >= 0)[:, None]
    return torch.where(inside.view_as(signs), -signs, signs)
