"""Landscapes, directions, regions, optimisers and fronts: closed forms, and pages that draw."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from mohs import demo
from mohs.attacks import OptimizerPGD
from mohs.data import Examples
from mohs.errors import Refused, RequestError
from mohs.models import Model, TorchModel, prepare
from mohs.report.study import write_page
from mohs.rng import Stream
from mohs.study.base import Findings, Subject
from mohs.study.clever import Clever
from mohs.study.clever import Measured as Estimated
from mohs.study.clever import _claims as clever_claims
from mohs.study.clever import _row as clever_row
from mohs.study.directions import Directions
from mohs.study.directions import Measured as Looked
from mohs.study.evidence import between, greater, mostly, ranked, sign_test
from mohs.study.landscape import Around, Landscape, Measured, _concordant, filter_normalised
from mohs.study.optimizers import Optimizers, _alike, _ran
from mohs.study.pareto import Fit, LeastIFGSM, Pareto, _claims, _front
from mohs.study.pareto import Measured as Placed
from mohs.study.regions import Plane, Regions
from mohs.study.regions import _claims as region_claims
from mohs.threat import Knowledge, parse_threat
from tests.test_cli import Mohs, command_line

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


def network(seed: int = 0, width: int = 8) -> nn.Sequential:
    """A small network of fixed weights on 1 x 4 x 4 images, that sees each of three classes about as often."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 3))
    stream = Stream.of(seed, torch.arange(1))
    with torch.no_grad():
        for i, weight in enumerate(net.parameters()):
            weight.copy_(stream.at("w", i).normal(*weight.shape)[0] * (3 / math.sqrt(weight.shape[-1])))
        net[1].bias.sub_(net[1].weight.sum(1) / 2)
        net[3].bias.sub_(net(inputs(200)).mean(0))
    return net.eval().requires_grad_(False)


def inputs(n: int) -> torch.Tensor:
    return 0.1 + 0.8 * Stream.of(5, torch.arange(n)).uniform(1, 4, 4)


def model(seed: int = 0, name: str = "small") -> Model:
    return TorchModel(network(seed), classes=3, name=name)


def data(n: int = 60) -> Examples:
    """Labelled by the network of seed 0, so that it is right everywhere."""
    x = inputs(n)
    return Examples(x, network()(x).argmax(1), torch.arange(n), "made")


def subject(*models: Model, **more: object) -> Subject:
    first, *others = models or (model(),)
    return Subject(first, data(), options={"rows": 32, "seed": 0}, others=tuple(others), **more)  # type: ignore[arg-type]


# tests of claims


def test_the_sign_test_and_the_verdicts() -> None:
    assert sign_test(5, 0) == 2 / 32
    assert sign_test(6, 0) == 2 / 64
    assert sign_test(3, 3) == 1.0
    assert greater([1.0] * 6)[1] is True
    assert greater([-1.0] * 6)[1] is False
    assert greater([1.0] * 5 + [0.0] * 9)[1] is None  # ties say nothing
    assert [mostly(k, 20)[1] for k in (20, 10, 0)] == [True, None, False]


def test_ranks_are_tested_by_permutations() -> None:
    """By hand: of the n! orders one is as they stand and one the other way round."""
    assert [ranked(range(n), range(n))[1] for n in (0, 1, 2, 3, 4, 5)] == [None] * 5 + [True]
    assert ranked(range(3), range(3))[0] == "rank correlation 1.00, permutation test p = 0.33"
    assert ranked(range(5), range(5))[0].endswith(f"p = {2 / 120:.2g}")
    assert ranked(range(30), [-i for i in range(30)])[1] is False
    assert ranked([1.0, 1.0, 1.0, 2.0], range(4))[1] is None
    assert ranked(range(9), [1.0] * 9) == ("too few to rank", None)


def test_the_interval_of_a_paired_difference_is_exact() -> None:
    """By hand, where nothing differs: (1 - p)^n = risk / 4 at the limit. And it covers, whatever the two parts are."""
    low, high = between(0, 0, 50)
    assert high == -low == pytest.approx(1 - 0.0125 ** (1 / 50))
    assert between(7, 2, 50) == pytest.approx([-bound for bound in between(2, 7, 50)[::-1]])
    draw = np.random.default_rng(0).multinomial(20, (0.1, 0.05, 0.85), size=2000)
    inside = [low <= 0.05 <= high for low, high in (between(int(a), int(b), 20) for a, b, _ in draw)]
    assert np.mean(inside) >= 0.95


