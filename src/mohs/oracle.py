"""The Oracle: the only door between an attack and models.

It asks the guide for gradients and scores and the judge for verdicts, refuses what the threat does not grant, counts,
batches, averages over draws, leaves closed rows out and keeps the best point of every row. An attack is left with its
own algorithm.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.asking import Answer, Candidates, Question, Transform, ask, cat, scatter
from mohs.errors import Refused
from mohs.ledger import Ledger, Outcome, foremost
from mohs.losses import Loss
from mohs.models.batched import Batched
from mohs.models.blinding import TRIES, Blinding
from mohs.models.prepared import CONFIRM_DRAWS, Guide, Judge, Prepared
from mohs.rng import Stream
from mohs.threat import Goal, Knowledge, NormThreat, Threat

COMPACT_AT = 0.125  # of the rows closed: from there on, copying the open ones costs less than carrying the closed ones
CARRY = 8  # steps that fewer closed rows are carried at most


class Best(NamedTuple):
    """The nearest confirmed success of each row. broken, distance [rows]; point [rows, ...] (the origin where none)."""

    broken: Tensor
    point: Tensor
    distance: Tensor


class Hits(NamedTuple):
    """Candidates that reach the goal or nearly: rows of the Oracle, ids of the ledger, points, distances float64, margins."""

    rows: Tensor
    ids: Tensor
    points: Tensor
    distance: Tensor
    margin: Tensor

    def take(self, where: Tensor) -> Hits:
        return Hits(*(value.index_select(0, where) for value in self))


@dataclass(kw_only=True)
class Oracle:
    """One cohort under one attack. Every tensor has a row an example: `ids` says which row of the ledger it is.

    stop: a row closes at its first success. draws: forward passes averaged in one answer (EOT). judged: False leaves
    all verdicts to the caller (training). roams: the attack's points may leave the set. budget: queries a row may spend,
    None without limit. deadline: of `time.monotonic`, after which open rows close as undecided. surrogate: the
    adversary's own model. blinding: noise on all that is asked of the victim, so that a guard sees no sequence. begun: points
    [rows, *point] at which an attack begins in place of its own start.
    """

    judge: Judge
    guide: Guide
    threat: Threat
    goal: Goal
    x0: Tensor
    aim: Aim
    ids: Tensor
    ledger: Ledger
    stream: Stream
    stop: bool = True
    draws: int = 1
    judged: bool = True
    roams: bool = False
    budget: int | None = None
    deadline: float | None = None
    surrogate: Guide | None = None
    begun: Tensor | None = None
    blinding: Blinding | None = None
    _carried: int = 0

    @staticmethod
    def begin(
        prepared: Prepared,
        threat: Threat,
        goal: Goal,
        x0: Tensor,
        y: Tensor,
        *,
        ids: Tensor,
        seed: int = 0,
        stage: str = "",
        reference: Tensor | None = None,
        stop: bool = True,
        draws: int = 1,
        budget: int | None = None,
        deadline: float | None = None,
        keep_closest: bool = True,
    ) -> Oracle:
        """The Oracle of a cohort. x0 [rows, *input]; y [rows]; ids [rows], the addresses of its randomness; reference:
        the judge's clean logits where the caller has them. Rows to which the goal does not apply start closed."""
        judge = prepared.judge
        device = judge.model.device
        threat = threat.facing(judge.model)
        x0, y, ids = x0.to(device), y.to(device), ids.to(device)
        guide = prepared.guide
        if threat.knowledge == Knowledge.TRANSFER:
            guide = prepared.surrogate or guide
            reference = guide.scores(x0)  # all that the adversary has
        reference = judge.reference(x0) if reference is None else reference.to(device)
        seeded = Stream.of(seed, ids)
        ledger = Ledger(threat.origin(x0), keep_closest)
        aim = goal.aim(y, reference, seeded)
        oracle = Oracle(
            judge=judge,
            guide=guide,
            surrogate=prepared.surrogate,
            threat=threat,
            goal=goal,
            x0=x0,
            aim=aim,
            ids=torch.arange(len(x0), device=device),
            ledger=ledger,
            stream=seeded.at(stage),
            stop=stop,
            draws=draws,
            budget=budget,
            deadline=deadline,
            blinding=prepared.blinding,
        )
        ledger.closed |= ~goal.applies(aim)
        oracle._close_silent(reference.isnan().any(1), ledger.point, oracle.ids, judge)
        return oracle

    # what an attack asks

    @property
    def open(self) -> Tensor:
        """[rows] bool: the rows still to be attacked."""
        return ~self.ledger.closed[self.ids]

    @property
    def best(self) -> Best:
        self._confirm_held()
        ledger, ids = self.ledger, self.ids
        return Best(ledger.broken[ids], ledger.point[ids], ledger.distance[ids])

    def steps(self, n: int) -> Iterator[int]:
        """0, 1, …, n - 1, for as long as any row is open."""
        return itertools.takewhile(lambda _: self._in_time() and bool(self.open.any()), range(n))

    def compact(self, *state: Tensor) -> tuple[Tensor, ...]:
        """Drop closed rows, here and in the attack's own per-row state, once there are enough of them."""
        live = self.open
        closed = len(live) - int(live.sum())
        self._carried = self._carried + 1 if closed else 0
        if closed == 0 or (closed < COMPACT_AT * len(live) and self._carried < CARRY):
            return state
        self._carried = 0
        kept = live.nonzero()[:, 0]
        self.keep(kept)
        return tuple(value.index_select(0, kept) for value in state)

    def gradient(self, p: Tensor, loss: Loss, rows: Tensor | None = None, *, transform: Transform | None = None) -> Answer:
        """Margin, logits, loss and its gradient at points p; candidate i belongs to row rows[i] (row i without).

        transform: a change of the input, differentiable, on its way to the model. What is answered then is the model's
        word on the changed input and says nothing of p, so that no success is looked for."""
        return self._ask(p, rows, Question(self.guide, Knowledge.GRADIENT, loss, transform))

    def jacobian(self, p: Tensor, classes: Tensor, rows: Tensor | None = None) -> Answer:
        """Gradients of the logits of `classes` [n, K], at one forward and K backward passes."""
        return self._ask(p, rows, Question(self.guide, Knowledge.GRADIENT, classes))

    def traced(self, p: Tensor, rows: Tensor | None = None) -> Answer:
        """Margin, and logits that are differentiable in p: a pass backward through them is counted when it is made."""
        return self._ask(p, rows, Question(self.guide, Knowledge.GRADIENT))

    def scores(self, p: Tensor, loss: Loss | None = None, rows: Tensor | None = None) -> Answer:
        """Margin, logits and loss."""
        return self._ask(p, rows, Question(self.guide, Knowledge.SCORES, loss))

    def reached(self, p: Tensor, rows: Tensor | None = None) -> Tensor:
        """[n] bool: whether the judge's label at each point reaches the goal."""
        return self._ask(p, rows, Question(self.judge, Knowledge.LABEL)).margin > 0

    def labels(self, p: Tensor, rows: Tensor | None = None) -> Tensor:
        """[n] int64: the judge's label at each point."""
        return self._ask(p, rows, Question(self.judge, Knowledge.LABEL)).logits.argmax(1)

    # what runs an attack

    def attempt(self, aim: Aim, number: int) -> Oracle:
        """A try: the same ledger, another aim and stream, open rows only."""
        self._confirm_held()
        part = replace(self, aim=aim, stream=self.stream.at("try", number))
        part.keep(part.open.nonzero()[:, 0])
        return part

    def part(self) -> Oracle:
        """The same rows over the same ledger, to be narrowed by `keep` while this Oracle stays as it is."""
        return replace(self)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.x0, self.aim = self.x0.index_select(0, rows), self.aim.take(rows)
        self.ids, self.stream = self.ids[rows], self.stream.take(rows)
        if self.begun is not None:
            self.begun = self.begun.index_select(0, rows)

    def settle(self, p: Tensor) -> None:
        """Put the last points to the judge, always; but for rows that are broken already where any success will do."""
        self._confirm_held()
        with_judge = replace(self, judged=True, draws=1)
        if self.threat.epsilon < torch.inf:
            rows = (~self.best.broken).nonzero()[:, 0]
            with_judge.keep(rows)
            p = p.index_select(0, rows)
        with_judge._ask(p, None, Question(self.judge, Knowledge.TRANSFER))

    def settle_origin(self) -> None:
        """Where the clean inputs reach the goal already, or the model gets them wrong in another way: by their known logits, or
        the judge's where those are a surrogate's."""
        clean = replace(self, judged=True, draws=1)
        clean.keep(self.open.nonzero()[:, 0])
        origin = self.threat.origin(clean.x0)
        if self.threat.knowledge == Knowledge.TRANSFER:
            logits = clean._ask(origin, None, Question(self.judge, Knowledge.TRANSFER)).logits
        else:
            assert clean.aim.reference is not None
            logits = clean.aim.reference
            clean._note(origin, None, clean.ids, self.goal.margin(logits, clean.aim), once=True, own=True)
        missed = self.goal.given_away(logits.argmax(1), clean.aim) & clean.open & ~self.ledger.broken[clean.ids]
        rows = missed.nonzero()[:, 0]
        if len(rows) and not self.judge.model.random:  # of a random one this is a draw among many
            points = origin.index_select(0, rows)
            clean._judge(points, rows, self.threat.distance(points, clean.x0[rows]), clean=True)

    def guided_by(self, guide: Guide) -> Oracle:
        return replace(self, guide=guide)

    def aside(self) -> Oracle:
        """These rows with the surrogate in the victim's place: whatever is asked there costs no query, and nothing is judged."""
        if self.surrogate is None:
            raise Refused("the attack starts on models of the adversary's own, and has none: give --surrogate (surrogates=[...])")
        return replace(
            self,
            guide=self.surrogate,
            threat=replace(self.threat, knowledge=Knowledge.TRANSFER),
            ledger=Ledger(self.threat.origin(self.x0), keep_closest=False),
            ids=torch.arange(len(self.ids), device=self.ids.device),
            stream=self.stream.at("surrogate"),
            judged=False,
            draws=1,
            budget=None,
            blinding=None,
        )

    def outcome(self, seconds: float = 0.0) -> Outcome:
        """The ledger's rows as evidence. `seconds` is shared out by passes."""
        self._confirm_held()
        return self.ledger.outcome(self.goal.applies(self.aim), self.threat, self.x0, seconds)

    def recall(self, rows: Tensor, p: Tensor) -> None:
        """Put known successes of these rows to the judge, without counting them."""
        x0 = self.x0[rows]
        verdict = self.judge.confirm(self.threat.apply(p, x0), self.goal, self.aim.take(rows))
        self.ledger.succeed(self.ids[rows], p, self.threat.distance(p, x0), verdict, first=False)

    # inside

    def _in_time(self) -> bool:
        late = self.deadline is not None and time.monotonic() > self.deadline
        if late:
            self.ledger.close(self.ids[self.open], "undecided: the time is up")
        return not late

    def _ask(self, p: Tensor, rows: Tensor | None, question: Question, attempt: int = 0) -> Answer:
        self._grant(question)
        live = self.open if rows is None else self.open.index_select(0, rows)
        index = None if bool(live.all()) else live.nonzero()[:, 0]  # of the candidates asked about; None: all
        transfers = self.threat.knowledge == Knowledge.TRANSFER
        if self.budget is not None and not (transfers and question.model is not self.judge):  # what is one's own costs nothing
            index = self._afford(torch.arange(len(p), device=p.device) if index is None else index, rows)
        if len(p if index is None else index) == 0:
            return question.blank(p, self.judge.model.classes)
        q, r, asked = p if question.traced else p.detach(), rows, question
        if index is not None:
            q, r, asked = q.index_select(0, index), index if rows is None else rows[index], question.about(index)
        ids = self.ids if r is None else self.ids.index_select(0, r)
        if self.blinding is not None:
            q = self._blinded(q, r)
        if question.traced:
            q = q.view_as(q)  # a node of its own, so that no other question's passes are counted here
            q.register_hook(lambda _: self.ledger.count(ids, 0, 1))
        size = question.model.rows
        if len(q) <= size or (question.level < Knowledge.GRADIENT and self._plain(question)):
            answer = self._answer(q, r, asked)
        else:
            spans = [slice(start, start + size) for start in range(0, len(q), size)]
            answer = cat([self._answer(q[span], span if r is None else r[span], asked.about(span)) for span in spans])
        if question.level == Knowledge.TRANSFER or question.model is self.judge:
            self.ledger.judged.index_add_(0, ids, torch.ones_like(ids))
        else:
            self.ledger.count(ids, self.draws, self.draws * question.backwards)
        again = self._unanswered(answer) if self.blinding is not None and attempt + 1 < TRIES else None
        if again is None:
            self._inspect(q, r, answer, question)
        seen = self.threat.knowledge > Knowledge.TRANSFER or question.level == Knowledge.TRANSFER
        if self.judged and seen and question.transform is None:
            once = r is None or bool((r[1:] > r[:-1]).all())
            self._note(q.detach(), r, ids, answer.margin, once=once, own=question.model is self.judge)
        if again is not None:
            self.ledger.refused.index_add_(0, ids[again], torch.ones_like(again))
            unblinded = p if index is None else p.index_select(0, index)
            late = self._ask(unblinded[again], again if r is None else r[again], asked.about(again), attempt + 1)
            answer = Answer(*(v.index_copy(0, again, w) if len(v) else v for v, w in zip(answer, late, strict=True)))
        return answer if index is None else scatter(answer, index, len(p))

    def _grant(self, question: Question) -> None:
        level, model, granted = question.level, question.model, self.threat.knowledge
        own = model is not self.judge and self.surrogate is not None
        if level > granted and not (granted == Knowledge.TRANSFER and own):  # a surrogate is the adversary's own
            raise Refused(f"the attack asks for {level}, and the threat {self.threat} grants {granted} of the model")
        if level > model.model.gives:
            raise Refused(f"the attack asks for {level}, and the model {model.model.name} gives {model.model.gives}")

    def _blinded(self, q: Tensor, r: Tensor | None) -> Tensor:
        """Under noise that no other query of a row has."""
        rows = torch.arange(len(q), device=q.device) if r is None else r
        assert self.blinding is not None
        assert isinstance(self.threat, NormThreat)
        ids = self.ids[rows]
        stream = Stream(self.stream.keys[rows] ^ (self.ledger.queries[ids] + _earlier(ids)))
        limits = replace(self.threat, epsilon=math.inf) if self.roams else self.threat
        return self.blinding(q, self.x0[rows], limits, stream, self.ledger.refused[ids])

    @staticmethod
    def _unanswered(answer: Answer) -> Tensor | None:
        """Which candidates a guard refused, if any."""
        silent = answer.margin.isnan().nonzero()[:, 0]
        return silent if len(silent) else None

    def _answer(self, q: Tensor, r: Tensor | slice | None, question: Question) -> Answer:
        """Ask about one micro-batch, or about any number where one pass without a graph will do. Candidate i belongs to row r[i],
        to row i where r is None."""
        x0, aim, keys, ids = self.x0, self.aim, self.stream.keys, self.ids
        if isinstance(r, slice):
            x0, aim, keys, ids = x0[r], aim.take(r), keys[r], ids[r]
        elif r is not None:
            x0, aim, keys, ids = x0.index_select(0, r), aim.take(r), keys.index_select(0, r), ids.index_select(0, r)
        candidates = Candidates(q, x0, aim, Stream(keys))
        if self._plain(question):
            return ask(question, self.threat, self.goal, candidates)
        calls = self.ledger.queries[ids]  # by the row's own count: fresh at every call
        draws = [Stream(keys ^ calls).at("draw", k) for k in range(self.draws)]
        return ask(question, self.threat, self.goal, candidates, draws)

    def _plain(self, question: Question) -> bool:
        """Whether an answer is that of one pass in which nothing is drawn."""
        return self.draws == 1 and not question.model.model.random

    def _inspect(self, q: Tensor, r: Tensor | None, answer: Answer, question: Question) -> None:
        """Close the rows in which something is not a number: an error, or no answer, is not robustness."""
        values = [v for v in (answer.margin, answer.loss, answer.gradient) if len(v)]
        if math.isfinite(sum(v.sum() for v in values)):
            return
        bad = torch.stack([~v.flatten(1).isfinite().all(1) if v.ndim > 1 else v.isnan() for v in values]).any(0)
        self._close_silent(bad, q, torch.arange(len(q), device=q.device) if r is None else r, question.model)

    def _close_silent(self, bad: Tensor, q: Tensor, r: Tensor, model: Batched) -> None:
        """Close the rows r of the points q [n, *point] that are `bad` [n], for the reason that the model gives."""
        where = bad.nonzero()[:, 0]
        if len(where):
            rows = r[where]
            x = self.threat.apply(q.index_select(0, where), self.x0.index_select(0, rows))
            for i, reason in zip(self.ids[rows].tolist(), model.model.lapse(x), strict=True):
                self.ledger.close(torch.tensor([i]), reason)

    def _note(self, q: Tensor, r: Tensor | None, ids: Tensor, margin: Tensor, *, once: bool, own: bool) -> None:
        """A hit, or one within the guide's slack, counts once the judge confirms it. own: the margin is the judge's."""
        ledger = self.ledger
        near = margin > -self.guide.slack
        if self.threat.epsilon < torch.inf and not self.stop:
            near &= ~ledger.broken[ids]  # any success will do
        if self.roams:  # what lies outside the set is neither a success nor close to one
            asked = near | (margin > ledger.closest_margin[ids]) if ledger.keep_closest else near
            inside = self._inside(q, r, asked.nonzero()[:, 0])
            near = near & inside
            where = inside.nonzero()[:, 0]
            ledger.approach(ids[where], q.index_select(0, where), margin[where], once=once)
        else:
            ledger.approach(ids, q, margin, once=once)
        where = near.nonzero()[:, 0]
        if len(where) > len(self.ids):
            where = self._nearer(q, r, ids, where)
        if len(where) == 0:
            return
        rows, near_ids = where if r is None else r.index_select(0, where), ids.index_select(0, where)
        points, origins = q.index_select(0, where), self.x0.index_select(0, rows)
        hits = Hits(rows, near_ids, points, self.threat.distance(points, origins), margin.index_select(0, where))
        due = hits.distance < ledger.reach.index_select(0, near_ids)
        hits = hits.take(due.nonzero()[:, 0])
        if len(hits.rows) and not self.roams:
            inside = self.threat.contains(hits.points, self.x0.index_select(0, hits.rows))
            hits = hits if inside.all() else hits.take(inside.nonzero()[:, 0])
        if len(hits.rows) == 0:
            return
        if own:
            ledger.follow(hits.ids, torch.where(hits.margin > 0, hits.distance, torch.inf))
        if self._patient:
            hits = hits.take(self._pressing(hits, once=once, own=own))
        if len(hits.rows):
            self._judge(hits.points, hits.rows, hits.distance)

    def _nearer(self, q: Tensor, r: Tensor | None, ids: Tensor, where: Tensor) -> Tensor:
        """Those of the candidates `where` that may be nearer than what is known of their rows: of many a row, few."""
        origins = self.x0.index_select(0, where if r is None else r.index_select(0, where))
        reach = self.ledger.reach.index_select(0, ids.index_select(0, where))
        return where[(self.threat.roughly(q.index_select(0, where), origins) < 1.001 * reach).nonzero()[:, 0]]

    @property
    def _patient(self) -> bool:
        """Whether hits may wait: the nearest is sought, and a margin tells that the judge will confirm."""
        return not self.stop and self.threat.epsilon == torch.inf and not self.judge.model.random

    def _pressing(self, hits: Hits, *, once: bool, own: bool) -> Tensor:
        """Which of the hits cannot wait. Of a row's sure ones the nearest will do; of the others too where they are the judge's
        `own`, for they fail by rounding alone."""
        sure, each = hits.margin > self.guide.slack, torch.arange(len(hits.ids), device=hits.ids.device)
        nearest = each
        if not once:
            kinds = 2 * hits.ids + sure
            nearest = foremost(kinds if own else torch.where(sure, kinds, -1 - each), hits.distance)
        few = hits.take(nearest)
        waits = self.ledger.hold(few.ids, few.points, few.distance, sure=sure[nearest], all_wait=own)
        return nearest[~waits]

    def _confirm_held(self) -> None:
        """Put the hits that wait to the judge: the nearest, and the sure ones where that fails."""
        for held in reversed(self.ledger.held or ()):
            rows = (held.distance < self.ledger.distance)[self.ids].nonzero()[:, 0]
            if len(rows):
                ids = self.ids[rows]
                self._judge(held.point[ids], rows, held.distance[ids])
            held.distance[self.ids] = torch.inf

    def _inside(self, q: Tensor, r: Tensor | None, where: Tensor) -> Tensor:
        """[n] bool: which of the candidates at `where` lie in the set; False elsewhere."""
        inside = torch.zeros(len(q), dtype=torch.bool, device=q.device)
        inside[where] = self.threat.contains(q.index_select(0, where), self.x0.index_select(0, where if r is None else r[where]))
        return inside

    def _judge(self, q: Tensor, rows: Tensor, distance: Tensor, *, clean: bool = False) -> None:
        ledger, model = self.ledger, self.judge.model
        decide = self.judge.clean if clean else self.judge.confirm
        if self.budget is not None and model.random:
            covered = self._cover(rows, CONFIRM_DRAWS)
            q, rows, distance = q[covered], rows[covered], distance[covered]
        ids = self.ids[rows]
        verdict = decide(self.threat.apply(q, self.x0[rows]), self.goal, self.aim.take(rows))
        if model.random or not model.remote:  # else the point was asked about just now
            ledger.judged.index_add_(0, ids, verdict.trials)
        self._close_silent(verdict.margin.isnan() & ~verdict.reached, q, rows, self.judge)
        ledger.doubted[ids[verdict.doubted]] = True
        ledger.succeed(ids, q, distance, verdict)
        if self.stop:
            ledger.closed[ids] |= ledger.broken[ids]

    def _afford(self, index: Tensor, rows: Tensor | None) -> Tensor:
        """Leave out what the budget does not cover, and close the rows that ran out of it."""
        return index[self._cover(index if rows is None else rows[index], self.draws)]

    def _cover(self, rows: Tensor, cost: int) -> Tensor:
        """[n] bool: for which of the candidates, of these rows, the budget covers `cost` queries; the others' rows close."""
        assert self.budget is not None
        ids = self.ids[rows]
        spent = self.ledger.judged if self.threat.knowledge == Knowledge.TRANSFER else self.ledger.queries
        covered = spent[ids] + (_earlier(ids) + 1) * cost <= self.budget
        if not covered.all():
            self.ledger.close(ids[~covered].unique(), f"undecided: the budget of {self.budget} queries is spent")
        return covered


def _earlier(ids: Tensor) -> Tensor:
    """[n] int64: how many candidates before each are of the same row."""
    order = torch.arange(len(ids), device=ids.device)
    return ((ids[None] == ids[:, None]) & (order[None] < order[:, None])).sum(1)
