"""Detectors: closed forms, thresholds, curves, and a guarded model under attacks that know of it and that do not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

import mohs
from mohs.aim import Aim
from mohs.attacks import PGD
from mohs.data import Examples, load_digits
from mohs.detecting import ONE_STEP, joint, last_points
from mohs.detectors import (
    LID,
    METHODS,
    NRE,
    ROC,
    Detector,
    Guarded,
    MagNet,
    Mahalanobis,
    Method,
    Squeezing,
    guard,
    nre_loss,
    threshold_at,
)
from mohs.detectors.lid import lid
from mohs.detectors.magnet import divergence
from mohs.detectors.mahalanobis import Gaussian, fit_gaussian
from mohs.detectors.nre import relations
from mohs.detectors.squeezing import levels, median
from mohs.errors import DataError, ModelError, MohsError, RequestError, UnknownName
from mohs.ledger import Outcome
from mohs.losses import cross_entropy
from mohs.models import Model, TorchModel, as_model, prepare
from mohs.models.contract import check_contract
from mohs.models.cpu import threads
from mohs.oracle import Oracle
from mohs.report.html import render
from mohs.threat import Untargeted, parse_threat
from tests.small import network

THREAT = "linf:0.1"
SMALL = {"lid": {"references": 40, "k": 10}, "nre": {"steps": 5}}
NAMES = sorted(METHODS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A few epochs on digits: right on most, and easily fooled."""
    module = network()
    x, y = load_digits("train")
    with threads(1):
        adam = torch.optim.Adam(module.parameters(), 4e-3)
        for rows in [*torch.arange(len(x)).split(64)] * 8:
            adam.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            adam.step()
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def clean() -> Examples:
    x, y = load_digits("train")
    return Examples(x[:600], y[:600], torch.arange(600), "train")


@pytest.fixture(scope="module")
def digits() -> Examples:
    x, y = load_digits("test")
    return Examples(x[:48], y[:48], torch.arange(48), "test")


@pytest.fixture(scope="module")
def model(net: nn.Module, clean: Examples) -> Model:
    return as_model(net, clean.x)


@pytest.fixture(scope="module")
def detectors(model: Model, clean: Examples) -> dict[str, Detector]:
    twins = last_points(ONE_STEP, prepare(model, clean.x[:8]), clean, parse_threat(THREAT).facing(model), 0)
    part = slice(0, 400)
    return {
        name: METHODS[name].from_spec(SMALL.get(name, {})).fit(model, clean.x[part], clean.y[part], twins[part]) for name in NAMES
    }


@pytest.fixture(scope="module")
def guarded(detectors: dict[str, Detector], clean: Examples) -> dict[str, Guarded]:
    return {name: guard(detector, clean.x[400:]) for name, detector in detectors.items()}


# closed forms


def test_mahalanobis_is_the_distance_of_known_gaussians() -> None:
    means, root = draw(3, 4, seed=1), draw(4, 4, seed=2) + 2 * torch.eye(4)
    y = torch.arange(6000) % 3
    f = 4 * means[y] + draw(6000, 4, seed=3) @ root.T
    covariance, points = root @ root.T, draw(50, 4, seed=4)
    gap = (points[:, None] - 4 * means).numpy()
    want = np.einsum("ncd,de,nce->nc", gap, np.linalg.inv(covariance.numpy()), gap).min(1)
    exact = Gaussian(4 * means, torch.linalg.inv(covariance))(points)
    assert np.allclose(exact.numpy(), want)
    fitted = fit_gaussian(f, y)
    assert torch.allclose(fitted.means, 4 * means, atol=0.3)
    assert np.allclose(fitted(points).numpy(), want, rtol=0.15)


def test_a_unit_that_is_never_active_is_no_distance() -> None:
    f = torch.cat([draw(200, 2), torch.zeros(200, 1, dtype=torch.float64)], 1)
    fitted = fit_gaussian(f, torch.arange(200) % 2)
    point = torch.tensor([[0.3, 0.4, 0.0]], dtype=torch.float64)
    assert torch.allclose(fitted(point), fitted(point + torch.tensor([[0.0, 0.0, 5.0]])))