# landscape


def test_filters_of_a_direction_are_as_long_as_those_it_moves() -> None:
    weight, drawn = torch.arange(24.0).view(2, 3, 2, 2), Stream.of(0, torch.arange(1)).normal(2, 3, 2, 2)[0]
    made = filter_normalised(drawn, weight)
    assert torch.allclose(made.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert torch.allclose(nn.functional.cosine_similarity(made.flatten(1), drawn.flatten(1)), torch.ones(2))


def test_a_rescaled_network_has_the_same_landscape() -> None:
    """ReLU networks whose layers are scaled by c and 1 / c compute the same; raw directions would call one of them sharper."""
    one, two = network(), network()
    one[1].bias.zero_(), two[1].bias.zero_()
    two[1].weight.mul_(10)
    two[3].weight.div_(10)
    one[3].bias.zero_(), two[3].bias.zero_()
    moved = []
    for net in (one, two):
        around = Around(TorchModel(net, classes=3), data(), 32)
        direction = around.direction(Stream.of(3, torch.arange(1)))
        moved.append([around.at((step, direction))[0] for step in (-0.5, 0.0, 0.5)])
        raw = [Stream.of(3, torch.arange(1)).at("weight", i).normal(*w.shape)[0] for i, w in enumerate(around.origin)]
        moved[-1].append(around.at((0.5, raw))[0])
    assert moved[0][:3] == pytest.approx(moved[1][:3], rel=1e-4)
    assert abs(moved[0][3] - moved[1][3]) > 0.01


def test_landscape_is_that_of_the_weights_and_leaves_them_alone() -> None:
    net = network()
    before = [weight.clone() for weight in net.parameters()]
    found = Landscape(points=7, directions=3).run(subject(TorchModel(net, classes=3, name="n")))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    (fact,) = found.facts
    x, y = data().x, data().y
    middle = float(nn.functional.cross_entropy(net(x).double(), y))
    assert fact["grid"][3][3] == pytest.approx(middle)
    assert fact["lines"][0] == pytest.approx(fact["grid"][3])  # the first direction alone
    assert fact["lines"][1] == pytest.approx([row[3] for row in fact["grid"]])  # the second
    around = Around(TorchModel(net, classes=3), data(), 32)
    first = around.direction(Stream.of(0, torch.arange(1)).at("landscape", "direction", 0))
    mean = (around.at((0.2, first))[0] + around.at((-0.2, first))[0]) / 2
    assert fact["sharpness_by_direction"][0] == pytest.approx(mean - middle)
    assert [figure.kind for figure in found.figures] == ["map", "lines", "lines"]


def test_the_verdicts_on_landscapes() -> None:
    def made(name: str, sharp: float, right: int, bend: float = 1.0) -> Measured:
        lines = bend * torch.linspace(-1, 1, 5, dtype=torch.float64).square().expand(10, 5)
        return Measured(name, 0.1, right, 1000, lines, lines, tuple(sharp + 0.001 * i for i in range(10)), 0.9)

    assert made("a", 1, 900).convex == 10
    assert made("a", 1, 900, bend=-1.0).convex == 0
    assert _concordant([made("a", 1.0, 980), made("b", 2.0, 900)])[1] is True
    assert _concordant([made("a", 1.0, 900), made("b", 2.0, 980)])[1] is False
    assert _concordant([made("a", 1.0, 900), made("b", 1.0, 980)])[1] is None
    assert _concordant([made("a", 1.0, 940), made("b", 2.0, 941)])[1] is None
    claims = Landscape()._claims([made("resnet20", 1.0, 980), made("resnet20-noskip", 2.0, 980)])
    assert {claim.claim: claim.held for claim in claims}["Shortcuts make resnet20 flatter than resnet20-noskip"] is True


class NoWeights(Model):
    classes = 3

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3]


def test_what_has_no_landscape_is_refused() -> None:
    parts = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(3)).eval()
    for without in (NoWeights(), TorchModel(parts, classes=3)):
        with pytest.raises(RequestError, match="landscape"):
            Landscape().run(subject(model(), without))
    with pytest.raises(RequestError, match="random"):
        Landscape().run(subject(TorchModel(network(), classes=3, random=True)))
    with pytest.raises(RequestError, match="odd"):
        Landscape(points=6).on(subject())


