"""The door between attacks and models: who is asked, what counts as a success, what is counted, and what a guide may be."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from mohs.aim import Aim
from mohs.attacks import PGD
from mohs.attacks.base import Attack
from mohs.errors import DataError, ModelError, Refused
from mohs.ledger import MARKS, Status
from mohs.losses import cross_entropy, logit_difference
from mohs.models import Batched, Guide, Judge, Model, Prepared, TorchModel, as_model, prepare
from mohs.models import prepared as prepared_module
from mohs.models.batched import measure_quantum
from mohs.models.fold import fold_batch_norm, fold_normalisation
from mohs.models.prepared import CONFIRM_DRAWS
from mohs.oracle import CARRY, Oracle
from mohs.rng import Stream
from mohs.threat import L2, Constraints, Knowledge, Linf, Threat, Untargeted
from tests.small import labelled, network


class Step(nn.Module):
    """Two classes over one feature: class 1 above `at`, with margin slope * (x - at)."""

    def __init__(self, at: float = 0.5, slope: float = 1.0) -> None:
        super().__init__()
        self.at, self.slope = at, slope

    def forward(self, x: Tensor) -> Tensor:
        z = self.slope * (x.flatten(1)[:, :1] - self.at)
        return torch.cat([0 * z, z], 1)


class Noted(nn.Module):
    """Writes down how many rows each call had."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        out: Tensor = self.inner(x)
        return out


def pair(
    judge: nn.Module,
    guide: nn.Module | None = None,
    *,
    slack: float = 0.0,
    exact: bool = True,
    noise: float = 0.0,
    random: bool = False,
    rows: int = 16,
    classes: int = 2,
) -> Prepared:
    """Judge and guide as they are given, nothing measured."""
    model = TorchModel(judge.eval(), classes=classes, random=random)
    other = model if guide is None else TorchModel(guide.eval(), classes=classes)
    twin = model.double() if exact and not random else None
    return Prepared(Judge(model, rows, 1, exact=twin, noise=noise), Guide(other, rows, 1, slack=slack))


def begin(prepared: Prepared, x: Tensor | None = None, threat: Threat | None = None, **options) -> Oracle:
    """Rows of class 0 at 0.4, within 0.2, unless said otherwise. The clean logits are given, so that no call is spent."""
    x = torch.full((3, 1), 0.4) if x is None else x
    y = options.pop("y", torch.zeros(len(x), dtype=torch.int64))
    reference = options.pop("reference", torch.zeros(len(x), prepared.judge.model.classes))
    return Oracle.begin(
        prepared,
        threat or Linf(0.2),
        options.pop("goal", Untargeted()),
        x,
        y,
        ids=torch.arange(len(x)),
        reference=reference,
        **options,
    )


def at(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


# slack: guide and judge differ


def test_a_hit_the_guide_misses_by_less_than_its_slack_is_found():
    """The judge turns at 0.50 and the guide at 0.52: at 0.51 only the judge says so."""
    guide = Step(0.52)
    oracle = begin(pair(Step(), guide, slack=0.04))
    answer = oracle.scores(at(0.51, 0.49, 0.47))
    assert answer.margin.tolist() == pytest.approx([-0.01, -0.03, -0.05], abs=1e-6)  # the attack sees the guide
    out = oracle.outcome()
    assert out.status == [Status.BROKEN, Status.SURVIVED, Status.SURVIVED]
    assert out.margin[0] == pytest.approx(0.01, abs=1e-6)  # the evidence is the judge's
    assert out.distance[0] == pytest.approx(0.11, abs=1e-6)
    assert (out.queries - out.forwards).tolist() == [1, 1, 0]  # what lies beyond the slack is not put to the judge

    blind = begin(pair(Step(), guide, slack=0.0))
    blind.scores(at(0.51, 0.49, 0.47))
    assert not blind.outcome().broken.any()


def test_a_hit_the_judge_denies_does_not_count():
    oracle = begin(pair(Step(), Step(0.45), slack=0.0))
    assert (oracle.scores(at(0.48, 0.49, 0.51)).margin > 0).all()
    out = oracle.outcome()
    assert out.status == [Status.SURVIVED, Status.SURVIVED, Status.BROKEN]
    assert out.distance.isfinite().tolist() == [False, False, True]
    assert (out.queries - out.forwards).tolist() == [1, 1, 1]


def test_survivors_within_the_slack_are_run_again_on_the_untouched_model():
    """A guide whose gradient points the wrong way leads away from a success that its judge is led to."""
    x, y = torch.full((3, 1), 0.45), torch.zeros(3, dtype=torch.int64)
    attack = PGD(steps=5, step_size=0.5, random_start=False)
    backwards = Step(0.5, slope=-0.01)
    assert attack(pair(Step(), backwards, slack=0.2), x, y, threat="linf:0.1").broken.all()
    assert not attack(pair(Step(), Step(0.9, slope=-0.01), slack=0.0), x, y, threat="linf:0.01").broken.any()
    far = attack(pair(Step(0.9), Step(0.9, slope=0.9), slack=1e-3), x, y, threat="linf:0.1")
    assert not far.broken.any()
    assert far.forwards.tolist() == [5, 5, 5]  # nothing came close: nothing is run twice


# float32 and float64


class ByType(nn.Module):
    """The margin of class 1 in float32 and in float64."""

    def __init__(self, single: float, double: float) -> None:
        super().__init__()
        self.single, self.double_ = single, double

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1)[:, :1] * 0 + (self.double_ if x.dtype == torch.float64 else self.single)
        return torch.cat([0 * z, z], 1)


@pytest.mark.parametrize(
    ("single", "double", "status"),
    [(0.01, 0.01, Status.BROKEN), (0.01, -0.01, Status.UNDECIDED), (0.01, 0.0, Status.UNDECIDED), (-0.01, 0.01, Status.SURVIVED)],
)
def test_a_success_must_hold_in_float64_too(single: float, double: float, status: Status):
    oracle = begin(pair(ByType(single, double), slack=0.1))
    oracle.scores(at(0.4, 0.45, 0.5))
    out = oracle.outcome()
    assert out.status == [status] * 3
    assert ("rounding" in out.reason[0]) == (status == Status.UNDECIDED)
    assert out.distance.isfinite().all() == (status == Status.BROKEN)
    if status == Status.UNDECIDED:  # and an attack that goes on does not lose the doubt
        oracle.scores(at(0.3, 0.3, 0.3))
        oracle.settle(at(0.4, 0.4, 0.4))
        assert oracle.outcome().status == [Status.UNDECIDED] * 3