def test_input_preprocessing_moves_each_layer_toward_its_class(
    model: Model, detectors: dict[str, Detector], digits: Examples
) -> None:
    statistic = detectors["mahalanobis"].statistic
    before = statistic.distances(model, digits.x)[1]
    statistic.magnitude = 0.002
    after = statistic.distances(model, digits.x)[1]
    statistic.magnitude = 0.0
    assert bool((after.mean(0) < before.mean(0)).all())
    assert Mahalanobis(magnitude=0.002).differentiable is False


@pytest.mark.parametrize("dimension", [2, 5, 10])
def test_lid_is_the_dimension_of_a_ball(dimension: int) -> None:
    """Of points uniform in a ball, seen from its middle."""
    r = torch.rand(400, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** (1 / dimension)
    found = lid(r.sort(1).values[:, :100])
    assert float(found.mean()) == pytest.approx(dimension, rel=0.05)


def test_lid_is_the_formula_and_bears_ties() -> None:
    r = torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    want = -1 / ((math.log(1 / 4) + math.log(2 / 4)) / 3)
    found = lid(r)
    assert float(found[0]) == pytest.approx(want)
    assert bool(lid(torch.ones(1, 3)).isfinite())


def test_squeezers_are_those_of_the_paper() -> None:
    u = torch.rand(2, 3, 7, 6, generator=torch.Generator().manual_seed(0))
    for window in (2, 3):
        want = ndimage.median_filter(u.numpy(), size=(1, 1, window, window), mode="reflect")
        assert np.array_equal(median(u, window).numpy(), want), window
    values = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 1.0], requires_grad=True)
    assert torch.allclose(levels(values, 2), torch.tensor([0, 0, 1, 1, 2, 3]) / 3, atol=1e-6)
    assert torch.equal(torch.autograd.grad(levels(values, 2).sum(), values)[0], torch.ones(6))


def test_the_squeezing_score_is_the_largest_l1_distance(model: Model, detectors: dict[str, Detector], digits: Examples) -> None:
    x = digits.x[:4]
    p, one, two = (model.logits(v).softmax(1) for v in (x, x.round(), median(x, 2)))
    want = torch.maximum((p - one).abs().sum(1), (p - two).abs().sum(1))
    assert torch.allclose(detectors["squeezing"].score(x), want, atol=1e-6)
    assert bool((want <= 2).all())


def test_nre_loss_by_hand() -> None:
    r, back = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    near = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    far = torch.tensor([[[-1.0, -1.0], [1.0, -1.0]]])
    root = 1 / math.sqrt(2)
    want = 2 * (1 - root) + 3 * (0 + (1 - root)) + 5 * (-1 + 0)
    assert float(nre_loss(r, back, near, far, 2.0, 3.0, 5.0)) == pytest.approx(want, abs=1e-6)


def test_nre_relations_are_the_nearest_others_and_the_farthest() -> None:
    near, far = relations(torch.tensor([0.0, 1.0, 3.0, 10.0])[:, None], 2)
    assert [set(row) for row in near.tolist()] == [{1, 2}, {0, 2}, {0, 1}, {1, 2}]
    assert [set(row) for row in far.tolist()] == [{2, 3}, {2, 3}, {0, 3}, {0, 1}]


def test_divergence_is_that_of_jensen_and_shannon() -> None:
    one, two = draw(5, 4), draw(5, 4, seed=1)
    from scipy.spatial.distance import jensenshannon

    want = [jensenshannon(p, q) ** 2 for p, q in zip(one.softmax(1).numpy(), two.softmax(1).numpy(), strict=True)]
    assert np.allclose(divergence(one, two).numpy(), want)


# curves and thresholds