# directions


def test_the_adversarial_direction_of_a_linear_model_is_its_sign() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval().requires_grad_(False)
    linear[1].weight.copy_(Stream.of(9, torch.arange(1)).normal(3, 16)[0])
    made = TorchModel(linear, classes=3, name="linear")
    study = Directions(threat="linf:0.1", points=5, pictured=1, only="7")
    found = study.run(subject(made))
    x, y = data().x, data().y
    (g,) = torch.autograd.grad(nn.functional.cross_entropy(linear(x.requires_grad_()), y, reduction="sum"), x)
    x = x.detach()
    here = nn.functional.cross_entropy(linear(x).double(), y)
    rise = nn.functional.cross_entropy(linear(x + 0.1 * g.sign()).double(), y) - here
    assert found.facts[0]["adversarial_rise"] == pytest.approx(float(rise), rel=1e-4)
    assert found.facts[0]["mean"][2][2] == pytest.approx(float(here), rel=1e-5)
    assert found.facts[0]["steady"] == 60  # convex in x, so that it rises all the way
    assert found.figures[1].title == "linear, example 7"  # type: ignore[union-attr]
    claims = {claim.claim: claim.held for claim in found.claims}
    assert claims["linear: the loss rises more along the gradient than at random"] is True


def test_the_random_direction_is_at_right_angles_and_as_long() -> None:
    from mohs.study.directions import _aside

    for text in ("linf:0.1", "l2:1", "l1:2"):
        threat = parse_threat(text)
        e1 = threat.norm.steepest(Stream.of(1, torch.arange(5)).normal(1, 8, 8))  # type: ignore[attr-defined]
        e2 = _aside(threat, e1, Stream.of(2, torch.arange(5)))  # type: ignore[arg-type]
        assert (e1 * e2).flatten(1).sum(1).abs().max() < 1e-5
        assert torch.allclose(threat.norm.distance(e2), torch.ones(5, dtype=torch.float64), atol=1e-5)  # type: ignore[attr-defined]


def test_masked_gradients_are_told() -> None:
    rounded = TorchModel(nn.Sequential(Rounded(), network()).eval(), classes=3, name="rounded")
    found = Directions(threat="linf:0.1", points=5).run(subject(rounded))
    assert any("60 of 60 examples have no gradient" in note for note in found.notes)
    assert found.facts[0]["steady"] == 0  # a flat line is no rise
    assert found.claims[1].held is False


def test_rises_are_those_at_epsilon_whatever_the_grid() -> None:
    one, other = (
        Directions(threat="linf:0.1", span=span, points=points).run(subject()).facts[0] for span, points in ((2, 21), (5, 5))
    )
    for name in ("loss", "adversarial_rise", "random_rise", "steady"):
        assert one[name] == other[name]
    assert one["adversarial_rise"] > 0


def test_a_steady_rise_has_a_gradient_and_falls_nowhere() -> None:
    def looked(*way: float, flat: bool = False) -> Looked:
        loss = torch.tensor([way], dtype=torch.float64)
        return Looked("m", loss, loss, loss, loss[:, 0], loss, loss, torch.tensor([flat]), 0.0)

    assert looked(1.0, 1.5, 1.5, 2.0).steady == 1
    assert looked(1.0, 1.0, 1.0, 1.0).steady == 0
    assert looked(1.0, 1.5, 1.4, 2.0).steady == 0
    assert looked(1.0, 1.5, 1.5, 2.0, flat=True).steady == 0
    assert looked(1.0, 1.5, math.nan, 2.0).steady == 0


class Rounded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.round()


# regions


def test_a_plane_has_the_lengths_of_its_examples() -> None:
    x = data().x[:3]
    plane = Plane.through(x)
    assert torch.allclose(plane.at(plane.corners), x, atol=1e-6)
    lengths = torch.cdist(x.flatten(1).double(), x.flatten(1).double())
    assert torch.allclose(torch.cdist(plane.corners, plane.corners), lengths, atol=1e-6)
    off = x[0] + 0.3 * torch.ones(1, 4, 4)
    uv, distance = plane.foot(off[None])
    assert torch.allclose(((off - plane.at(uv)[0]).double().norm())[None], distance, atol=1e-5)
    with pytest.raises(RequestError, match="one line"):
        Plane.through(torch.stack([x[0], x[1], 2 * x[1] - x[0]]))