def test_without_float64_the_margin_must_exceed_four_times_the_noise():
    for noise, status in ((0.002, Status.BROKEN), (0.003, Status.UNDECIDED)):
        oracle = begin(pair(ByType(0.01, 0.01), exact=False, noise=noise))
        oracle.scores(at(0.4, 0.45, 0.5))
        assert oracle.outcome().status == [status] * 3


# the set


@pytest.mark.parametrize("roams", [True, False])
@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.2)])
def test_points_outside_the_set_never_count(roams: bool, threat: Threat):
    oracle = begin(pair(Step()), threat=threat)
    oracle.roams = roams
    assert (oracle.scores(at(0.7, 0.601, 0.59)).margin > 0).all()
    assert oracle.ledger.broken.tolist() == [False, False, True]
    assert oracle.open.tolist() == [True, True, False]
    oracle.settle(at(0.7, 0.7, 0.7))
    assert oracle.outcome().status == [Status.SURVIVED, Status.SURVIVED, Status.BROKEN]
    oracle.scores(at(0.6, 0.6, 0.6))  # x0 + epsilon in float32 does
    assert oracle.outcome().broken.all()


def test_what_lies_outside_is_not_the_closest_failure_of_an_attack_that_roams():
    oracle = begin(pair(Step(0.9)))
    oracle.roams = True
    oracle.scores(at(0.55, 0.55, 0.55))
    oracle.scores(at(0.89, 0.6, 0.5))
    assert oracle.outcome().point[:, 0].tolist() == pytest.approx([0.55, 0.6, 0.55])


@pytest.mark.parametrize("roams", [True, False])
def test_the_box_and_the_constraints_are_judged(roams: bool):
    """Within epsilon, and yet no input of the model, or one the adversary may not make."""
    x = torch.full((2, 2), 0.9)
    limits = Constraints(mask=torch.tensor([True, False]), limit=torch.tensor([0.15, 0.15]))
    points = torch.tensor([[1.05, 0.9], [0.99, 0.9]])
    assert judged(Linf(0.2), x, points, roams) == [False, True]
    points = torch.tensor([[0.99, 0.91], [0.99, 0.9]])
    assert judged(Linf(0.2, constraints=limits), x, points, roams) == [False, True]
    limits = Constraints(limit=torch.tensor([0.05, 0.15]))
    points = torch.tensor([[0.96, 0.9], [0.95, 0.8]])
    assert judged(Linf(0.2, constraints=limits), x, points, roams) == [False, True]
    limits = Constraints(low=torch.tensor([0.0, 0.85]), high=torch.tensor([1.0, 1.0]))
    points = torch.tensor([[0.9, 0.8], [0.9, 0.86]])
    assert judged(Linf(0.2, constraints=limits), x, points, roams) == [False, True]
    assert judged(Linf(0.2), x, torch.tensor([[0.9, math.nan], [0.9, 0.9]]), roams) == [False, True]


def judged(threat: Threat, x: Tensor, points: Tensor, roams: bool) -> list[bool]:
    """Which of the points count, to a model that everything fools."""
    oracle = begin(pair(Step(-1.0)), x, threat)
    oracle.roams = roams
    oracle.scores(points)
    oracle.settle(points)
    return oracle.outcome().broken.tolist()


# knowledge


def test_what_is_not_granted_is_refused_by_both_names():
    p = at(0.5, 0.5, 0.5)
    for threat, ask, level in (
        (Linf(0.2, knowledge=Knowledge.SCORES), "gradient", "scores"),
        (Linf(0.2, knowledge=Knowledge.LABEL), "gradient", "label"),
        (Linf(0.2, knowledge=Knowledge.LABEL), "scores", "label"),
        (Linf(0.2, knowledge=Knowledge.TRANSFER), "label", "transfer"),
        (Linf(0.2, knowledge=Knowledge.TRANSFER), "gradient", "transfer"),  # of a copy of the model, which is no surrogate
    ):
        oracle = begin(pair(Step()), threat=threat)
        with pytest.raises(Refused, match=rf"asks for {ask}, and the threat linf:0.2 grants {level}"):
            _ask(oracle, ask, p)
    for gives, ask in ((Knowledge.SCORES, "gradient"), (Knowledge.LABEL, "scores")):
        prepared = pair(Step())
        prepared.judge.model.gives = gives
        with pytest.raises(Refused, match=rf"asks for {ask}, and the model Step gives {gives}"):
            _ask(begin(prepared), ask, p)
    with pytest.raises(Refused, match="asks for gradient"):
        begin(pair(Step()), threat=Linf(0.2, knowledge=Knowledge.SCORES)).jacobian(p, torch.zeros(3, 1, dtype=torch.int64))


def _ask(oracle: Oracle, level: str, p: Tensor) -> object:
    return {
        "gradient": lambda: oracle.gradient(p, cross_entropy),
        "scores": lambda: oracle.scores(p),
        "label": lambda: oracle.reached(p),
    }[level]()


def test_each_level_grants_those_below():
    oracle = begin(pair(Step()), threat=Linf(0.2, knowledge=Knowledge.SCORES))
    oracle.scores(at(0.41, 0.42, 0.43))
    assert oracle.reached(at(0.41, 0.42, 0.55)).tolist() == [False, False, True]


def test_an_output_that_does_not_depend_on_the_input_is_refused():
    class Rounded(Step):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    with pytest.raises(Refused, match="no gradient"):
        begin(pair(Rounded())).gradient(at(0.4, 0.4, 0.4), cross_entropy)


def test_under_transfer_the_judge_sees_the_last_point_alone():
    judge = Noted(Step())
    prepared = pair(judge, exact=False)
    prepared = replace(prepared, surrogate=pair(Step(0.45)).guide)
    oracle = begin(prepared, threat=Linf(0.2, knowledge=Knowledge.TRANSFER))
    for _ in oracle.steps(4):
        assert (oracle.gradient(at(0.55, 0.55, 0.55), logit_difference).margin > 0).all()  # of the surrogate
        assert oracle.open.all()  # nothing stops early
    assert judge.calls == []
    assert not oracle.ledger.broken.any()
    oracle.settle(at(0.55, 0.45, 0.7))
    out = oracle.outcome()
    assert out.status == [Status.BROKEN, Status.SURVIVED, Status.SURVIVED]
    assert sum(judge.calls) == int((out.queries - out.forwards).sum())
    assert out.forwards.tolist() == [4, 4, 4]


