"""Each defence against its paper: what it makes of an input, how gradients pass it, and the names it has on the command line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from mohs.attacks import PGD
from mohs.data import load_digits
from mohs.defend import (
    KWTA,
    Defence,
    DefenseGAN,
    Generator,
    MeanProbability,
    Median,
    Thermometer,
    TotalVariation,
    defended,
    diversity_loss,
    feature_squeezing,
    fit_generator,
    gradient_regularised,
    load_generator,
    parse_defence,
    save_generator,
    swap_relus,
    with_kwta,
)
from mohs.defend.table import TABLE, settings, shown
from mohs.defend.total_variation import minimise, objective
from mohs.errors import ModelError, RequestError, UnknownName
from mohs.models import Model, TorchModel, as_model, prepare
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Untargeted, parse_threat
from tests.small import Linear, network


@pytest.fixture(scope="module")
def x() -> Tensor:
    return load_digits("test")[0][:16]


@pytest.fixture(scope="module")
def small(x: Tensor) -> Model:
    return as_model(network(), x)


def stream(n: int, seed: int = 0) -> Stream:
    return Stream.of(seed, torch.arange(n))


def generator(seed: int = 0) -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Generator((1, 8, 8), latent=4, width=16)


# the median


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_the_median_is_that_of_scipy(window: int, small: Model, x: Tensor) -> None:
    got = Median(small, window=window).transform(x, stream(16))
    assert torch.equal(got, torch.from_numpy(ndimage.median_filter(x.numpy(), (1, 1, window, window), mode="reflect")))


def test_the_gradient_of_the_median_goes_to_what_was_taken(small: Model) -> None:
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = Median(small, window=3).transform(x, stream(1))
    (slope,) = torch.autograd.grad(out[0, 0, 4, 4], x)
    assert (slope != 0).sum() == 1
    assert x[slope != 0] == out[0, 0, 4, 4]


def test_squeezing_is_bits_then_median(small: Model, x: Tensor) -> None:
    model = feature_squeezing(small, bits=2, window=2)
    rounded = (x * 3).round() / 3
    assert torch.allclose(model.logits(x), small.logits(Median(small, window=2).transform(rounded, stream(16))))
    assert (model.differentiable, model.random) == (False, False)


# total variation


def test_total_variation_finds_the_least_of_its_objective(x: Tensor) -> None:
    kept = (stream(16).uniform(1, 8, 8) >= 0.5).float()
    best = objective(minimise(x.double(), kept.double(), 0.03, 1000), x.double(), kept.double(), 0.03)
    got = objective(minimise(x, kept, 0.03, 100), x, kept, 0.03)
    assert float((got / best - 1).mean()) < 0.02
    tried = minimise(x.double(), kept.double(), 0.03, 1000)
    for k in range(10):
        near = (tried + 0.01 * torch.randn(tried.shape, generator=torch.Generator().manual_seed(k))).clamp(0, 1)
        assert bool((objective(near, x.double(), kept.double(), 0.03) >= best - 1e-6).all())


def test_total_variation_of_no_weight_is_the_image_and_of_much_is_flat(small: Model, x: Tensor) -> None:
    assert torch.allclose(TotalVariation(small, dropped=0, weight=0).transform(x, stream(16)), x, atol=1e-5)
    flat = TotalVariation(small, dropped=0, weight=100.0, steps=1000).transform(x, stream(16))
    assert float((flat - flat.mean((2, 3), keepdim=True)).abs().max()) < 0.05


# the thermometer


def test_the_thermometer_reads_as_in_the_paper() -> None:
    model = Thermometer(TorchModel(network(channels=8), classes=10), levels=4)
    code = model.transform(torch.tensor([0.0, 0.1, 0.3, 0.5, 0.51, 1.0]).view(6, 1, 1, 1), stream(6)).flatten(1)
    assert code.int().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    two = model.transform(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)], 1).view(1, 2, 8, 8), stream(1))
    assert two.shape == (1, 8, 8, 8)
    assert two.mean((0, 2, 3)).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_thermometer_is_passed_by_a_ramp(x: Tensor) -> None:
    model = Thermometer(TorchModel(network(channels=4), classes=10), levels=4)
    at = (0.8 * x + 0.11).requires_grad_()
    z = model.logits(at)
    assert torch.equal(z, model.model.logits(model.transform(at.detach(), stream(16))))
    code = model.transform(at.detach(), stream(16)).requires_grad_()
    inner = torch.autograd.grad(model.model.logits(code)[:, 3].sum(), code)[0]
    wanted = (inner * (code > 0)).sum(1, keepdim=True)
    assert torch.allclose(torch.autograd.grad(z[:, 3].sum(), at)[0], wanted, atol=1e-6)


# k winners


def test_the_winners_stay() -> None:
    z = torch.tensor([[3.0, -1.0, 2.0, 5.0], [-4.0, -3.0, -2.0, -1.0]], requires_grad=True)
    out = KWTA(0.5)(z)
    assert out.tolist() == [[3, 0, 0, 5], [0, 0, -2, -1]]
    assert torch.autograd.grad(out.sum(), z)[0].tolist() == [[1, 0, 0, 1], [0, 0, 1, 1]]


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = network(classes=6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(self.inner(x)).relu())  # type: ignore[no-any-return]


def test_every_relu_is_swapped_and_the_callers_module_stays(x: Tensor) -> None:
    for module, count in ((network(), 2), (Called(), 4)):
        swapped = swap_relus(module.eval(), 0.3)
        names: list[str] = []
        for part in swapped.modules():
            if isinstance(part, KWTA):
                part.register_forward_hook(lambda *_, names=names: names.append("kwta"))
        swapped(x)
        assert len(names) == count
        assert not any(isinstance(part, KWTA) for part in module.modules())
    assert torch.equal(swap_relus(network(), 1.0)(x), nn.Sequential(*[m for m in network() if not isinstance(m, nn.ReLU)])(x))
    with pytest.raises(ModelError, match="no ReLU"):
        swap_relus(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="torch module"):
        with_kwta(Median(as_model(network(), x)))


# Defense-GAN


def test_what_the_generator_makes_is_its_own_projection(small: Model) -> None:
    made = generator()
    images = made(stream(8).normal(4)).detach()
    model = DefenseGAN(small, made, restarts=8, steps=200, rate=30.0)
    near = model.transform(images, stream(8))
    assert float((near - images).square().mean()) < 1e-4
    one = DefenseGAN(small, made, restarts=1, steps=20).transform(images, stream(8))
    assert float((near - images).square().mean()) < float((one - images).square().mean())


def test_a_generator_is_fitted_kept_and_read_again(tmp_path: Path, small: Model, x: Tensor) -> None:
    one, two = (fit_generator(x, steps=2) for _ in range(2))
    z = stream(4).normal(16)
    assert torch.equal(one(z), two(z))
    save_generator(one, tmp_path / "g.safetensors")
    assert torch.equal(load_generator(str(tmp_path / "g.safetensors"))(z), one(z))
    with pytest.raises(RequestError, match="is no generator"):
        load_generator("none")
    with pytest.raises(ModelError, match="makes images"):
        DefenseGAN(small, one).logits(torch.zeros(2, 3, 8, 8))


# what trains


def test_the_diversity_loss_is_that_of_the_paper() -> None:
    z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([1, 0, 3])
    wanted = 0.0
    for i in range(3):
        p = [z[k, i].softmax(0) for k in range(2)]
        mean = (p[0] + p[1]) / 2
        entropy = -sum(float(v) * math.log(float(v)) for v in mean)
        rest = [torch.cat([q[: y[i]], q[y[i] + 1 :]]) for q in p]
        cosine = float(functional.cosine_similarity(rest[0], rest[1], dim=0))
        volume = (1 + 1e-6) ** 2 - cosine**2
        wanted += (-sum(math.log(float(q[y[i]])) for q in p) - 2 * entropy - 0.5 * math.log(volume)) / 3
    assert float(diversity_loss(z, y)) == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(ModelError, match="fewer members"):
        diversity_loss(torch.zeros(4, 2, 4), torch.zeros(2, dtype=torch.int64))


def test_members_that_agree_are_the_ensemble(x: Tensor) -> None:
    alone = network()
    assert torch.allclose(MeanProbability([alone, alone])(x), alone(x).log_softmax(1), atol=1e-6)
    mixed = MeanProbability([network(), network(seed=1)])
    assert torch.allclose(mixed(x).exp(), (network()(x).softmax(1) + network(seed=1)(x).softmax(1)) / 2, atol=1e-6)


def test_the_gradient_penalty_is_exact_for_a_linear_model() -> None:
    model = Linear(torch.tensor([[1.0, -2.0], [0.5, 1.0]]), torch.zeros(2))
    x, y = torch.tensor([[0.3, 0.1], [-1.0, 0.5]]), torch.tensor([0, 1])
    p = model(x).softmax(1)
    slope = (p - functional.one_hot(y, 2)) @ model.weight
    wanted = functional.cross_entropy(model(x), y) + 0.7 * slope.square().sum(1).mean()
    got = gradient_regularised(model, x, y, weight=0.7)
    assert torch.allclose(got, wanted)
    (weights,) = torch.autograd.grad(got, model.weight)
    assert torch.allclose(weights, torch.autograd.grad(wanted, model.weight)[0], atol=1e-6)


# all of them, by name

GIVEN = {
    "smooth": "smooth:sigma=0.25,samples=12",
    "resize": "resize:7,8",
    "tv": "tv:steps=5",
    "defense-gan": "defense-gan:generator={file},restarts=2,steps=3",
    "thermometer": "thermometer:4",
}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_row_tells_what_the_model_declares_and_its_outcomes_are_each_rows_own(name: str, tmp_path: Path, x: Tensor) -> None:
    save_generator(generator(), tmp_path / "g.safetensors")
    text = GIVEN.get(name, name).format(file=tmp_path / "g.safetensors")
    model = defended(as_model(network(channels=4 if name == "thermometer" else 1), shown(x, [text], (0.0, 1.0))), [text])
    row = TABLE[name]
    assert (model.differentiable, model.random) == (row.differentiable, row.random)
    with torch.no_grad():
        y = model.drawn(stream(16)).logits(x).argmax(1)
    prepared, attack = prepare(model, x[:8]).pinned(128, 16, 0.0, 0.0), PGD(steps=2, step_size=0.4)

    def run(rows: Tensor) -> Tensor:
        threat = parse_threat("linf:0.05").within((0.0, 1.0))
        oracle = Oracle.begin(prepared, threat, Untargeted(), x[rows], y[rows], ids=rows, draws=2 if model.random else 1)
        return attack.on(oracle).point

    together = run(torch.arange(12))
    for rows in (torch.arange(5, 8), torch.tensor([11, 2])):
        assert torch.equal(run(rows), together[rows])


def test_an_input_passes_defences_in_the_order_given(x: Tensor) -> None:
    model = defended(as_model(network(), x), ["median:3", "kwta:0.5", "bits:2"])
    assert model.name.startswith("median 3 before bit depth 2 before k-winners-take-all 0.5 in ")
    assert isinstance(model, Defence)
    rounded = shown(x, ["median:3", "bits:2"], (0.0, 1.0))
    assert set(rounded.mul(3).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("jpg:75", UnknownName, "did you mean 'jpeg'"),
        ("jpeg:quality=75,size=3", UnknownName, "setting of jpeg"),
        ("jpeg:75,3", RequestError, "more values"),
        ("bits:2.5", RequestError, "whole number"),
        ("bits:many", RequestError, "should be a number"),
        ("resize:8", RequestError, "needs its size"),
    ],
)
def test_what_is_no_defence_is_said(text: str, kind: type[RequestError], message: str) -> None:
    with pytest.raises(kind, match=message):
        parse_defence(text)


def test_settings_are_read_in_their_types() -> None:
    assert parse_defence("jpeg").settings == {}
    assert parse_defence("tv:1/4, weight=0.1,steps=7").settings == {"dropped": 0.25, "weight": 0.1, "steps": 7}
    assert settings("resize") == {"smallest": None, "size": None}
    assert parse_defence("defense-gan:generator=a/b.safetensors").settings == {"generator": "a/b.safetensors"}