def test_regions_are_the_models_and_adversarial_points_lie_nearer() -> None:
    found = Regions(planes=4, points=31).run(subject())
    (fact,), (figure,) = found.facts, found.figures
    assert figure.kind == "map"
    assert len([mark for mark in figure.marks if mark.cross]) == 3  # type: ignore[union-attr]
    plane = Plane.through(data().x[torch.tensor(fact["ids"][0])])
    for i, v in enumerate(figure.ys):  # type: ignore[union-attr]
        x = plane.at(torch.tensor([[u, v] for u in figure.xs], dtype=torch.float64))  # type: ignore[union-attr]
        assert figure.values[i] == tuple(network()(x).argmax(1).tolist())
        assert figure.pale[i] == tuple(((x < 0) | (x > 1)).flatten(1).any(1).tolist())  # type: ignore[union-attr]
    inside = [
        (u, v, figure.values[i][j])  # type: ignore[union-attr]
        for i, v in enumerate(figure.ys)  # type: ignore[union-attr]
        for j, u in enumerate(figure.xs)  # type: ignore[union-attr]
        if not figure.pale[i][j]  # type: ignore[union-attr]
    ]
    cell = figure.xs[1] - figure.xs[0]  # type: ignore[union-attr]
    for k, (u0, v0) in enumerate(plane.corners.tolist()):
        own = int(data().y[fact["ids"][0][k]])
        nearest = min((math.hypot(u - u0, v - v0) for u, v, c in inside if c != own), default=math.inf)
        assert fact["on_plane"][k] == pytest.approx(nearest - cell / math.sqrt(2))
    assert len(fact["on_plane"]) == len(fact["anywhere"]) == 12
    assert all(near <= far + 0.02 for near, far in zip(fact["anywhere"], fact["on_plane"], strict=True))
    assert found.claims[0].held is True


def test_an_example_on_many_planes_is_one_example() -> None:
    """Six corners of three examples, the third of which lies nearer on one plane and farther on another."""
    near, far = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 3.0]), torch.full((6,), 2.0)
    same, *_ = region_claims(["m"], [near], [far], [4, 4, 4, 7, 9, 9])
    assert same.measured.startswith("above in 2 of 3, below in 0;")
    assert same.held is None
    apart, *_ = region_claims(["m"], [near[:1].expand(6)], [far], range(6))
    assert apart.held is True
    found = Regions(planes=8, points=11).on(Subject(model(), data(9), options={"rows": 32, "seed": 0}))
    ids = {i for plane in found.facts[0]["ids"] for i in plane}
    assert f" of {len(ids)}, " in found.claims[0].measured
    assert len(ids) <= 9


def test_regions_of_given_classes() -> None:
    found = Regions(planes=1, points=15, classes="2,0,1").run(subject())
    assert data().y[found.facts[0]["ids"][0]].tolist() == [2, 0, 1]
    for wrong in ("2,0", "0,0,1", "0,1,cat"):
        with pytest.raises(RequestError, match="classes should be"):
            Regions(classes=wrong).run(subject())


# optimisers


def test_optimisers_differ_on_a_model_that_is_sure_and_not_where_gradients_have_one_size() -> None:
    sure = network()
    sure[3].weight.mul_(40)
    sure[3].bias.mul_(40)
    found = Optimizers(threat="linf:0.1", steps=40).run(subject(TorchModel(sure, classes=3, name="sure")))
    last = {(fact["optimizer"], fact["normalise"]): fact["broken"][-1] for fact in found.facts}
    assert last["adam", False] > last["sgd", False] + 0.1
    assert abs(last["adam", True] - last["sgd", True]) < 0.1
    assert found.claims[0].held is True
    assert found.claims[1].held is not False
    for fact in found.facts:
        assert fact["steps"] == (1, 2, 5, 10, 20, 40)
        assert fact["broken"] == tuple(sorted(fact["broken"]))  # what is broken stays so


def test_what_is_broken_goes_on_so_that_losses_compare() -> None:
    made, threat = data(), parse_threat("linf:0.3")
    broken, loss = _ran(OptimizerPGD(steps=20), prepare(model(), made.x), made, threat, 0)
    assert broken.any()
    assert len(broken) == len(loss) == 60
    assert float(loss[broken].min()) > math.log(1.5)  # at the end of the way, past the boundary