# budgets, time, closing


def test_a_budget_closes_rows_as_undecided_with_exact_counts():
    model = Noted(Step(0.9))
    oracle = begin(pair(model, exact=False), budget=5)
    for _ in oracle.steps(8):
        oracle.scores(at(0.4, 0.45, 0.5))
    oracle.settle(at(0.4, 0.4, 0.4))
    out = oracle.outcome()
    assert out.status == [Status.UNDECIDED] * 3
    assert all("budget of 5 queries" in reason for reason in out.reason)
    assert out.forwards.tolist() == out.queries.tolist() == [5, 5, 5]
    assert sum(model.calls) == 15


def test_the_first_reason_of_a_row_stands():
    oracle = begin(pair(Step(0.9)))
    oracle.ledger.close(torch.tensor([1]), "undecided: no answer")
    oracle.ledger.close(torch.tensor([0, 1]), "undecided: too late")
    assert oracle.outcome().reason == ["too late", "no answer", ""]


def test_hits_by_labels_leave_a_trail():
    """The nearest within so many queries, of all candidates of a row."""
    threat = Linf(math.inf, knowledge=Knowledge.LABEL)
    oracle = begin(pair(Step(0.5)), threat=threat, stop=False)
    for k, p in enumerate((0.9, 0.45, 0.8, 0.85)):
        oracle.reached(torch.full((6, 1), p), rows=torch.tensor([0, 0, 0, 1, 1, 1]))
        oracle.reached(torch.full((3, 1), p - 0.1 * (k == 2)), rows=torch.tensor([0, 0, 0]))
    trail = oracle.outcome().trail
    assert MARKS[:3] == (10, 20, 50)
    assert trail[0, :3].tolist() == pytest.approx([0.5, 0.3, 0.3], abs=1e-6)
    assert trail[1, :2].tolist() == pytest.approx([0.4, 0.4], abs=1e-6)
    assert trail[2].isinf().all()


def test_a_budget_is_shared_by_the_candidates_of_a_row():
    oracle = begin(pair(Step(0.9)), budget=5)
    rows = torch.tensor([0, 0, 1, 0, 0, 0, 1, 0])
    answer = oracle.scores(torch.full((8, 1), 0.5), rows=rows)
    assert oracle.ledger.forwards.tolist() == [5, 2, 0]
    assert (answer.margin != 0).tolist() == [True] * 7 + [False]
    assert oracle.open.tolist() == [False, True, True]
    assert oracle.outcome().status == [Status.UNDECIDED, Status.SURVIVED, Status.SURVIVED]


def test_a_budget_counts_every_draw():
    oracle = begin(pair(Step(0.9), random=True), budget=5, draws=2)
    for _ in oracle.steps(8):
        oracle.gradient(at(0.4, 0.45, 0.5), cross_entropy)
    assert oracle.ledger.forwards.tolist() == oracle.ledger.backwards.tolist() == [4, 4, 4]
    assert oracle.outcome().status == [Status.UNDECIDED] * 3


def test_a_success_within_the_budget_stays_one():
    oracle = begin(pair(Step()), budget=2)
    for p in (0.45, 0.55, 0.55):
        oracle.scores(at(p, 0.45, 0.45))
    out = oracle.outcome()
    assert out.status == [Status.BROKEN, Status.UNDECIDED, Status.UNDECIDED]
    assert out.queries_to_success.tolist() == [3, -1, -1]  # two looks, one confirmation
    assert out.queries.tolist() == [3, 2, 2]


def test_a_deadline_closes_open_rows():
    oracle = begin(pair(Step()), deadline=time.monotonic() + 60)
    oracle.scores(at(0.55, 0.45, 0.45))
    steps = iter(oracle.steps(10))
    assert next(steps) == 0
    oracle.deadline = time.monotonic() - 1
    assert next(iter(oracle.steps(10)), None) is None
    out = oracle.outcome()
    assert out.status == [Status.BROKEN, Status.UNDECIDED, Status.UNDECIDED]
    assert "the time is up" in out.reason[1]


def test_closed_rows_answer_zeros_and_cost_nothing():
    model = Noted(Step())
    oracle = begin(pair(model, exact=False))
    oracle.scores(at(0.55, 0.45, 0.55))
    assert oracle.open.tolist() == [False, True, False]
    spent, seen = oracle.ledger.queries.clone(), sum(model.calls)
    answer = oracle.gradient(at(0.45, 0.46, 0.47), cross_entropy)
    for value in answer:
        assert len(value) == 3
        assert (value[[0, 2]] == 0).all()
        assert (value[1] != 0).any()
    assert oracle.scores(at(0.1, 0.2, 0.3), rows=torch.tensor([0, 2, 0])).logits.tolist() == [[0, 0]] * 3
    assert oracle.jacobian(at(0.5, 0.5), torch.tensor([[0, 1], [0, 1]]), rows=torch.tensor([0, 2])).gradient.shape == (2, 2, 1)
    assert (oracle.ledger.queries - spent).tolist() == [0, 1, 0]
    assert sum(model.calls) == seen + 1


def test_steps_end_when_every_row_is_closed():
    oracle = begin(pair(Step()))
    taken = 0
    for k in oracle.steps(10):
        oracle.scores(torch.full((3, 1), 0.42 + 0.05 * k))
        taken += 1
    assert taken == 3  # 0.42, 0.47, 0.52
    assert begin(pair(Step()), y=torch.ones(0, dtype=torch.int64), x=torch.zeros(0, 1)).outcome().status == []


