"""The main job, end to end on small models."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mohs
from mohs.auditing import resume
from mohs.engine.work import Task, Worker
from mohs.errors import RequestError, RunError, ThreatError, UnknownName
from mohs.jobs import make_job
from mohs.request import Request, command
from mohs.store import Run, Unit
from mohs.store.verdict import verdict_of
from mohs.threat import Constraints, Linf
from tests.small import Linear, labelled, network

QUICK = {"profile": "quick", "rows": 16}


@pytest.fixture(scope="module")
def case():
    module = network()
    return module, labelled(module, 40)


@pytest.fixture(scope="module")
def result(case):
    module, data = case
    return mohs.audit(module, data, threats=["linf:0.05", "l2:0.3"], **QUICK)


def test_errors_sum_exactly(result):
    for threat in result.verdict.threats:
        assert threat.natural == 5  # one label in eight is wrong
        broken = int((threat.status == "broken").sum())
        assert broken == threat.natural + threat.boundary
        assert broken + threat.score.robust + threat.score.undecided == threat.score.n == 40
        assert math.isclose(threat.robust_error, threat.natural_error + threat.boundary_error)


def test_every_stored_success_stands_by_itself(result, case):
    """Twenty lines that know nothing of mohs: set, box and label of everything that counts."""
    module, (x, y) = case
    seen = 0
    limits = {0: (0.05, math.inf), 1: (0.3, 2)}
    for stored in result.run.examples():
        for k, i in enumerate(stored["ids"]):
            adversarial = torch.from_numpy(stored["adversarial"][k])
            epsilon, p = limits[int(stored["threat"][k])]
            distance = torch.linalg.vector_norm(adversarial.double() - x[i].double(), ord=p)
            assert abs(float(distance) - stored["distance"][k]) < 1e-9
            assert bool((adversarial >= 0).all())
            assert bool((adversarial <= 1).all())
            assert int(module(adversarial[None]).argmax()) != int(y[i])
            seen += bool(distance <= epsilon * (1 + 1e-6) + 2e-7)
    assert seen >= sum(threat.boundary for threat in result.verdict.threats) > 0


def test_a_linear_model_is_broken_exactly_where_theory_says():
    """At epsilon, a linear two-class model keeps the examples whose margin exceeds epsilon times the dual norm."""
    weight = torch.linspace(-1, 1, 24).view(2, 12)
    x = torch.rand(64, 1, 3, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3  # no box within reach
    module = Linear(weight, torch.tensor([0.0, -5.5])).eval()
    y = module(x).argmax(1)
    w = weight[1] - weight[0]
    margin = (x.flatten(1) @ w - 5.5).abs()
    for text, dual in (("linf:0.01", w.abs().sum()), ("l2:0.05", w.norm())):
        result = mohs.audit(module, (x, y), threats=[text], profile="quick", rows=64)
        epsilon = float(text.partition(":")[2])
        threat = result.verdict.threats[0]
        assert threat.score.robust == int((margin > epsilon * dual).sum())
        assert 0 < threat.score.robust < 64
        truth = (margin / dual).numpy()  # and the curve is an upper bound, near the truth
        assert (threat.distance >= truth * (1 - 1e-4)).all()
        assert np.median(threat.distance / truth) < 1.1


def test_a_stage_that_measures_starts_from_what_is_known():
    """By scores alone it is a bisection, which finds nothing by itself: of every success it leaves a nearer one."""
    x = torch.rand(8, 1, 3, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    module = Linear(torch.linspace(-1, 1, 24).view(2, 12), torch.tensor([0.0, -5.5])).eval()
    found = mohs.audit(module, (x, module(x).argmax(1)), threats=["linf:0.3+knowledge:scores"], profile="quick", rows=16)
    records = found.run.records().to_pandas()
    first, last = (records[records.attack == name].set_index("id").distance for name in ("parsimonious", "curve"))
    assert len(first) == len(last) == 8
    assert (first < np.inf).sum() >= 4
    assert (last[first < np.inf] < first[first < np.inf]).all()


def test_robust_accuracy_of_random_labels_is_what_survives(result):
    assert result.clean_accuracy == 35 / 40
    assert set(result.robust_accuracy) == {"linf:0.05", "l2:0.3"}
    assert all(0 <= v < result.clean_accuracy for v in result.robust_accuracy.values())


def test_frame_save_and_report(result, tmp_path):
    frame = result.frame()
    assert len(frame) == 80
    saved = result.save(tmp_path / "kept")
    assert verdict_of(Run.open(saved)).robust_accuracy == result.robust_accuracy
    assert result.report(tmp_path / "r.html").stat().st_size > 1000


def test_the_callers_module_is_never_changed(case):
    module, data = case
    before = {k: v.clone() for k, v in module.state_dict().items()}
    grads = [p.requires_grad for p in module.parameters()]
    mohs.audit(module, data, threats=["linf:0.02"], limit=16, **QUICK)
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in before.items())
    assert grads == [p.requires_grad for p in module.parameters()]
    assert all(p.grad is None for p in module.parameters())
    assert not module.training


def test_micro_batches_and_company_change_nothing(case):
    """The same examples audited in other micro-batches, or fewer of them, get the same records."""
    module, data = case
    columns = ["id", "status", "distance", "margin", "forwards", "backwards", "label"]

    def records(rows: int, part: slice = slice(None)):
        found = mohs.audit(module, (data[0][part], data[1][part]), threats=["linf:0.05"], profile="quick", rows=rows)
        table = found.run.records().select([*columns, "stage"]).sort_by([("stage", "ascending"), ("id", "ascending")])
        return table.to_pylist()

    whole = records(16)
    assert records(32) == whole
    assert records(16, slice(0, 24)) == [row for row in whole if row["id"] < 24]


def test_a_random_model_is_confirmed_on_fresh_draws():
    class Noisy(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x + 0.02 * torch.randn_like(x))

    module = Noisy(network())
    x, y = labelled(module.inner, 12)
    result = mohs.audit(module.eval(), (x, y), threats=["linf:0.2"], **QUICK)
    assert result.run.spec["model"]["random"]
    rows = [r for r in result.run.records().to_pylist() if r["status"] == "broken" and r["stage"] == 0]
    assert len(rows) > 0
    assert all(r["trials"] == 100 and r["hits"] >= 50 for r in rows)


def test_a_model_that_breaks_is_an_error_not_robustness():
    class Poisoned(nn.Module):
        """NaN wherever the input left the grid of the data."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            off = (x * 16 - (x * 16).round()).abs().flatten(1).amax(1) > 1e-3
            return self.inner(x) + torch.where(off, torch.nan, 0.0)[:, None]

    inner = network()
    x = torch.randint(0, 17, (16, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 16
    y = inner(x).argmax(1)
    result = mohs.audit(Poisoned(inner).eval(), (x, y), threats=["linf:0.01"], profile="quick", rows=16)
    threat = result.verdict.threats[0]
    assert threat.score.robust == 0
    assert threat.score.undecided > 0
    assert "not finite" in " ".join(threat.reasons)


class Picky(nn.Module):
    """A network that raises where the first pixel of any row lies in (low, high)."""

    def __init__(self, inner: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.inner, self.low, self.high = inner, low, high

    def forward(self, x):
        first = x.flatten(1)[:, 0]
        if bool(((first > self.low) & (first < self.high)).any()):
            raise ValueError("reading out of range")
        return self.inner(x)


def test_rows_at_which_the_model_raises_are_errors_and_the_others_go_on():
    inner = network()
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 4 + 0.7
    x[9:, 0, 0, 0] = 0.5  # an attack brings these to where it raises
    data, options = (x, inner(x).argmax(1)), {"threats": ["linf:0.02"], "profile": "quick", "rows": 16}
    result = mohs.audit(Picky(inner, 0.47, 0.499).eval(), data, **options)
    found, known = (
        {(r["stage"], r["id"]): r | {"seconds": 0} for r in run.run.records().to_pylist()}
        for run in (result, mohs.audit(Picky(inner, 2.0, 3.0).eval(), data, **options))
    )
    failed = [key for key, row in found.items() if row["status"] == "error"]
    assert {i for _, i in failed} == {9, 10, 11}
    assert all("the model Picky raised ValueError: reading out of range" in found[key]["reason"] for key in failed)
    assert any(found[key]["forwards"] > 0 for key in failed)  # what was asked until then is counted
    assert {key: row for key, row in found.items() if key[1] < 9} == {key: row for key, row in known.items() if key[1] < 9}
    score = result.verdict.threats[0].score
    assert score.robust == sum(row["status"] == "survived" for (stage, i), row in found.items() if stage == 1 and i < 9)


def test_a_clean_input_at_which_the_model_raises_is_an_error():
    module = network()
    data = labelled(module, 8)
    job = make_job(module, data, threats=["linf:0.02"], profile="quick", rows=16)
    pixel = float(data[0][5, 0, 0, 0])
    picky = job.prepared.judge.model.twin(Picky(module, pixel - 1e-6, pixel + 1e-6))
    prepared = replace(job.prepared, judge=replace(job.prepared.judge, model=picky))
    table = Worker(job.plan, prepared, list(job.threats.values()), job.data).do(Task(Unit(-1, 0, -1, 0), np.arange(8), 16)).table
    assert [status == "error" for status in table["status"].to_pylist()] == [i == 5 for i in range(8)]
    assert table["id"].to_pylist() == list(range(8))


def test_a_part_of_a_unit_begins_from_what_is_known_of_its_own_rows():
    module = network()
    data = labelled(module, 8)
    job = make_job(module, data, threats=["linf:0.02"], profile="quick", rows=16)
    worker = Worker(job.plan, job.prepared, list(job.threats.values()), job.data)
    known = {"ids": job.data.ids.numpy(), "point": data[0].numpy()}
    assert worker.do(Task(Unit(0, 0, 2, 0), np.arange(4), 16, (known,))).table["id"].to_pylist() == [0, 1, 2, 3]


def test_what_the_guide_breaks_is_no_fault_of_the_model():
    """A guide's copy that raises steers nothing: the model itself does, and no row is in error."""
    module = network()
    data = labelled(module, 8)
    job = make_job(module, data, threats=["linf:0.02"], profile="quick", rows=16)
    guide = replace(job.prepared.guide, model=job.prepared.guide.model.twin(Picky(module, 0.0, 1.0)))
    worker = Worker(job.plan, replace(job.prepared, guide=guide), list(job.threats.values()), job.data)
    table = worker.do(Task(Unit(0, 0, 0, 0), np.arange(8), 16)).table
    assert "error" not in table["status"].to_pylist()
    assert worker.prepared.guide == guide


@pytest.mark.parametrize("threat", ["linf:0.01", "rotation:1deg"])
def test_a_clean_input_without_an_answer_is_neither_right_nor_robust(threat):
    class Gap(nn.Module):
        """Class 0 where the first pixel is above a half; nothing where the second is above 0.9."""

        def forward(self, x):
            first, second, *_ = x.flatten(1).split(1, 1)
            return torch.cat([first - 0.5, 0.5 - first], 1) + torch.where(second > 0.9, torch.nan, 0.0)

    x = torch.linspace(0.6, 0.8, 24)[:, None, None, None].repeat(1, 1, 2, 2)
    x[20:, 0, 0, 1] = 0.95
    result = mohs.audit(Gap().eval(), (x, torch.zeros(24).long()), threats=[threat], profile="quick", rows=16)
    assert (result.verdict.clean.robust, result.verdict.clean.undecided) == (20, 4)
    assert (result.verdict.threats[0].score.robust, result.verdict.threats[0].score.undecided) == (20, 4)


def test_goals_with_one_case_a_class(case):
    module, data = case
    result = mohs.audit(module, data, threats=["linf:0.1"], goal="targeted:all", limit=8, profile="quick", rows=16)
    threat = result.verdict.threats[0]
    assert threat.score.n == 8 * 9  # every class but the example's own
    targets = {(r["goal"], r["target"]) for r in result.run.records().to_pylist()}
    assert targets == {(g, g) for g in range(10)}


def test_time_limits_are_stamped(case):
    module, data = case
    result = mohs.audit(module, data, threats=["linf:0.05"], profile="standard", rows=16, time=0.5)
    assert "at most 0.5 s" in result.verdict.profile
    assert result.verdict.threats[0].score.undecided > 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threats": []}, RequestError, "needs a threat"),
        ({"threats": ["lnif:0.1"]}, UnknownName, "linf"),
        ({"threats": ["linf:8"]}, ThreatError, "outside the box"),
        ({"threats": ["linf:0.1"], "profile": "quikc"}, UnknownName, "quick"),
        ({"threats": ["linf:0.1"], "goal": "targeted:11"}, ThreatError, "classes 0 to 9"),
        ({"threats": ["linf:0.1"], "limit": 1000}, RequestError, "1000"),
        ({"threats": ["linf:0.1"], "speed": 3}, RequestError, "speed"),
        ({"threats": ["l0:3"], "profile": "standard"}, RequestError, "quick or deep"),
        ({"threats": ["linf:0.1", "linf:0.10"]}, RequestError, "linf:0.10 is linf:0.1 again"),
        (
            {"threats": [Linf(0.1, constraints=Constraints(mask=torch.eye(8) == k)) for k in (0, 1)]},
            RequestError,
            "two differ in their arrays alone",
        ),
        ({"threats": ["linf:0.1+knowledge:label"]}, RequestError, "say --attack rays"),
        (
            {"threats": ["linf:0.1+knowledge:label"], "goal": "topk:2"},
            RequestError,
            "Square needs scores, and the threat linf:0.1 grants label$",
        ),
        (
            {"threats": ["linf:0.1"], "goal": "source-target:3->5"},
            RequestError,
            "none of the 40 examples, which are of class 1, 2:",
        ),
        ({"threats": ["linf:0.1"], "method": "interval"}, RequestError, "--certify"),
    ],
)
def test_bad_requests_write_nothing(case, tmp_path, options, error, words):
    module, data = case
    with pytest.raises(error, match=words):
        mohs.audit(module, data, out=tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


def test_resume_refuses_other_data_or_another_model(case, tmp_path):
    module, data = case
    job = make_job(module, data, threats=["linf:0.05"], **QUICK)
    from mohs.jobs import describe

    Run.create(tmp_path / "run", describe(job))
    with pytest.raises(RunError, match="data"):
        resume(tmp_path / "run", model=module, data=(data[0][:8], data[1][:8]))
    with pytest.raises(RunError, match="model"):
        resume(tmp_path / "run", model=network(seed=3), data=data)
    done = resume(tmp_path / "run", model=module, data=data)
    assert done.run.complete


def test_the_command_line_that_asks_for_the_same():
    request = Request(
        model="m.pt2", data="d.npz", threats=["linf:8/255"], profile="quick", limit=10, require=["linf:8/255 >= 0.4"]
    )
    line = command(request)
    assert line == "mohs audit m.pt2 --data d.npz --threat linf:8/255 --limit 10 --profile quick --require 'linf:8/255 >= 0.4'"


def test_run_json_tells_given_from_defaulted(result):
    spec = json.loads((result.run.folder / "run.json").read_text())
    assert set(spec["request"]["given"]) == {"model", "data", "threats", "profile", "rows"}
    assert spec["request"]["defaulted"]["seed"] == 0
    assert spec["plan"]["quantum"] >= 1


class Undecided(nn.Module):
    """Every class has the same score, but for the first of two pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lit = (x.flatten(1)[:, :1] > 0.5).float()
        return torch.cat([lit, lit * 0, lit * 0], 1)


def test_what_the_model_gets_wrong_by_a_tie_is_not_robust() -> None:
    """A tie reaches no goal, since no class is above the label, yet the answer is another."""
    x = torch.full((12, 1, 2, 2), 0.2)
    x[:6, :, 0, 0] = 0.9
    y = torch.tensor([0, 0, 0, 1, 2, 1] * 2)
    result = mohs.audit(Undecided().eval(), (x, y), threats=["linf:0.1"], profile="scores")
    assert result.clean_accuracy == 0.5
    assert result.robust_accuracy["linf:0.1"] <= 0.5