def test_alike_needs_narrow_differences() -> None:
    base = torch.zeros(400, dtype=torch.float64)
    few, many = base.clone(), base.clone()
    few[:4], many[:120] = 1, 1
    assert _alike({"a": base, "b": few})[1] is True
    assert _alike({"a": base, "b": many})[1] is False
    assert _alike({"a": base[:6], "b": many[119:125]})[1] is None
    for n, held in ((1, None), (60, None), (400, True)):  # nothing differs: what may is a matter of their number
        assert _alike(dict.fromkeys("abcde", base[:n]))[1] is held
    none = torch.zeros(60, dtype=torch.float64)
    some = none.clone()
    some[:12] = 1
    assert _alike({"a": none, "b": some})[1] is None
    turned = some.flip(0)  # as many as in `some`, of other examples
    assert _alike({"b": some, "c": turned})[1] is None


# the front


def test_least_ifgsm_finds_the_distance_of_a_linear_model() -> None:
    linear, x, y = demo.linear_example()
    found = LeastIFGSM(attempts=15, steps=20)(prepare(TorchModel(linear, classes=4), x), x, y, threat="linf:inf")
    assert float(found.distance) == pytest.approx(1 / 7, rel=1e-3)
    assert float(found.distance) >= 1 / 7
    assert int(found.backwards) == 15 * 20


def test_a_fit_is_recovered() -> None:
    error = [0.02, 0.05, 0.1, 0.2, 0.4]
    fit = Fit.of(error, [0.03 * math.log(e) + 0.06 + 1e-4 * (-1) ** i for i, e in enumerate(error)])
    assert fit.a == pytest.approx(0.03, rel=0.02)
    assert fit.b == pytest.approx(0.06, rel=0.02)
    assert fit.low < 0.03 < fit.high
    assert fit.r2 > 0.99
    assert fit.at(0.9) > fit.at(0.98)


def test_the_front_is_what_none_beats() -> None:
    def placed(name: str, wrong: int, distance: float) -> Placed:
        return Placed(name, wrong, 100, {"l2": torch.tensor([distance, distance], dtype=torch.float64)})

    found = [placed("best", 1, 1.0), placed("robust", 9, 3.0), placed("beaten", 9, 0.5), placed("same", 1, 1.0)]
    assert _front(found, "l2") == {"best", "robust", "same"}
    assert placed("none", 0, 1.0).error == 0.005


def test_a_front_of_too_few_distances_decides_nothing() -> None:
    def placed(missed: int) -> list[Placed]:
        distances = [torch.tensor([1.0 + i] * (10 - missed) + [math.inf] * missed, dtype=torch.float64) for i in range(3)]
        return [Placed(f"m{i}", 2 ** (i + 1), 100, {"l2": d}) for i, d in enumerate(distances)]

    fit = {"l2": Fit(1.0, 2.0, 0.9, 1.1, 1.0)}
    assert next(_claims(placed(2), fit)).held is True
    (claim,) = _claims(placed(3), fit)
    assert claim.held is None
    assert "no distance for more than 20% of the examples of m0, m1, m2" in claim.measured


def test_a_front_of_small_networks() -> None:
    models = [model(0, "a"), *(TorchModel(noisy(s), classes=3, name=f"b{s}") for s in (1, 2))]
    study = Pareto(attacked=6, ifgsm_steps=10, cw_steps=30, cw_search=4, clever_batches=4, clever_samples=8)
    found = study.run(subject(*models))
    assert [row[0] for row in found.table.rows] == ["a", "b1", "b2"]
    assert found.facts[0]["accuracy"] == 1.0
    assert [fact["fit"] for fact in found.facts if "fit" in fact] == ["linf", "l2", "clever"]
    assert all(0 < fact["linf"] < fact["l2"] for fact in found.facts if "linf" in fact)
    assert all(0 < fact["clever"] <= 5 for fact in found.facts if "clever" in fact)
    with pytest.raises(RequestError, match="3 models or more"):
        study.run(subject(*models[:2]))
    with pytest.raises(RequestError, match="unknown metric"):
        Pareto(metrics=("linf", "l7")).on(subject(*models))


def noisy(seed: int) -> nn.Sequential:
    net = network()
    net[3].weight.add_(0.4 * seed * Stream.of(seed, torch.arange(1)).normal(3, 8)[0])
    return net


