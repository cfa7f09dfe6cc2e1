"""The verdict, from records made by hand: what counts as robust, and what must never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from mohs.errors import Contradiction, RunError
from mohs.store import Run
from mohs.store.compare import compare
from mohs.store.verdict import Score, ThreatVerdict, Verdict, union, verdict_of, wilson
from tests.hand_made import make_run, row, spec, stage, threat


def judge(folder: Path, n: int, rows: list[dict[str, Any]], *threats: dict[str, Any], **more: Any) -> Verdict:
    return verdict_of(make_run(folder / "run", spec(n, list(threats) or None, **more), rows))


def only(verdict: Verdict) -> ThreatVerdict:
    (threat,) = verdict.threats
    assert len(threat.ids) == len(threat.status) == len(threat.distance) == len(threat.y) == len(threat.by)
    return threat


def test_natural_and_boundary_error_sum_exactly_to_robust_error(tmp_path: Path) -> None:
    rows = [row(0, -1, "broken")]
    rows += [row(i, -1, "survived") for i in range(1, 7)]
    rows += [row(i, 0, "broken" if i < 3 else "survived") for i in range(1, 7)]
    rows += [row(i, 1, "broken" if i == 3 else "survived") for i in range(3, 7)]
    verdict = judge(tmp_path, 7, rows)
    found = only(verdict)
    assert (found.natural, found.boundary, found.score) == (1, 3, Score(robust=3, undecided=0, n=7))
    assert found.natural_error + found.boundary_error == pytest.approx(found.robust_error)
    assert found.robust_error == 4 / 7
    assert found.natural + found.boundary + found.score.robust + found.score.undecided == found.score.n
    assert found.by.tolist() == ["clean", "stage 0", "stage 0", "stage 1", "", "", ""]
    assert found.status.tolist() == ["broken"] * 4 + ["robust"] * 3
    assert found.label.tolist() == [1, 1, 1, 1, -1, -1, -1]
    assert verdict.clean == Score(robust=6, undecided=0, n=7)
    assert verdict.robust_accuracy == {"linf:0.1": 3 / 7}
    assert verdict.finished
    assert verdict.profile == "standard 1.0"


@pytest.mark.parametrize("status", ["undecided", "error"])
def test_what_is_no_evidence_widens_the_interval_and_is_never_robust(tmp_path: Path, status: str) -> None:
    rows = [row(i, -1, "survived") for i in range(4)]
    rows += [row(i, 0, "survived") for i in range(4)]
    rows += [row(i, 1, "survived") for i in range(3)] + [row(3, 1, status, reason="the endpoint is gone")]
    found = only(judge(tmp_path, 4, rows))
    assert found.score == Score(robust=3, undecided=1, n=4)
    assert (found.score.low, found.score.high) == (0.75, 1.0)
    assert found.score.interval == (wilson(3, 4)[0], wilson(4, 4)[1])
    assert found.reasons == {f"{status}: the endpoint is gone": 1}
    assert str(found.score).startswith("75.0% to 100.0% [")
    assert getattr(found.stages[1], {"undecided": "undecided", "error": "errors"}[status]) == 1


def test_an_error_in_a_measuring_stage_is_not_robustness_either(tmp_path: Path) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "survived"), row(0, 1, "error", reason="crashed")]
    found = only(judge(tmp_path, 1, rows, threat(stages=[stage("a"), stage("b", kind="measure")])))
    assert found.score == Score(robust=0, undecided=1, n=1)


def test_an_error_before_a_success_is_broken(tmp_path: Path) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "error", reason="crashed"), row(0, 1, "broken")]
    assert only(judge(tmp_path, 1, rows)).status.tolist() == ["broken"]


def test_a_stage_that_did_not_run_leaves_its_rows_undecided(tmp_path: Path) -> None:
    rows = [row(i, -1, "survived") for i in range(3)] + [row(i, 0, "survived") for i in range(3)] + [row(0, 1, "survived")]
    found = only(judge(tmp_path, 3, rows))
    assert found.score == Score(robust=1, undecided=2, n=3)
    assert found.reasons == {"not every stage has run": 2}


def test_examples_that_a_run_never_saw_are_undecided(tmp_path: Path) -> None:
    rows = [row(i, -1, "survived") for i in range(2)] + [row(i, s, "survived") for i in range(2) for s in (0, 1)]
    run = make_run(tmp_path / "run", spec(5), rows, complete=False)
    verdict = verdict_of(run)
    assert not verdict.finished
    assert verdict.clean == Score(robust=2, undecided=3, n=5)
    assert only(verdict).score == Score(robust=2, undecided=3, n=5)
    assert only(verdict).reasons == {"the run has not reached them": 3}
    assert only(verdict).accuracy_at(1.0) == 1.0


def test_a_clean_answer_that_never_came_is_undecided(tmp_path: Path) -> None:
    rows = [row(0, -1, "undecided", label=-1, reason="no answer"), row(1, -1, "survived")]
    rows += [row(i, s, "survived") for i in range(2) for s in (0, 1)]
    verdict = judge(tmp_path, 2, rows)
    assert verdict.clean == Score(robust=1, undecided=1, n=2)
    assert only(verdict).score == Score(robust=1, undecided=1, n=2)


def test_an_empty_run_says_nothing(tmp_path: Path) -> None:
    found = only(verdict_of(make_run(tmp_path / "run", spec(3), [], complete=False)))
    assert found.score == Score(robust=0, undecided=3, n=3)
    assert found.score.interval == (0.0, 1.0)


def test_inapplicable_stages_are_not_waited_for_and_do_not_count(tmp_path: Path) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "survived")]
    found = only(judge(tmp_path, 1, rows, threat(stages=[stage("a"), stage("b", inapplicable="needs gradients")])))
    assert found.score == Score(robust=1, undecided=0, n=1)
    assert [s.inapplicable for s in found.stages] == [None, "needs gradients"]
    assert [s.tried for s in found.stages] == [1, 0]


def test_nothing_is_robust_where_no_stage_applies(tmp_path: Path) -> None:
    stages = [stage("a", inapplicable="needs gradients"), stage("b", kind="measure")]
    rows = [row(0, -1, "survived"), row(0, 1, "survived")]
    found = only(judge(tmp_path, 1, rows, threat(stages=stages)))
    assert found.score == Score(robust=0, undecided=1, n=1)
    assert found.reasons == {"no attack of the profile that decides applies": 1}


def test_a_row_to_which_a_stage_does_not_apply_needs_another_that_does(tmp_path: Path) -> None:
    rows = [row(i, -1, "survived") for i in range(2)]
    rows += [row(0, 0, "survived"), row(1, 0, "inapplicable", reason="no such target")]
    rows += [row(i, 1, "inapplicable", reason="no such target") for i in range(2)]
    found = only(judge(tmp_path, 2, rows))
    assert found.status.tolist() == ["robust", "undecided"]
    assert [s.tried for s in found.stages] == [1, 0]


def test_a_proof_is_enough(tmp_path: Path) -> None:
    """What a certificate leaves open is robust where it withstood the attacks, and open all the same."""
    stages = [stage("crown", kind="prove"), stage("a")]
    rows = [row(i, -1, "survived") for i in range(3)] + [row(0, 0, "proved")]
    rows += [row(i, 0, "undecided") for i in (1, 2)] + [row(1, 1, "survived"), row(2, 1, "broken")]
    found = only(judge(tmp_path, 3, rows, threat(stages=stages)))
    assert found.status.tolist() == ["robust", "robust", "broken"]
    assert found.proved.tolist() == [True, False, False]
    assert found.certified == Score(1, 1, 3)
    assert found.score == Score(2, 0, 3)
    assert found.open.tolist() == [1]


def test_proved_and_broken_at_once_is_a_fault(tmp_path: Path) -> None:
    rows = [row(i, -1, "survived") for i in range(2)] + [row(i, 0, "proved") for i in range(2)]
    assert only(judge(tmp_path / "a", 2, [*rows, row(1, 1, "broken", distance=1.0)])).status.tolist() == ["robust", "robust"]
    with pytest.raises(Contradiction, match="attacked: 1"):
        judge(tmp_path / "b", 2, [*rows, row(1, 1, "broken")])


def test_a_measured_success_counts_inside_the_budget_only(tmp_path: Path) -> None:
    distances = [0.04, 0.1, 0.1 * (1 + 1e-7), 0.11, 0.4]
    rows = [row(i, -1, "survived") for i in range(5)] + [row(i, 0, "survived") for i in range(5)]
    rows += [row(i, 1, "broken", distance=d) for i, d in enumerate(distances)]
    found = only(judge(tmp_path, 5, rows, threat(stages=[stage("a"), stage("b", kind="measure")])))
    assert found.status.tolist() == ["broken"] * 3 + ["robust"] * 2
    assert found.distance.tolist() == distances
    assert found.label.tolist() == [1, 1, 1, -1, -1]
    assert [found.accuracy_at(e) for e in (0.0, 0.04, 0.1, 0.2, 0.4)] == [1.0, 0.8, 0.4, 0.2, 0.0]
    assert found.accuracy_at(found.epsilon) == found.score.low


def test_rounding_is_forgiven_everywhere_alike(tmp_path: Path) -> None:
    plan = threat(stages=[stage("a")]) | {"rounding": 1e-3}
    rows = [row(0, -1, "survived"), row(0, 0, "broken", distance=0.1005)]
    found = only(judge(tmp_path, 1, rows, plan))
    assert found.status.tolist() == ["broken"]
    assert found.accuracy_at(found.epsilon) == found.score.low == 0.0


def test_the_least_distance_is_kept_and_the_first_stage_named(tmp_path: Path) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "broken", distance=0.09, label=4), row(0, 1, "broken", distance=0.02, label=7)]
    found = only(judge(tmp_path, 1, rows))
    assert (found.distance.tolist(), found.by.tolist(), found.label.tolist()) == ([0.02], ["stage 0"], [4])


def test_only_counts_what_others_tried_and_did_not_break(tmp_path: Path) -> None:
    stages = [stage("a"), stage("b"), stage("c", kind="measure")]
    rows = [row(i, -1, "survived") for i in range(5)]
    rows += [row(0, 0, "broken")] + [row(i, 0, "survived") for i in range(1, 5)]  # 0: nobody else tried on its own
    rows += [row(1, 1, "broken"), row(2, 1, "broken")] + [row(i, 1, "survived") for i in (3, 4)]
    rows += [row(i, 2, "broken") for i in range(4)]  # 0, 1, 2 again, from the successes before it; 3 by itself
    rows += [row(4, 2, "broken", distance=0.3)]  # outside the budget
    found = only(judge(tmp_path, 5, rows, threat(stages=stages)))
    assert [s.only for s in found.stages] == [0, 2, 1]
    assert [s.broken for s in found.stages] == [1, 2, 4]
    assert [s.tried for s in found.stages] == [5, 4, 5]
    assert found.by.tolist() == ["stage 0", "stage 1", "stage 1", "stage 2", ""]


def test_only_is_nobodys_where_two_broke_it(tmp_path: Path) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "broken"), row(0, 1, "broken")]
    assert [s.only for s in only(judge(tmp_path, 1, rows)).stages] == [0, 0]


def test_costs_are_summed_by_stage(tmp_path: Path) -> None:
    rows = [row(i, -1, "survived") for i in range(3)] + [row(i, 0, "survived", forwards=10 + i, seconds=0.5) for i in range(3)]
    (first, second) = only(judge(tmp_path, 3, rows)).stages
    assert (first.forwards, first.backwards, first.queries, first.seconds) == (33, 6, 9, 1.5)
    assert (second.forwards, second.backwards, second.queries, second.seconds) == (0, 0, 0, 0.0)


def test_several_goals_are_cases_of_their_own_and_need_not_apply(tmp_path: Path) -> None:
    """Two examples, two targets: example 0 is of class 0 already, so the first target is no goal for it."""
    rows = [row(0, -1, "inapplicable", target=0), row(1, -1, "survived", target=0, y=1, label=1)]
    rows += [row(i, -1, "survived", goal=1, target=2, y=i, label=i) for i in range(2)]
    rows += [row(1, s, "survived", target=0, y=1) for s in (0, 1)]
    rows += [row(0, 0, "broken", goal=1, target=2, label=2)]
    rows += [row(1, s, "survived", goal=1, target=2, y=1) for s in (0, 1)]
    verdict = judge(tmp_path, 2, rows, goals=["targeted:0", "targeted:2"])
    found = only(verdict)
    assert found.score == Score(robust=2, undecided=0, n=3)
    assert sorted(zip(found.ids.tolist(), found.goals.tolist(), found.status.tolist(), strict=True)) == [
        (0, 1, "broken"),
        (1, 0, "robust"),
        (1, 1, "robust"),
    ]
    assert verdict.clean == Score(robust=2, undecided=0, n=2)


def test_threats_do_not_mix(tmp_path: Path) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "survived"), row(0, 1, "survived"), row(0, 0, "broken", threat=1)]
    verdict = judge(tmp_path, 1, rows, threat("linf:0.1"), threat("linf:0.2", 0.2))
    assert [t.score.robust for t in verdict.threats] == [1, 0]
    assert list(verdict.robust_accuracy) == ["linf:0.1", "linf:0.2"]


def test_a_goal_that_applies_nowhere(tmp_path: Path) -> None:
    found = only(judge(tmp_path, 2, [row(i, -1, "inapplicable") for i in range(2)]))
    assert found.score.n == 0
    assert np.isnan([found.score.low, found.natural_error, found.boundary_error, found.robust_error]).all()
    assert str(found.score) == "no example"


def test_an_unlimited_budget_breaks_whatever_was_reached(tmp_path: Path) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "broken", distance=9.0), row(1, -1, "survived"), row(1, 0, "survived")]
    run = make_run(tmp_path / "run", spec(2, [threat("linf:inf", np.inf, [stage("a", kind="measure")])]), rows)
    found = only(verdict_of(Run.open(run.folder)))
    assert found.epsilon == np.inf
    assert found.status.tolist() == ["broken", "undecided"]


@pytest.mark.parametrize("n", [1, 2, 7, 128, 10_000])
def test_wilson_against_scipy(n: int) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        known = binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert wilson(k, n) == pytest.approx((known.low, known.high), abs=1e-12)


def test_wilson_against_known_values() -> None:
    """Newcombe, Statistics in Medicine 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    known = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (k, n), interval in known.items():
        assert wilson(k, n) == pytest.approx(interval, abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 9)[0] == 0.0
    assert wilson(9, 9)[1] == 1.0