def test_what_is_not_a_number_is_an_error_and_not_robustness():
    class Breaks(Step):
        """NaN above 0.5, infinite gradients at 0."""

        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            return torch.where(x[:, :1] > 0.5, torch.nan, z) + 0 * x[:, :1].sqrt()

    oracle = begin(pair(Breaks(0.9)))
    oracle.scores(at(0.55, 0.45, 0.45))
    assert oracle.open.tolist() == [False, True, True]
    oracle.gradient(at(0.3, 0.3, 0.0), cross_entropy)
    out = oracle.outcome()
    assert out.status == [Status.ERROR, Status.SURVIVED, Status.ERROR]
    assert "not finite" in out.reason[0]
    oracle.settle(at(0.45, 0.55, 0.45))
    assert oracle.outcome().status == [Status.ERROR] * 3


# state: rows, tries, compaction


def test_compact_keeps_everything_aligned():
    x = torch.linspace(0.32, 0.45, 16)[:, None]
    y = torch.zeros(16, dtype=torch.int64)
    y[5] = 1  # an error as soon as it lies below 0.5
    oracle = begin(pair(Step()), x, y=y)
    keys, state = oracle.stream.keys.clone(), torch.arange(16) * 10
    wins = torch.zeros(16, dtype=torch.bool)
    wins[1] = True
    oracle.scores(torch.where(wins[:, None], 0.501, torch.where(y[:, None] == 1, 0.51, x)))
    same, _ = oracle.compact(state, x)
    assert same is state  # 15 of 16 are open: not worth a copy
    assert len(oracle.ids) == 16
    wins[[0, 2, 9]] = True
    oracle.scores(torch.where(wins[:, None], 0.501, x))
    state, points = oracle.compact(state, x)
    left = torch.tensor([3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15])
    assert torch.equal(oracle.ids, left)
    assert torch.equal(state, left * 10)
    assert torch.equal(points, x[left])
    assert torch.equal(oracle.x0, x[left])
    assert torch.equal(oracle.aim.y, y[left])
    assert torch.equal(oracle.stream.keys, keys[left])
    oracle.scores(torch.where(oracle.ids[:, None] == 8, 0.502, points))  # who breaks now is the eighth
    assert torch.equal(oracle.ledger.broken.nonzero()[:, 0], torch.tensor([0, 1, 2, 5, 8, 9]))
    for _ in range(CARRY):  # one closed row is carried for a while, and then dropped
        (state,) = oracle.compact(state)
    assert torch.equal(state, left[left != 8] * 10)
    assert torch.equal(oracle.ids, left[left != 8])
    assert oracle.ledger.forwards[8] == 3


def test_of_several_candidates_the_nearest_confirmed_is_kept():
    """The guide claims all of them; the judge the last three of row 0 and none of row 1."""
    prepared = pair(Step(), Step(0.3))
    rows = torch.tensor([0, 1, 0, 0, 1, 0])
    points = at(0.45, 0.48, 0.58, 0.52, 0.49, 0.55)
    for size in (16, 2):  # in one micro-batch or several
        oracle = begin(prepared.with_rows(size))
        oracle.scores(points, rows=rows)
        out = oracle.outcome()
        assert out.status == [Status.BROKEN, Status.SURVIVED, Status.SURVIVED]
        assert out.point[0] == pytest.approx(0.52)
        assert out.distance[0] == pytest.approx(0.12, abs=1e-6)
        assert out.forwards.tolist() == [4, 2, 0]
        assert out.queries.tolist() == [8, 4, 0]


def test_without_a_budget_nearer_successes_replace_farther_ones():
    oracle = begin(pair(Step()), threat=Linf(math.inf), stop=False)
    for p, best in ((0.7, 0.7), (0.6, 0.6), (0.8, 0.6), (0.51, 0.51), (0.49, 0.51)):
        oracle.scores(at(p, 0.1, 0.2))
        assert oracle.best.point[0] == pytest.approx(best)
    assert oracle.best.broken.tolist() == [True, False, False]
    assert oracle.best.distance.tolist() == pytest.approx([0.11, math.inf, math.inf], abs=1e-6)
    assert oracle.outcome().queries_to_success.tolist() == [2, -1, -1]


def test_of_ever_nearer_hits_the_last_alone_is_judged():
    oracle = begin(pair(Step()), threat=Linf(math.inf), stop=False)
    for value in (0.9, 0.8, 0.85, 0.7):
        oracle.scores(at(value, value, value))
    assert oracle.ledger.judged.tolist() == [1, 1, 1]  # the first; the others wait
    assert oracle.best.distance.tolist() == pytest.approx([0.3] * 3, abs=1e-6)  # which asks for the judge
    out = oracle.outcome()
    assert (out.queries - out.forwards).tolist() == [2, 2, 2]
    assert out.distance.tolist() == pytest.approx([0.3] * 3, abs=1e-6)
    assert out.queries_to_success.tolist() == [2, 2, 2]


@pytest.mark.parametrize("by", ["settle", "time", "try", "budget", "nan"])
def test_no_hit_that_waits_is_lost(by: str):
    oracle = begin(pair(Step()), threat=Linf(math.inf), stop=False)
    part = oracle.attempt(oracle.aim, 0)
    part.scores(at(0.9, 0.9, 0.9))
    small = part.part()
    small.keep(torch.tensor([1]))
    small.scores(at(0.7))
    match by:
        case "settle":
            part.settle(at(0.9, 0.9, 0.9))
        case "time":
            part.deadline = 0.0
            assert list(part.steps(1)) == []
        case "try":
            part.attempt(part.aim, 1)
        case "budget":
            part.budget = 3  # a look and a judgement, and for the second row another look
            part.scores(at(0.6, 0.6, 0.6))
            part.scores(at(0.55, 0.55, 0.55))
            assert oracle.outcome().distance.tolist() == pytest.approx([0.2, 0.3, 0.2], abs=1e-6)
            assert oracle.outcome().status == [Status.BROKEN] * 3
            return
        case "nan":
            part.scores(at(math.nan, math.nan, math.nan))
            assert not part.open.any()
    assert oracle.outcome().distance.tolist() == pytest.approx([0.5, 0.3, 0.5], abs=1e-6)


@pytest.mark.parametrize("rows", [None, torch.tensor([0, 1, 2])])
def test_what_waits_lies_in_the_set(rows: Tensor | None):
    """After a first hit, a nearer point above the bounds is none, and one inside is."""
    oracle = begin(pair(Step(at=0.0)), x=torch.full((3, 1), 0.9), threat=Linf(math.inf), stop=False)
    oracle.scores(at(0.1, 0.1, 0.1), rows=rows)
    oracle.scores(at(1.2, 1.2, 0.5), rows=rows)
    assert oracle.outcome().point[:, 0].tolist() == pytest.approx([0.1, 0.1, 0.5])


