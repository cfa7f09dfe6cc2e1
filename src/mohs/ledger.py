"""What is known of every example of a cohort: counts, the best success, the best failure, why it closed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.models.prepared import Verdict
from mohs.threat import Threat

MARKS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)  # queries at which the nearest hit is noted


class Status(StrEnum):
    """The first three are evidence; the others are not, and never count as robustness."""

    BROKEN = "broken"
    SURVIVED = "survived"
    PROVED = "proved"
    INAPPLICABLE = "inapplicable"
    UNDECIDED = "undecided"
    ERROR = "error"


@dataclass(frozen=True)
class Outcome:
    """One row an example. Tensors are on the CPU.

    status, reason: text. point: the nearest success, else the closest failure, in the threat's space; adversarial: the
    input there. distance: of the success, in the threat's units, inf where there is none. margin: of the goal, at the
    point. trail [rows, marks]: the distance of the nearest hit that labels told within so many queries, see MARKS; inf without
    one. label: the judge's answer there, -1 where it was not asked. hits of trials: the confirmation of a random model.
    queries: forward passes, of guide and judge; queries_to_success: -1 where there is none.
    """

    status: list[Status]
    reason: list[str]
    point: Tensor
    adversarial: Tensor
    distance: Tensor
    margin: Tensor
    label: Tensor
    hits: Tensor
    trials: Tensor
    queries: Tensor
    queries_to_success: Tensor
    forwards: Tensor
    backwards: Tensor
    seconds: Tensor
    trail: Tensor

    def __len__(self) -> int:
        return len(self.status)

    @property
    def broken(self) -> Tensor:
        """[rows] bool."""
        return torch.tensor([s == Status.BROKEN for s in self.status], dtype=torch.bool)

    @staticmethod
    def cat(parts: list[Outcome]) -> Outcome:
        def join(name: str) -> object:
            values = [getattr(part, name) for part in parts]
            return [item for value in values for item in value] if isinstance(values[0], list) else torch.cat(values)

        return Outcome(**{f.name: join(f.name) for f in fields(Outcome)})  # type: ignore[arg-type]


class Held(NamedTuple):
    """Of each row the hit that waits for its judgement. point [n, ...]; distance [n], inf where there is none."""

    point: Tensor
    distance: Tensor


@dataclass
class Ledger:
    """The rows of one cohort under one attack; `ids` below index them. Kept on the model's device."""

    point: Tensor  # nearest confirmed success [n, ...], the origin until there is one
    keep_closest: bool = True
    broken: Tensor = field(init=False)
    closed: Tensor = field(init=False)  # broken where the attack stops there, out of budget, or in error
    failure: list[str | None] = field(init=False)  # why a row closed without a verdict
    distance: Tensor = field(init=False)
    margin: Tensor = field(init=False)
    label: Tensor = field(init=False)
    hits: Tensor = field(init=False)
    trials: Tensor = field(init=False)
    doubted: Tensor = field(init=False)  # reached in float32 alone
    closest: Tensor = field(init=False)  # best failed point
    closest_margin: Tensor = field(init=False)
    forwards: Tensor = field(init=False)
    backwards: Tensor = field(init=False)
    judged: Tensor = field(init=False)  # the judge's forward passes
    refused: Tensor = field(init=False)  # queries that a guard did not answer, and that were sent anew under other noise
    first: Tensor = field(init=False)  # queries when the first success came
    trail: Tensor = field(init=False)  # nearest hit by labels within MARKS queries
    marks: Tensor = field(init=False)
    held: tuple[Held, ...] | None = None  # sure hits, and those that the judge may not confirm

    def __post_init__(self) -> None:
        n, device = len(self.point), self.point.device

        def full(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((n,), value, dtype=dtype, device=device)

        self.broken, self.closed, self.doubted = (full(False, torch.bool) for _ in range(3))
        self.failure = [None] * n
        self.distance = full(torch.inf, torch.float64)
        self.margin, self.closest_margin = full(-torch.inf, torch.float32), full(-torch.inf, torch.float32)
        self.label, self.first = full(-1, torch.int64), full(-1, torch.int64)
        self.hits, self.trials, self.forwards, self.backwards = (full(0, torch.int64) for _ in range(4))
        self.judged, self.refused = full(0, torch.int64), full(0, torch.int64)
        self.closest = self.point.clone()
        self.marks = torch.tensor(MARKS, device=device)
        self.trail = torch.full((n, len(MARKS)), torch.inf, dtype=torch.float64, device=device)

    @property
    def queries(self) -> Tensor:
        return self.forwards + self.judged

    def count(self, ids: Tensor, forwards: int, backwards: int) -> None:
        """Add passes to rows; an id may stand several times."""
        ones = torch.ones_like(ids)
        self.forwards.index_add_(0, ids, ones, alpha=forwards)
        if backwards:
            self.backwards.index_add_(0, ids, ones, alpha=backwards)

    def approach(self, ids: Tensor, points: Tensor, margin: Tensor, *, once: bool = False) -> None:
        """Remember the failed points that came closest; an id may stand several times unless `once`. Those of broken
        rows nobody reads."""
        if self.broken.all():
            return
        if once and not self.keep_closest:
            self.closest_margin[ids] = torch.maximum(self.closest_margin[ids], margin)
            return
        better = margin > self.closest_margin[ids]
        if not better.any():
            return
        if not better.all():
            where = better.nonzero()[:, 0]
            ids, points, margin = ids[where], points[where], margin[where]
        if not once:
            first = foremost(ids, -margin)
            ids, points, margin = ids[first], points[first], margin[first]
        self.closest_margin[ids] = margin
        if self.keep_closest:
            self.closest.index_copy_(0, ids, points)

    def succeed(self, ids: Tensor, points: Tensor, distance: Tensor, verdict: Verdict, *, first: bool = True) -> None:
        """Keep the confirmed successes that are nearer than those known; an id may stand several times. first: note the
        queries spent at a row's first success."""
        good = (verdict.reached & (distance < self.distance[ids])).nonzero()[:, 0]
        if len(good) == 0:
            return
        good = good[foremost(ids[good], distance[good])]
        ids = ids[good]
        if first:
            self.first[ids] = torch.where(self.broken[ids], self.first[ids], self.queries[ids])
        self.broken[ids] = True
        self.point[ids], self.distance[ids] = points[good], distance[good]
        self.margin[ids], self.label[ids] = verdict.margin[good], verdict.label[good]
        self.hits[ids], self.trials[ids] = verdict.hits[good], verdict.trials[good]

    @property
    def reach(self) -> Tensor:
        """[n]: what a hit must come nearer than to matter: the nearest success, confirmed or sure to be."""
        return self.distance if self.held is None else torch.minimum(self.distance, self.held[0].distance)

    def follow(self, ids: Tensor, distance: Tensor) -> None:
        """Note how near hits are, with the queries spent by now; an id may stand several times."""
        late = self.marks >= self.queries.index_select(0, ids)[:, None]
        reached = torch.where(late, distance[:, None], torch.inf)
        self.trail.scatter_reduce_(0, ids[:, None].expand_as(reached), reached, "amin")

    def hold(self, ids: Tensor, points: Tensor, distance: Tensor, *, sure: Tensor, all_wait: bool) -> Tensor:
        """[n] bool: which hits wait, or are farther than one that waits; no id has two of a kind that may wait, sure or not.

        Those of a row that is broken already wait until a nearer one takes their place, or their turn comes: of ever nearer
        hits the last alone is judged, and the last sure one where that fails."""
        if self.held is None:
            self.held = tuple(Held(torch.zeros_like(self.point), torch.full_like(self.distance, torch.inf)) for _ in range(2))
        certain, unsure = self.held
        nearer = distance < torch.where(sure, certain.distance[ids], torch.minimum(certain.distance, unsure.distance)[ids])
        waits = nearer & self.broken[ids] & (sure | all_wait)
        for kind, held in ((sure, certain), (~sure, unsure)):
            where = (waits & kind).nonzero()[:, 0]
            if len(where) == 0:
                continue
            held.point.index_copy_(0, ids[where], points.index_select(0, where))
            held.distance[ids[where]] = distance[where]
        return waits | ~nearer

    def close(self, ids: Tensor, reason: str) -> None:
        """Close rows without a verdict; the first reason of a row stands."""
        self.closed[ids] = True
        for i in ids.tolist():
            self.failure[i] = self.failure[i] or reason

    def outcome(self, applies: Tensor, threat: Threat, x0: Tensor, seconds: float) -> Outcome:
        """The rows as evidence. applies [n] bool: those that the goal exists for; seconds: shared out by passes."""
        facts = zip(applies.tolist(), self.broken.tolist(), self.doubted.tolist(), self.failure, strict=True)
        verdicts = [_verdict(*fact) for fact in facts]
        point = torch.where(self.broken.view(-1, *[1] * (self.point.ndim - 1)), self.point, self.closest)
        passes = (self.forwards + 2 * self.backwards + self.judged).double()
        shares = passes / passes.sum().clamp_min(1)
        return Outcome(
            status=[status for status, _ in verdicts],
            reason=[reason for _, reason in verdicts],
            point=point.cpu(),
            adversarial=threat.apply(point, x0).detach().cpu(),
            distance=torch.where(self.broken, self.distance, torch.inf).cpu(),
            margin=torch.where(self.broken, self.margin, self.closest_margin).cpu(),
            label=self.label.cpu(),
            hits=self.hits.cpu(),
            trials=self.trials.cpu(),
            queries=self.queries.cpu(),
            queries_to_success=self.first.cpu(),
            forwards=self.forwards.cpu(),
            backwards=self.backwards.cpu(),
            seconds=(shares * seconds).cpu(),
            trail=self.trail.cpu(),
        )


def _verdict(fits: bool, broken: bool, doubted: bool, failure: str | None) -> tuple[Status, str]:
    if not fits:
        return Status.INAPPLICABLE, "the goal does not apply"
    if broken:
        return Status.BROKEN, ""
    if failure is not None:
        kind, _, reason = failure.partition(": ")
        return Status(kind), reason
    if doubted:
        return Status.UNDECIDED, "rounding: the goal was reached in float32 and not beyond its rounding"
    return Status.SURVIVED, ""


def foremost(ids: Tensor, key: Tensor) -> Tensor:
    """For each id, the position of its smallest key; positions ascend by id."""
    by_key = key.argsort(stable=True)
    by_id = by_key[ids[by_key].argsort(stable=True)]
    ordered = ids[by_id]
    return by_id[torch.cat([ordered.new_ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])]