# two runs


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("goal", {"plan": {"goals": ["topk:2"]}}),
        ("time limit", {"plan": {"time": 60.0}}),
        ("profile", {"plan": {"profile": {"name": "standard", "version": "2.0", "words": ""}}}),
        ("data", {"data": {"sha256": "another"}}),
    ],
)
def test_runs_of_other_questions_are_not_compared(tmp_path: Path, what: str, change: dict[str, dict[str, Any]]) -> None:
    rows = [row(0, -1, "survived"), row(0, 0, "survived"), row(0, 1, "survived")]
    asked = spec(1)
    other = {**asked, **{part: {**asked[part], **values} for part, values in change.items()}}
    one, two = make_run(tmp_path / "one", asked, rows), make_run(tmp_path / "two", other, rows)
    assert compare(one, one)[0].n == 1
    with pytest.raises(RunError, match=f"differ in {what}"):
        compare(one, two)


def test_what_became_undecided_is_lost(tmp_path: Path) -> None:
    def run(name: str, status: str) -> Run:
        rows = [row(i, -1, "survived") for i in range(8)] + [row(i, 0, "survived") for i in range(8)]
        return make_run(tmp_path / name, spec(8), rows + [row(i, 1, status if i < 6 else "survived") for i in range(8)])

    (found,) = compare(run("before", "survived"), run("after", "undecided"))
    assert found.lost.tolist() == list(range(6))
    assert len(found.won) == 0
    assert (found.before, found.after) == (1.0, 0.25)
    assert found.p == 2 / 2**6
    assert found.fell


def test_a_union_is_of_the_same_cases(tmp_path: Path) -> None:
    ends = [("survived", "survived"), ("broken", "survived"), ("survived", "broken"), ("survived", "error"), ("broken", "error")]
    rows = [row(i, -1, "survived") for i in range(len(ends))]
    rows += [row(i, 0, end, threat=number) for i, both in enumerate(ends) for number, end in enumerate(both)]
    threats = [threat(text, stages=[stage("stage 0")]) for text in ("linf:0.1", "l2:1")]
    found = judge(tmp_path, len(ends) + 1, rows, *threats)  # and one that nobody reached
    assert [each.score.robust for each in found.threats] == [3, 2]
    assert union(found.threats) == Score(robust=1, undecided=2, n=6)
    assert union(found.threats[:1]) == found.threats[0].score