def test_a_hit_in_doubt_does_not_wait():
    """The guide turns at 0.45 and the judge at 0.5: hits within the slack are judged, and leave the one that holds."""
    oracle = begin(pair(Step(), Step(0.45), slack=0.2), threat=Linf(math.inf), stop=False)
    for value in (0.9, 0.7, 0.46, 0.44):
        oracle.scores(at(value, value, value))
    assert oracle.ledger.judged.tolist() == [3, 3, 3]  # 0.7 waits, 0.46 and 0.44 did not
    assert oracle.outcome().distance.tolist() == pytest.approx([0.3] * 3, abs=1e-6)


def test_a_hit_of_the_judges_own_waits_though_it_is_in_doubt_and_is_not_lost():
    """Of ever nearer ones, within the slack: the last is confirmed in the end."""
    oracle = begin(pair(Step(), slack=0.2), threat=Linf(math.inf), stop=False)
    for value in (0.9, 0.6, 0.55):
        oracle.reached(at(value, value, value))
    assert oracle.ledger.judged.tolist() == [3 + 1] * 3  # three questions, and the first success confirmed
    assert oracle.outcome().distance.tolist() == pytest.approx([0.15] * 3, abs=1e-6)


def test_recalled_successes_are_judged_and_cost_nothing():
    oracle = begin(pair(Step()), threat=Linf(math.inf), stop=False)
    oracle.recall(torch.tensor([0, 1]), at(0.6, 0.45))
    assert oracle.ledger.broken.tolist() == [True, False, False]
    oracle.recall(torch.tensor([0]), at(0.9))  # a farther one takes nothing away
    assert oracle.best.distance[0] == pytest.approx(0.2, abs=1e-6)
    oracle.recall(torch.tensor([2, 0]), at(0.8, 0.55))
    assert oracle.best.distance.tolist() == pytest.approx([0.15, math.inf, 0.4], abs=1e-6)
    assert oracle.ledger.queries.tolist() == [0, 0, 0]
    assert oracle.outcome().queries_to_success.tolist() == [-1, -1, -1]


def test_tries_start_on_open_rows_from_streams_of_their_own():
    oracle = begin(pair(Step()))
    oracle.scores(at(0.4, 0.55, 0.4))
    one, two = (oracle.attempt(oracle.aim, number) for number in (0, 1))
    assert one.ids.tolist() == two.ids.tolist() == [0, 2]
    assert not (one.stream.keys == two.stream.keys).any()
    one.scores(at(0.55, 0.45))
    assert oracle.open.tolist() == [False, False, True]
    assert oracle.attempt(oracle.aim, 2).ids.tolist() == [2]


def test_a_row_the_goal_does_not_fit_is_inapplicable_and_not_attacked():
    from mohs.threat import Targeted

    oracle = begin(pair(Step()), goal=Targeted(to=1), y=torch.tensor([0, 1, 0]))
    oracle.scores(at(0.55, 0.55, 0.45))
    out = oracle.outcome()
    assert out.status == [Status.BROKEN, Status.INAPPLICABLE, Status.SURVIVED]
    assert out.queries.tolist() == [2, 0, 1]


# derivatives