def test_roc_is_that_of_sklearn() -> None:
    clean, attacked = (draw(60).mul(4).round() / 4, (draw(40, seed=1) + 0.7).mul(4).round() / 4)
    roc, label = ROC.of(clean, attacked), np.r_[np.zeros(60), np.ones(40)]
    scores = torch.cat([clean, attacked]).numpy()
    fpr, tpr, _ = roc_curve(label, scores, drop_intermediate=False)
    assert np.allclose(roc.fpr.numpy(), fpr)
    assert np.allclose(roc.tpr.numpy(), tpr)
    assert roc.auroc == pytest.approx(roc_auc_score(label, scores))
    assert roc.tpr_at(0.05) == max(tpr[fpr <= 0.05])


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.29])
@pytest.mark.parametrize("n", [20, 100, 337])
def test_a_threshold_keeps_the_rate_of_false_alarms_and_no_lower_one_does(rate: float, n: int) -> None:
    scores = draw(n)
    threshold = threshold_at(scores, rate)
    assert int((scores > threshold).sum()) <= rate * n + 1e-9
    lower = scores[scores < threshold].max()
    assert int((scores > lower).sum()) > rate * n
    assert int((torch.ones(n) > threshold_at(torch.ones(n), rate)).sum()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_guarded_model_rejects_held_out_inputs_at_the_rate(name: str, guarded: dict[str, Guarded], clean: Examples) -> None:
    labels = guarded[name].logits(clean.x[400:]).argmax(1)
    assert int((labels == 10).sum()) <= 10
    scores = guarded[name].detector.scores(clean.x[400:])
    assert torch.equal(labels == 10, scores > guarded[name].threshold)


# a guarded model


class ByTheFirst(nn.Module):
    """Suspicious by the first entry."""

    def forward(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        return model.logits(x), x[:, 0]


def hand_made() -> Guarded:
    """Two entries: the class is that of the second, the first is rejected above 0.5."""
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
    inner = TorchModel(linear, classes=2, bounds=(-1.0, 1.0))
    return Guarded(Detector(inner, ByTheFirst(), "first"), 0.5, gain=2.0)


def test_joint_success_by_hand() -> None:
    model = hand_made()
    x = torch.tensor([[0.0, 0.5], [0.6, 0.5], [0.0, -0.5], [0.6, -0.5], [0.5, -0.5]])
    y = torch.ones(5, dtype=torch.long)
    assert model.logits(x).argmax(1).tolist() == [1, 2, 0, 2, 0]
    assert torch.allclose(model.logits(x)[:, 2], torch.tensor([-0.5, 0.7, -0.5, 0.7, 0.5]))
    assert joint(prepare(model, x).judge, x, y).tolist() == [False, False, True, False, False]  # a tie is no success
    assert (model.classes, model.rejected, model.detector.model.classes) == (3, 2, 2)


def test_an_attack_must_pass_the_detector_too() -> None:
    """From (0.4, 0.5) class 1: over the boundary and below 0.5 lie within 0.6, and not where the first entry must stay up."""
    model, y = hand_made(), torch.ones(1, dtype=torch.long)
    x = torch.tensor([[0.4, 0.5]])
    attack = PGD(steps=30, step_size=0.1)
    assert bool(attack(model, x, y, threat="linf:0.6").broken)
    assert not bool(attack(model, x, y, threat="linf:0.4").broken)
    rejected = torch.tensor([[0.95, 0.5]])
    assert float(attack(model, rejected, y, threat="linf:0.4").distance) == 0  # clean, and refused: an error by itself
    assert not bool(attack(model, rejected, y, threat="linf:0.4", goal="targeted:0").broken)  # never out of the detector's sight
    out = attack(model, rejected, y, threat="linf:0.6", goal="targeted:0")
    assert bool(out.broken)
    assert bool((out.adversarial[:, 0] < 0.5).all())


def test_a_refusal_serves_the_label_in_every_loss() -> None:
    logits, aim = draw(6, 4).float(), Aim(torch.tensor([0, 1, 2, 0, 1, 2]))
    heard = replace(Untargeted(), rejected=3).heard(logits, aim)
    p = logits.softmax(1)
    want = -(p.gather(1, aim.y[:, None])[:, 0] + p[:, 3]).log()
    assert torch.allclose(cross_entropy(heard, aim), want, atol=1e-6)
    assert bool((heard[:, 3] == -torch.inf).all())
    assert torch.equal(Untargeted().heard(logits, aim), logits)


@pytest.mark.parametrize("name", NAMES)
def test_a_guarded_model_keeps_the_contract(name: str, guarded: dict[str, Guarded], digits: Examples) -> None:
    model = guarded[name]
    check_contract(model, digits.x, digits.y)
    assert (model.classes, model.rejected, model.random) == (11, 10, False)
    assert model.differentiable == (name != "squeezing")
    double = model.double()
    assert double is not None
    exact = double.logits(digits.x.double())
    assert exact.dtype == torch.float64
    assert torch.allclose(exact.float(), model.logits(digits.x), atol=1e-3 * float(exact.abs().max()))
    other = Guarded(model.detector, model.threshold + 1e-3, model.gain)
    assert model.fingerprint() == guarded[name].fingerprint() != other.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_through_the_score(name: str, detectors: dict[str, Detector], digits: Examples) -> None:
    x = digits.x[:8].clone().requires_grad_()
    score = detectors[name].score(x)
    gradient = torch.autograd.grad(score.sum(), x)[0]
    assert bool(gradient.isfinite().all())
    assert bool(gradient.flatten(1).any(1).sum() >= 6)
    if name in ("mahalanobis", "lid", "nre"):  # the slope itself
        twin = detectors[name].double()
        assert twin is not None
        point, way = digits.x[:8].double() * 0.9 + 0.05, gradient.double().sign()
        at = point.clone().requires_grad_()
        slope = (torch.autograd.grad(twin.score(at).sum(), at)[0] * way).flatten(1).sum(1)
        with torch.no_grad():
            rise = (twin.score(point + 1e-7 * way) - twin.score(point - 1e-7 * way)) / 2e-7
        assert torch.allclose(rise, slope, rtol=1e-2, atol=1e-3 * float(slope.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_outcomes_do_not_depend_on_batch_mates(name: str, guarded: dict[str, Guarded], digits: Examples) -> None:
    prepared, attack = prepare(guarded[name], digits.x[:8]).pinned(128, 16, 0.0, 0.0), PGD(steps=3, step_size=0.4)

    def start(rows: Tensor) -> Outcome:
        goal = Untargeted(rejected=10)
        threat = parse_threat("linf:0.05").within((0.0, 1.0))
        oracle = Oracle.begin(prepared, threat, goal, digits.x[rows], digits.y[rows], ids=rows)
        oracle.settle_origin()
        return attack.on(oracle)

    together = start(torch.arange(12))
    for rows in (torch.arange(5, 9), torch.tensor([11, 2])):
        some = start(rows)
        for field in ("point", "queries", "margin"):
            assert torch.equal(getattr(some, field), getattr(together, field)[rows]), field


@pytest.mark.parametrize("name", ["mahalanobis", "lid"])
def test_fitted_detectors_find_what_does_not_know_of_them(
    name: str, model: Model, detectors: dict[str, Detector], digits: Examples
) -> None:
    moved = last_points(PGD(steps=20), prepare(model, digits.x[:8]), digits, parse_threat(THREAT).facing(model), 0)
    fooled = (model.logits(digits.x).argmax(1) == digits.y) & (model.logits(moved).argmax(1) != digits.y)
    assert int(fooled.sum()) >= 20
    detector = detectors[name]
    assert ROC.of(detector.scores(digits.x[fooled]), detector.scores(moved[fooled])).auroc > 0.6


# the whole job


def test_detect_tells_both_attacks_apart(net: nn.Module, clean: Examples, digits: Examples, tmp_path: Path) -> None:
    found = mohs.detect(net, digits, method="mahalanobis", fit=clean, threats=[THREAT], out=tmp_path / "run")
    (threat,) = found.facts["threats"]
    assert json.loads((tmp_path / "run" / "detection.json").read_text()) == json.loads(json.dumps(found.facts))
    assert threat["attacked"] <= threat["clean"] <= 48
    assert 0.5 < threat["auroc"] <= 1
    assert threat["tpr"][0]["tpr"] <= threat["tpr"][1]["tpr"]
    assert threat["joint"]["low"] <= min(threat["ignoring"]["low"], threat["adaptive"]["low"])
    rejected = found.facts["clean"]["undefended"] - found.facts["clean"]["guarded"]
    assert threat["ignoring"]["low"] >= threat["undefended"]["low"] - rejected - 1e-9  # whoever ignores it gains nothing by it
    assert found.robust_accuracy[THREAT] == threat["joint"]["low"]
    assert found.facts["clean"]["guarded"] <= found.facts["clean"]["undefended"]
    assert found.facts["false_alarms"]["held_out"] <= 0.05
    assert found.facts["latency"] > 0
    assert found.result.run.spec["request"]["command"].startswith("mohs detect ")
    page = render(found.result.verdict)
    assert "The detector" in page
    assert "detector ignored" in page
    guarded = found.guarded
    for stored in found.result.run.examples():  # every success is a wrong class that is not rejected
        labels = guarded.logits(torch.from_numpy(stored["adversarial"])).argmax(1)
        assert bool((labels != 10).all())
        assert bool((labels != digits.y[torch.from_numpy(stored["ids"])]).all())


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"fit": None}, RequestError, "--fit"),
        ({"method": "mahalonobis"}, UnknownName, "mahalanobis"),
        ({"settings": {"kk": 3}}, UnknownName, "option of Mahalanobis"),
        ({"threats": []}, RequestError, "linf"),
        ({"false_alarms": 1.5}, RequestError, "between 0 and 1"),
        ({"false_alarms": 0.001}, DataError, "at least 4000"),
        ({"profile": "fast"}, UnknownName, "profile"),
        ({"threats": ["linf:0.0001"]}, DataError, "larger threat"),
        ({"fit": "same"}, DataError, "48 of the 48 examples to fit on are those"),
        ({"fit": "one too many"}, DataError, r"1 of the 601 examples to fit on .*, at positions \[7\]: leave them out"),
        ({"fit": "one"}, DataError, "one class alone, 3"),
        ({"fit": "flat"}, DataError, "shape"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_written(
    change: dict[str, object],
    error: type[MohsError],
    told: str,
    net: nn.Module,
    clean: Examples,
    digits: Examples,
    tmp_path: Path,
) -> None:
    given = {"method": "mahalanobis", "fit": clean, "threats": [THREAT], **change}
    more = replace(clean, **{part: torch.cat([getattr(clean, part), getattr(digits, part)[7:8]]) for part in ("x", "y", "ids")})
    made = {"same": digits, "one too many": more, "one": clean.take(clean.y == 3), "flat": replace(clean, x=clean.x.flatten(1))}
    if isinstance(given["fit"], str):
        given["fit"] = made[given["fit"]]
    with pytest.raises(error, match=told):
        mohs.detect(net, digits, out=tmp_path / "run", **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (LID(k=1), "k is 1"),
        (LID(references=500), "500 references"),
        (Squeezing(bits=17), "0 to 16"),
        (MagNet(p=3), "p of 1 or 2"),
        (NRE(T=300), "300 far"),
    ],
)
def test_settings_that_cannot_be_are_said(method: Method, told: str, model: Model, clean: Examples) -> None:
    twins = last_points(ONE_STEP, prepare(model, clean.x[:8]), clean, parse_threat(THREAT).facing(model), 0)
    with pytest.raises(RequestError, match=told):
        method.fit(model, clean.x[:400], clean.y[:400], twins[:400])


def test_models_that_cannot_be_looked_into_are_refused(model: Model, clean: Examples) -> None:
    linear = as_model(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), clean.x)
    with pytest.raises(ModelError, match="no activation layers"):
        NRE(steps=1).fit(linear, clean.x[:100], clean.y[:100])
    noisy = as_model(network(), clean.x)
    noisy.random = True
    with pytest.raises(ModelError, match="is random"):
        Squeezing().fit(noisy, clean.x, clean.y)
    with pytest.raises(ModelError, match="--window 0"):
        Squeezing().fit(model, clean.x.flatten(1), clean.y)