# what all share


class Labels(NoWeights):
    gives = Knowledge.LABEL


def test_studies_that_need_gradients_refuse_labels() -> None:
    for study in (Directions(), Regions(), Clever()):
        with pytest.raises(Refused):
            study.on(subject(model(), Labels()))
    with pytest.raises(RequestError, match="one model"):
        Optimizers().on(subject(model(), model(1)))


def test_examples_that_no_model_gets_right_are_refused() -> None:
    right = torch.tensor([[True, False, True], [False, True, True]])
    one = subject()
    assert len(one.common(torch.ones(1, len(one.data), dtype=torch.bool), 2)) == 2
    assert torch.equal(one.common(right).x, one.data.x[2:3])
    with pytest.raises(RequestError, match="leave out the weakest"):
        one.common(right[:, :2])
    with pytest.raises(RequestError, match="gets none of the examples right"):
        one.common(~right[:1, :1])


def test_figures_hold_no_infinity() -> None:
    found = Regions(planes=1, points=15).run(subject())
    facts = ({"a": math.inf, "b": [math.nan, 1.0]},)
    plain = Findings(found.words, found.table, found.figures, found.claims, (), facts).plain()
    assert plain["facts"] == [{"a": None, "b": [None, 1.0]}]
    json.dumps(plain, allow_nan=False)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kinds of figures, and names that would break out."""
    evil = "</script><script>document.title='broken'</script><b>"
    models = (model(0, evil), model(1, "two"))
    made = [
        Landscape(points=5, directions=2).run(subject(*models)),
        Regions(planes=1, points=15).run(subject(model(0, evil))),
        Optimizers(threat="linf:0.1", steps=2).run(subject()),
    ]
    figures = tuple(figure for findings in made for figure in findings.figures)
    about = {"title": "t", "name": "n", "model": evil, "data": "d", "n": 1, "settings": {}}
    about |= {"command": "c", "mohs": "0", "created": "2026-01-01"}
    found = Findings("w", made[0].table, figures, made[0].claims)
    return write_page(found.plain(), about, tmp_path_factory.mktemp("page") / "page.html")


def test_pages_carry_plotly_once_and_escape(page: Path) -> None:
    text = page.read_text()
    assert text.count('id="plotly"') == 1
    assert "</script><script>document" not in text


def test_figures_are_drawn_in_a_browser(browser: Chrome, page: Path) -> None:
    import time

    browser.get_log("browser")
    browser.get(page.as_uri())
    for _ in range(100):
        if browser.execute_script("return document.documentElement.dataset.drawn") == "yes":
            break
        time.sleep(0.2)
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE" and "WebGL" not in line["message"]] == []
    assert browser.execute_script("return document.title") != "broken"
    count = "return [...document.querySelectorAll(arguments[0])].filter(p => p.querySelector(arguments[1])).length"
    assert browser.execute_script(count, ".plot.lines", ".scatterlayer path.js-line") == 6
    assert browser.execute_script(count, ".plot.flat", ".contourlayer path") == 2
    assert browser.execute_script(count, ".plot.flat", ".heatmaplayer image") == 1
    assert (
        browser.execute_script("return document.querySelectorAll('.plot.surface .gl-container, .plot.surface .main-svg').length")
        > 0
    )
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    made = data(40)
    np.savez("test.npz", x=made.x.numpy(), y=made.y.numpy())
    return command_line(monkeypatch, capsys)


FIRST = "tests.test_study_pictures:network"


def test_an_estimate_lies_between_proof_and_attack() -> None:
    found = Clever(attacked=12, batches=20, samples=32, steps=60).on(subject(model(), model(1, "other")))
    fact = found.facts[0]
    proved, estimate, attacked, masked = (np.array(fact[name]) for name in ("proved", "estimate", "attacked", "masked"))
    assert 1 <= len(proved) <= 12
    assert bool((proved <= attacked).all())
    assert proved.max() > 0
    assert np.median(estimate / attacked) < 1
    assert bool((masked == 5).all())  # the radius of the ball that is sampled: there is no slope
    assert len(found.claims) == 8
    assert len(found.figures) == 2
    with pytest.raises(RequestError, match="no norm 'l0'"):
        Clever(norm="l0").on(subject())


@pytest.mark.parametrize(("column", "claim"), [("estimate", 0), ("proved", 1), ("attacked", 2), ("masked", 3)])
def test_claims_of_an_estimate_can_fail(column: str, claim: int) -> None:
    """Each claim is held by numbers that lie as it says, and falls with one column turned round."""
    order = np.linspace(1, 2, 20)
    facts = {"proved": order / 4, "estimate": order / 2, "attacked": order, "masked": 5 + order, "beyond": 1.1 * order}
    right = Estimated(name="a", fitted=order > 0, **facts)
    assert [c.held for c in clever_claims(right)] == [True] * 4
    wrong = {"estimate": 3 * order, "proved": order, "attacked": order[::-1], "masked": order / 2}[column]
    assert list(clever_claims(replace(right, **{column: wrong})))[claim].held is False


def test_means_of_clever_leave_out_what_the_attack_did_not_find() -> None:
    ones = np.ones(3)
    far = np.array([2.0, 4.0, math.inf])
    found = Estimated("a", ones, np.array([1.0, 3.0, 9.0]), ones > 0, far, np.array([5.0, 5.0, 1.0]), far)
    assert clever_row(found) == ("a", "1", "2", "3", "0.625", "100.0%", "5")
    nothing = replace(found, proved=None, attacked=math.inf * ones, beyond=math.inf * ones)
    assert clever_row(nothing) == ("a", *["nothing found"] * 4, "100.0%", "nothing found")
    assert [claim.held for claim in clever_claims(nothing)] == [None] * 3


def test_what_a_user_types(mohs_: Mohs) -> None:
    words = ["study", "landscape", FIRST, "mlp-6", "--data", "test.npz", "--train", "2", "--train-data", "test.npz"]
    done = mohs_(*words, "--points", "5", "--directions", "2", "--json")
    assert done.code == 0, done.said
    told = json.loads(done.out)
    assert told["model"] == f"{FIRST}, mlp-6"
    assert "mohs study landscape tests.test_study_pictures:network mlp-6 --data test.npz" in told["command"]
    assert "--train 2 --train-data test.npz" in told["command"]
    networks = list(Path("runs/study-landscape").iterdir())
    assert [path.name.rpartition("-")[0] for path in networks] == ["mlp-6-standard"]
    both = json.loads(mohs_(*words, "--points", "5", "--directions", "2", "--seeds", "2", "--json").out)
    assert [{"seed": 0, **fact} for fact in told["facts"]] == both["facts"][:2]
    assert both["facts"][1]["lines"] != both["facts"][3]["lines"]  # another training
    assert len(list(Path("runs/study-landscape").iterdir())) == 2


def test_requests_that_are_wrong_write_nothing(mohs_: Mohs) -> None:
    before = sorted(Path().iterdir())
    tail = ["--data", "test.npz"]
    for words, said in (
        (["landscape", "mlp-6", *tail], "--train EPOCHS trains it first"),
        (["landscape", "mlp-6", *tail, "--train", "2"], "--train-data"),
        (["landscape", FIRST, *tail, "--train", "2"], "none is among"),
        (["optimizers", FIRST, FIRST, *tail], "one model"),
        (["optimizers", FIRST, *tail, "--threat", "linf:inf"], "none; give it an epsilon"),
        (["directions", FIRST, *tail, "--only", "400"], "should name ids"),
        (["directions", FIRST, *tail, "--threat", "rotation:30deg"], "needs linf, l2 or l1"),
        (["pareto", FIRST, *tail], "3 models or more"),
        (["landscape", "mlp-6", *tail, "--train", "2", "--train-data", "test.npz", "--points", "6"], "should be odd"),
        (["landscape", FIRST, *tail, "--seeds", "0"], "seeds should be a whole number, 1 or more"),
        (["landscape", FIRST, *tail, "--span", "inf"], "span should be a finite number"),
        (["landscape", FIRST, *tail, "--radius", "inf"], "radius should be a finite number"),
        (["directions", FIRST, *tail, "--span", "inf"], "span should be a finite number"),
        (["optimizers", FIRST, *tail, "--rate", "inf"], "rate should be a finite number above 0, not inf"),
        (["pareto", FIRST, *tail, "--cw-rate", "inf"], "cw_rate should be a finite number"),
        (["landscape", "--span", "2", FIRST, *tail], ""),
    ):
        done = mohs_("study", *words)
        assert done.code == 2, words
        assert said in done.said, words
    assert sorted(Path().iterdir()) == before