def test_gradient_and_jacobian_are_those_of_autograd():
    module = network(classes=5)
    x, y = labelled(module, 7)
    oracle = begin(pair(module, classes=5, rows=4), x, Linf(1.0), y=y, stop=False)
    classes = torch.stack([y, (y + 1) % 5, (y + 3) % 5], 1)
    answer = oracle.jacobian(x, classes)
    everything = torch.stack([torch.autograd.functional.jacobian(lambda p: module(p[None])[0], row) for row in x])
    want = everything[torch.arange(7)[:, None], classes]
    assert answer.gradient.shape == (7, 3, 1, 8, 8)
    torch.testing.assert_close(answer.gradient, want, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(answer.logits, module(x), atol=1e-6, rtol=1e-5)
    assert oracle.ledger.forwards.tolist() == [1] * 7
    assert oracle.ledger.backwards.tolist() == [3] * 7

    point = x.clone().requires_grad_()
    loss = cross_entropy(module(point), Aim(y))
    (gradient,) = torch.autograd.grad(loss.sum(), point)
    answer = oracle.gradient(x, cross_entropy)
    torch.testing.assert_close(answer.gradient, gradient, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(answer.loss, loss.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(answer.margin, Untargeted().margin(module(x), Aim(y)), atol=1e-6, rtol=1e-5)
    some = torch.tensor([6, 2, 2])  # candidates belong to the rows that are named
    torch.testing.assert_close(oracle.jacobian(x[some], classes[some], some).gradient, want[some], atol=1e-6, rtol=1e-4)
    assert oracle.ledger.backwards.tolist() == [4, 4, 10, 4, 4, 4, 7]


# random models


class Coin(nn.Module):
    """Class 1 with probability `chance`, whatever the input; notes what it draws."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance, self.drawn = chance, list[float]()

    def forward(self, x: Tensor) -> Tensor:
        toss = torch.rand(len(x), 1)
        self.drawn.append(float(toss[0]))
        z = (toss < self.chance).float() - 0.5 + 0 * x.flatten(1)[:, :1]
        return torch.cat([0 * z, z], 1)


@pytest.mark.parametrize(("chance", "status"), [(0.7, Status.BROKEN), (0.3, Status.SURVIVED)])
def test_a_hit_on_a_random_model_is_confirmed_on_fresh_draws(chance: float, status: Status):
    coin = Coin(chance)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        oracle = begin(pair(coin, Step(0.0), random=True))
        oracle.scores(at(0.4, 0.45, 0.5))  # the guide is sure of all three
    out = oracle.outcome()
    assert out.status == [status] * 3
    assert len(coin.drawn) == CONFIRM_DRAWS == 100
    assert (out.queries - out.forwards).tolist() == [100] * 3
    if status == Status.BROKEN:
        assert out.trials.tolist() == [100] * 3
        assert ((out.hits - 70).abs() < 20).all()


def test_at_least_half_of_the_draws_must_succeed():
    class Turns(nn.Module):
        """Class 1 at the first `hits` calls of a hundred."""

        def __init__(self, hits: int) -> None:
            super().__init__()
            self.hits, self.calls = hits, 0

        def forward(self, x: Tensor) -> Tensor:
            z = torch.full((len(x), 1), 1.0 if self.calls % 100 < self.hits else -1.0)
            self.calls += 1
            return torch.cat([0 * z, z], 1)

    for hits, reached in ((50, True), (49, False), (0, False)):
        judge = Judge(TorchModel(Turns(hits), classes=2, random=True), 16, 1)
        verdict = judge.confirm(torch.zeros(2, 1), Untargeted(), Aim(torch.zeros(2, dtype=torch.int64)))
        assert verdict.reached.tolist() == [reached] * 2
        assert verdict.hits.tolist() == [hits] * 2
        assert verdict.trials.tolist() == [100] * 2


def test_answers_are_means_over_fresh_draws_and_all_are_counted():
    class Shaken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drawn = list[float]()

        def forward(self, x: Tensor) -> Tensor:
            shift = torch.rand(1)
            self.drawn.append(float(shift))
            z = (x - 2 - shift) * (1 + shift)
            return torch.cat([0 * z, z], 1)

    module = Shaken()
    oracle = begin(pair(module, random=True), draws=8)
    before = torch.random.get_rng_state()
    answer = oracle.gradient(at(0.4, 0.45, 0.5), logit_difference)
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's generator is left alone
    first = torch.tensor(module.drawn)
    assert len(first) == len(set(module.drawn)) == 8
    torch.testing.assert_close(answer.margin, ((at(0.4, 0.45, 0.5) - 2 - first) * (1 + first)).mean(1))
    torch.testing.assert_close(answer.gradient[:, 0], (1 + first).mean().expand(3))
    assert oracle.ledger.forwards.tolist() == oracle.ledger.backwards.tolist() == [8] * 3
    oracle.scores(at(0.4, 0.45, 0.5))
    assert len(set(module.drawn)) == 16  # the next call draws anew
    assert oracle.ledger.forwards.tolist() == [16] * 3
    assert oracle.ledger.backwards.tolist() == [8] * 3

    again = Shaken()
    begin(pair(again, random=True), draws=8).gradient(at(0.4, 0.45, 0.5), logit_difference)
    assert again.drawn == module.drawn[:8]  # by address: the same question, the same draws
    other = Shaken()
    begin(pair(other, random=True), draws=8, seed=1).gradient(at(0.4, 0.45, 0.5), logit_difference)
    assert not set(other.drawn) & set(module.drawn)


def test_labels_of_a_random_model_are_fresh_too():
    coin = Coin(0.0)
    oracle = begin(pair(coin, random=True), threat=Linf(0.2, knowledge=Knowledge.LABEL))
    for _ in range(6):
        oracle.reached(at(0.4, 0.4, 0.4))
    assert len(set(coin.drawn)) == 6


# Attack.__call__


@dataclass(frozen=True, kw_only=True)
class Still(Attack):
    """Goes nowhere."""

    paper = "none"

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        for _ in oracle.steps(3):
            oracle.gradient(x0, cross_entropy)
            (x0,) = oracle.compact(x0)
        return threat.origin(x0)


def test_clean_errors_are_broken_at_distance_zero_and_not_attacked():
    module = network()
    x, y = labelled(module, 16)  # every eighth is wrong
    out = Still()(module, x, y, threat="linf:0.1")
    wrong = torch.arange(16) % 8 == 0
    assert torch.equal(out.broken, wrong)
    assert (out.distance[wrong] == 0).all()
    assert (out.distance[~wrong] == torch.inf).all()
    assert torch.equal(out.adversarial, x)
    assert torch.equal(out.label[wrong], module(x).argmax(1)[wrong])
    assert (out.forwards[wrong] == 0).all()
    assert (out.forwards[~wrong] == 3).all()
    assert out.status[1] == Status.SURVIVED


@pytest.mark.parametrize("threat", ["linf:0.1", "linf:0.1+knowledge:transfer"])
def test_a_clean_input_that_is_wrong_by_a_tie_is_broken(threat: str):
    """No class is above the label, so that no goal is reached, and yet the answer is another. Class 2 is the refusal of a
    detector: a clean input that it refuses is an error, too."""

    class Even(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0 * x, 0 * x, x - 0.7], 1)

    x, y = torch.tensor([[0.2], [0.2], [0.2], [0.9]]), torch.tensor([0, 1, 1, 0])
    for rejected in (None, 2):
        model = TorchModel(Even().eval(), classes=3)
        model.rejected = rejected
        prepared = Prepared(Judge(model, 16, 1, exact=model.double()), Guide(model, 16, 1), surrogate=Guide(model, 16, 1))
        out = Still()(prepared, x, y, threat=threat)
        assert out.broken.tolist() == [False, True, True, True]
        assert (out.distance[out.broken] == 0).all()
        assert Still()(prepared, x, y, threat=threat, goal="targeted:0").status == [
            Status.INAPPLICABLE,
            Status.SURVIVED,
            Status.SURVIVED,
            Status.INAPPLICABLE,
        ]


def test_the_last_point_is_always_judged():
    class Blind(Still):
        def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
            return x0 + 0.15

    out = Blind()(pair(Step()), torch.full((3, 1), 0.4), torch.zeros(3, dtype=torch.int64), threat="linf:0.2")
    assert out.broken.all()
    assert out.forwards.tolist() == [0] * 3


def test_every_step_is_run_where_nothing_stops():
    x, y = torch.full((3, 1), 0.45), torch.zeros(3, dtype=torch.int64)
    attack = PGD(steps=6, step_size=1.0, random_start=False)
    assert attack(pair(Step()), x, y, threat="linf:0.2").forwards.tolist() == [2] * 3
    assert attack(pair(Step()), x, y, threat="linf:0.2", stop=False).forwards.tolist() == [6] * 3


# padding


def test_calls_are_padded_to_the_quantum_and_split_into_micro_batches():
    noted = Noted(network(classes=4))
    x = torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batched = Batched(TorchModel(noted.eval(), classes=4), rows=8, quantum=4)
    assert batched.logits(x[:3]).shape == (3, 4)
    assert batched.logits(x[:4]).shape == (4, 4)
    assert batched.logits(x[:5]).shape == (5, 4)
    assert noted.calls == [4, 4, 8]
    noted.calls.clear()
    assert batched.scores(x).shape == (11, 4)
    assert noted.calls == [8, 4]
    assert torch.equal(batched.padded(x[:3]), x[[0, 1, 2, 0]])
    torch.testing.assert_close(batched.scores(x), noted.inner(x), atol=1e-6, rtol=1e-5)
    assert batched.logits(x[:3].double().float()).dtype == torch.float32


class Uneven(nn.Module):
    """Other bits unless the number of rows is a multiple of `size`, or wherever a row does not stand first."""

    def __init__(self, size: int = 1, places: bool = False) -> None:
        super().__init__()
        self.size, self.places = size, places

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1)[:, :3] * 1.0
        if len(x) % self.size:
            z = z * (1 + 1e-6)
        return z + torch.arange(len(x))[:, None] * 1e-5 if self.places else z


@pytest.mark.parametrize(("module", "quantum"), [(Uneven(), 1), (Uneven(2), 2), (Uneven(8), 8), (Uneven(places=True), 32)])
def test_the_quantum_is_measured(module: nn.Module, quantum: int):
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    assert measure_quantum(TorchModel(module, classes=3), x, 32) == quantum


def test_the_quantum_is_that_of_the_gradient_too():
    class Sloped(nn.Module):
        """The same logits in any company, and another gradient at odd numbers of rows."""

        def forward(self, x: Tensor) -> Tensor:
            z = x.flatten(1)[:, :3]
            return z + (z - z.detach()) * (1e-4 if len(x) % 4 else 0.0)

    model: Model = TorchModel(Sloped(), classes=3)
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    assert measure_quantum(model, x, 16) == 4
    model.gives = Knowledge.SCORES
    assert measure_quantum(model, x, 16) == 1


def test_company_changes_no_bit_at_the_quantum_prepared():
    x = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    prepared = prepare(TorchModel(Uneven(4), classes=3), x, rows=16)
    assert prepared.judge.quantum == prepared.guide.quantum == 4
    whole = prepared.guide.scores(x)
    for rows in (torch.tensor([3]), torch.tensor([5, 1, 7]), torch.arange(11, -1, -1)):
        assert torch.equal(prepared.guide.scores(x[rows]), whole[rows])


# folding and preparing


class Normed(nn.Module):
    """Two convolutions with batch norm, in shapes that may or may not be folded."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 64, 5)
        for norm in (self.norm, self.norm2):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.2, 2.0)
            norm.weight.data.uniform_(0.5, 2.0)
            norm.bias.data.uniform_(-0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv(x)
        h = self.norm(first).relu()
        match self.kind:
            case "two consumers":
                h = h + first
            case "conv called twice":
                h = h + self.norm(self.conv(x + 0.1))
            case "norm called twice":
                h = self.norm(h)
            case "norm of a sum":
                h = self.norm(self.conv(x) + x)
        h = self.norm2(self.conv2(h)).relu()
        out: Tensor = self.head(h.flatten(1))
        return out


def normed(kind: str = "plain") -> Normed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Normed(kind).eval()


def images(n: int = 8) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_batch_norm_is_folded_and_the_logits_stay():
    module = normed()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    folded, count = fold_batch_norm(module)
    assert count == 2
    assert not any(isinstance(part, nn.BatchNorm2d) for name, part in folded.named_modules() if name in _called(folded))
    torch.testing.assert_close(folded(images()), module(images()), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def _called(traced: nn.Module) -> set[str]:
    return {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}


@pytest.mark.parametrize("kind", ["two consumers", "conv called twice", "norm called twice", "norm of a sum"])
def test_what_has_other_uses_is_not_folded(kind: str):
    module = normed(kind)
    folded, count = fold_batch_norm(module)
    assert count == 1  # the second pair alone
    assert "norm" in _called(folded)
    torch.testing.assert_close(folded(images()), module(images()), atol=1e-5, rtol=1e-4)


def _hook(module: nn.Module) -> None:
    module.conv.register_forward_hook(lambda part, args, out: out * 2)


def _pre_hook(module: nn.Module) -> None:
    module.norm.register_forward_pre_hook(lambda part, args: (args[0] + 1,))


def _train(module: nn.Module) -> None:
    module.norm.train()


def _parametrise(module: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(module.conv)


def _no_statistics(module: nn.Module) -> None:
    module.norm = nn.BatchNorm2d(4, track_running_stats=False).eval()


@pytest.mark.parametrize("change", [_hook, _pre_hook, _train, _parametrise, _no_statistics])
def test_what_is_watched_or_in_motion_is_not_folded(change):
    module = normed()
    change(module)
    want = module(images())
    folded, count = fold_batch_norm(module)
    assert count == 1
    assert "norm" in _called(folded)
    torch.testing.assert_close(folded(images()), want, atol=1e-5, rtol=1e-4)


class Shifted(nn.Module):
    """The usual first line of a network, in several spellings."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner = kind, normed()
        self.register_buffer("mean", torch.tensor([0.4]).view(1, 1, 1, 1))
        self.register_buffer("std", torch.tensor([0.2]).view(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "operators":
                z = (x - self.mean) / self.std
            case "functions":
                z = torch.div(torch.sub(x, self.mean), self.std)
            case "twice the mean":
                z = torch.sub(x, self.mean, alpha=2) / self.std
            case "rounded down":
                z = torch.div(x - self.mean, self.std, rounding_mode="floor")
            case "two consumers":
                shifted = x - self.mean
                z = shifted / self.std + shifted
            case _:
                z = (self.mean - x) / x.mean()
        out: Tensor = self.inner(z)
        return out


@pytest.mark.parametrize(
    ("kind", "count"),
    [("operators", 1), ("functions", 1), ("twice the mean", 0), ("rounded down", 0), ("two consumers", 0), ("reversed", 0)],
)
def test_normalisation_is_folded_where_it_is_one(kind: str, count: int):
    module = Shifted(kind).eval()
    folded, found = fold_normalisation(module)
    assert found == count
    torch.testing.assert_close(folded(images()), module(images()), atol=1e-4, rtol=1e-4)
    assert set(module.state_dict()) == set(Shifted(kind).state_dict())


def test_a_prepared_guide_says_what_was_done_and_answers_the_same(monkeypatch: pytest.MonkeyPatch):
    module = normed()
    monkeypatch.setattr(prepared_module, "CONVOLUTIONS", 2)
    prepared = prepare(TorchModel(module, classes=5), images(), rows=16)
    log = "; ".join(prepared.guide.log)
    assert "fold batch norm: kept" in log
    assert "channels last: kept" in log
    assert prepared.guide.model is not prepared.judge.model
    assert prepared.judge.model.module is module
    assert prepared.judge.exact is not None
    exact = prepared.judge.exact.logits(images().double())
    assert torch.allclose(exact, prepared.judge.scores(images()).double(), atol=1e-4)
    assert exact.dtype == torch.float64
    seen = float((prepared.guide.scores(images()) - prepared.judge.scores(images())).abs().max())
    assert 0 < 4 * seen <= prepared.guide.slack < 1e-3
    assert prepare(TorchModel(module, classes=5), images(), accelerate=False).guide.model.module is module


def test_a_step_that_changes_the_outputs_is_dropped():
    class Cancelling(Normed):
        """Folded, what the norm subtracts goes before it is rounded."""

        def __init__(self) -> None:
            super().__init__()
            self.conv.bias.data += 3e4
            self.norm.running_mean += 3e4

    with torch.random.fork_rng():
        torch.manual_seed(0)
        cancelling = Cancelling().eval()
    prepared = prepare(TorchModel(cancelling, classes=5), images(), rows=16)
    assert prepared.guide.log[0].startswith("fold batch norm: dropped (logits within")
    drift = (prepared.guide.scores(images()) - prepared.judge.scores(images())).abs().max()
    assert float(drift) <= prepared.guide.slack


def test_a_step_that_bends_the_gradient_is_dropped(monkeypatch: pytest.MonkeyPatch):
    class Bent(nn.Module):
        """The same logits, and the gradient of something else."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.detach()) + self.inner(x.flip(3)) - self.inner(x.flip(3)).detach()

    monkeypatch.setattr(prepared_module, "CONVOLUTIONS", 2)
    monkeypatch.setattr(prepared_module, "_channels_last", Bent)
    prepared = prepare(TorchModel(normed(), classes=5), images(), rows=16)
    assert prepared.guide.log[0].startswith("fold batch norm: kept")
    assert prepared.guide.log[-1].startswith("channels last: dropped (logits within")
    assert "gradient cosine" in prepared.guide.log[-1]
    assert not any(isinstance(part, Bent) for part in prepared.guide.model.module.modules())

    def breaks(module: nn.Module) -> nn.Module:
        raise RuntimeError("no such layout")

    monkeypatch.setattr(prepared_module, "_channels_last", breaks)
    assert prepare(TorchModel(normed(), classes=5), images(), rows=16).guide.log[-1] == "channels last: dropped (no such layout)"


def test_random_models_are_left_untouched():
    prepared = prepare(TorchModel(normed(), classes=5, random=True), images())
    assert prepared.guide.log == ("untouched: random",)
    assert prepared.guide.model is prepared.judge.model
    assert (prepared.judge.quantum, prepared.guide.slack, prepared.judge.exact) == (1, 0.0, None)


def test_streams_of_an_oracle_are_addressed_by_example():
    oracle = begin(pair(Step()), stage="one")
    assert torch.equal(oracle.stream.keys, Stream.of(0, torch.arange(3)).at("one").keys)
    assert replace(oracle).stream is oracle.stream


class Blind(Step):
    """Says nothing of points above 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.flatten(1)[:, :1] > 0.5, torch.nan, super().forward(x))


def test_what_has_no_answer_is_closed_with_its_reason_and_never_robust() -> None:
    """A clean input without one, and a point that the guide takes for a success and of which the judge says nothing."""
    clean = torch.tensor([[0.1, 0.0], [math.nan, 0.0], [0.1, 0.0]])
    assert begin(pair(Step()), reference=clean).open.tolist() == [True, False, True]
    oracle = begin(pair(Blind(), Step()))
    oracle.scores(at(0.55, 0.45, 0.55))
    oracle.settle(at(0.45, 0.45, 0.45))
    outcome = oracle.outcome()
    assert [status == Status.SURVIVED for status in outcome.status] == [False, True, False]
    assert "nan" in outcome.reason[0].lower() or "finite" in outcome.reason[0]


# a call by itself


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda m, x, y: (m, 255 * x, y), DataError, "outside the bounds"),
        (lambda m, x, y: (m, x, y + 5), DataError, "labels run from 5 to 6 and the model has 2 classes"),
        (lambda m, x, y: (m, x, y[:5]), DataError, "there are 8 examples and 5 labels"),
        (lambda m, x, y: (prepare(as_model(m, x), x), x, y[:5]), DataError, "there are 8 examples and 5 labels"),
        (lambda m, x, y: (m, x, y.float()), DataError, "the labels are torch.float32"),
        (lambda m, x, y: (m, (255 * x).byte(), y), DataError, "the examples are torch.uint8"),
        (lambda m, x, y: (m, x / 0, y), DataError, "NaN or infinity"),
        (lambda m, x, y: (m, x.numpy().astype(object), y), DataError, "x is object; expected an array of numbers"),
        (
            lambda m, x, y: (nn.Sequential(m, nn.Softmax(1)), x, y),
            ModelError,
            "they are probabilities; say --outputs probabilities",
        ),
    ],
)
def test_what_cannot_be_attacked_is_said_before_the_model_is_attacked(spoil, error, words):
    module = nn.Linear(4, 2)
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    model, bad, labels = spoil(module, x, torch.arange(8) % 2)
    with pytest.raises(error, match=words):
        PGD(steps=1)(model.eval() if isinstance(model, nn.Module) else model, bad, labels, threat="linf:0.1")


def test_arrays_are_attacked_as_tensors_are():
    module = nn.Linear(4, 2).eval()
    x, y = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    one, two = (PGD(steps=2)(module, *data, threat="linf:0.1") for data in ((x, y), (x.numpy(), y.numpy())))
    assert torch.equal(one.adversarial, two.adversarial)
    assert one.status == two.status
