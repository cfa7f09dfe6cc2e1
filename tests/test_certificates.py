"""Certificates: closed forms, bounds that no sampled or attacked point violates, order of the methods, soundness of float32,
every operator, and what a user sees."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mohs
from mohs import certificates
from mohs.certificates.activations import CELLS, ELU, GELU, RELU, SIGMOID, SILU, TANH, Smooth, softplus
from mohs.certificates.affine import convolution
from mohs.certificates.backward import Bounds, Functions, substitute, through
from mohs.certificates.crown import Ascent, alpha_crown, crown, interval, margins, optimised
from mohs.certificates.graph import Network, Unsupported, network_of, trace
from mohs.certificates.operators import Activation, Box, gamma
from mohs.certificates.region import Region, region_of
from mohs.detectors.base import Detector
from mohs.detectors.guarded import Guarded
from mohs.errors import Contradiction, DataError, ModelError, Refused, RequestError, UnknownName
from mohs.models import as_model
from mohs.store import Run
from mohs.store.verdict import verdict_of
from mohs.threat import Aim, Untargeted, parse_threat
from tests.small import Linear, labelled, network
from tests.test_cli import Mohs, command_line

METHODS = {"interval": interval, "crown": crown, "alpha-crown": partial(alpha_crown, ascent=Ascent(steps=4))}
THREATS = ("linf:0.1", "l2:0.5", "l1:1.5")


def draws(x: Tensor, threat: str, n: int, seed: int = 0) -> Tensor:
    """[n, rows, *input]: points of the set, on its boundary and inside."""
    set_ = parse_threat(threat)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *x.shape, generator=generator, dtype=x.dtype)
    noise[::2] = noise[::2].sign()
    return torch.stack([set_.project(x + 10 * part, x) for part in noise])


class Residual(nn.Module):
    """Everything at once: a normalisation, batch norm, a shortcut, a concatenation, pooling, a mean."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 3)
        self.norm, self.act = nn.BatchNorm2d(4), act
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.norm.running_var.uniform_(0.5, 2)
        self.register_buffer("mean", torch.tensor([0.4, 0.6]).view(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.a((x - self.mean) / 0.5)))
        y = self.act(F.max_pool2d(self.b(x), 2) - 0.3 * F.avg_pool2d(x, 2))
        z = torch.cat([y, F.max_pool2d(x, 3, stride=2, padding=1)], 1)
        return self.c(z.mean((2, 3)).flatten(1))


class PreActivated(nn.Module):
    """A shortcut from before an activation: its input is met by two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(72, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x.flatten(1))
        return self.c((z - 0.7 * self.b(z.relu())).relu())


class Shifted(nn.Module):
    """A normalisation by one number for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1), 0.5))
        self.register_buffer("scale", torch.full((1, 1, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


def seeded(make: object, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval().requires_grad_(False)  # type: ignore[operator,no-any-return]


NETS = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)),
    "conv": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 4, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
    ),
    "residual relu": lambda: Residual(nn.ReLU()),
    "residual silu": lambda: Residual(nn.SiLU()),
    "preactivated": PreActivated,
    "shifted": lambda: nn.Sequential(Shifted(), nn.Conv2d(2, 3, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
    "leaky": lambda: nn.Sequential(nn.Linear(6, 12), nn.LeakyReLU(0.1), nn.Linear(12, 12), nn.LeakyReLU(0.2), nn.Linear(12, 4)),
    "sigmoid": lambda: nn.Sequential(nn.Linear(6, 12), nn.Sigmoid(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4)),
    "softplus": lambda: nn.Sequential(nn.Linear(6, 12), nn.Softplus(2.0), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 4)),
    "clipped": lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU6(), nn.Linear(12, 12), nn.ELU(), nn.Hardtanh(), nn.Linear(12, 4)),
    "pooled": lambda: nn.Sequential(
        nn.ConvTranspose2d(2, 3, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Upsample(None, 2), nn.Flatten(), nn.Linear(48, 3)
    ),
}  # fmt: skip


def world(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Network, Tensor, Tensor]:
    module = seeded(NETS[name]).to(dtype)
    shape = (6,) if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Linear) else (2, 6, 6)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    return module, trace(module, x), x, module(x).argmax(1)


def bound(net: Network, x: Tensor, y: Tensor, threat: str, method: str) -> tuple[Tensor, Bounds]:
    with torch.no_grad():
        return METHODS[method](net, region_of(parse_threat(threat), x), margins(net.classes, y, x.dtype))


# closed forms


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("threat", "dual"), [("linf:0.05", 1), ("l2:0.05", 2), ("l1:0.05", torch.inf)])
def test_a_linear_model_is_bounded_exactly(method: str, threat: str, dual: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    module = Linear(weight, torch.randn(4, generator=generator, dtype=torch.float64)).eval()
    x = 0.3 + 0.4 * torch.rand(5, 3, 3, generator=generator, dtype=torch.float64)  # far from the box
    y = torch.tensor([0, 1, 2, 3, 0])
    found, _ = bound(trace(module, x), x, y, threat, method)
    rows = margins(4, y, x.dtype)
    exact = torch.einsum("bsk,bk->bs", rows, module(x)) - 0.05 * (rows @ weight).norm(dim=2, p=dual)
    assert bool((found <= exact).all())
    assert torch.allclose(found, exact, atol=1e-5)


def test_the_box_of_the_input_counts() -> None:
    """At x = 0 only upward moves are left; a mask holds entries still."""
    module = Linear(torch.tensor([[1.0, -2.0], [0.0, 0.0]]), torch.zeros(2)).eval()
    x, y = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    net = trace(module, x)
    for method in METHODS:
        assert float(bound(net, x, y, "linf:0.1", method)[0]) == pytest.approx(-0.2, abs=1e-5)
        assert float(bound(net, x, y, "l1:3", method)[0]) == pytest.approx(-2.0, abs=1e-4)
    masked = mohs.Linf(0.1, constraints=mohs.Constraints(mask=torch.tensor([True, False])))
    assert float(certificates.Crown()(module, x, y, threat=masked)) == pytest.approx(0.0, abs=1e-5)


def test_crown_of_one_neuron_is_the_triangle() -> None:
    """relu(x - 1/2) on [0, 1]: the chord above, 0 or the identity below, by area."""
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        module[0].weight.fill_(1.0), module[0].bias.fill_(-0.4)
        module[2].weight.copy_(torch.tensor([[-1.0], [0.0]])), module[2].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    found, bounds = bound(trace(module, x), x, y, "linf:0.5", "crown")
    assert float(found) == pytest.approx(1 - 0.6, abs=1e-5)
    relaxed = next(iter(bounds.relaxed.values()))
    assert float(relaxed.upper.slope) == pytest.approx(0.6, abs=1e-5)
    assert float(relaxed.alpha) == 1.0


# properties


@pytest.mark.parametrize("threat", THREATS)
@pytest.mark.parametrize("name", NETS)
def test_no_point_of_the_set_violates_a_bound(name: str, threat: str) -> None:
    module, net, x, y = world(name)
    points = draws(x, threat, 32)
    rows = margins(net.classes, y, x.dtype)
    reached = torch.stack([torch.einsum("bsk,bk->bs", rows, module(p)) for p in points]).amin(0)
    low, bounds = bound(net, x, y, threat, "crown")
    better, narrow = bound(net, x, y, threat, "alpha-crown") if threat.startswith("linf") else (low, bounds)
    for found in (bound(net, x, y, threat, "interval")[0], low, better):
        assert bool((found <= reached + 1e-5).all())
    assert bool((better >= low - 1e-4).all())
    values = [points.flatten(0, 1)]
    for i, node in enumerate(net.nodes[1:], 1):
        values.append(node.operator.forward(*(values[j] for j in node.inputs)))
        for found in (bounds, narrow):
            box = found.boxes[i]
            inside = values[i].unflatten(0, (-1, len(x)))
            spare = 1e-5 * (1 + inside.abs())
            assert bool((inside >= box.lower - spare).all()), (i, type(node.operator).__name__)
            assert bool((inside <= box.upper + spare).all()), (i, type(node.operator).__name__)


@pytest.mark.parametrize("name", ["mlp", "conv", "residual relu"])
def test_pgd_stays_above_every_bound(name: str) -> None:
    module, net, x, y = world(name)
    threat = parse_threat("linf:0.1")
    rows, p = margins(net.classes, y, x.dtype), x.clone()
    for _ in range(15):
        p.requires_grad_()
        worst = torch.einsum("bsk,bk->bs", rows, module(p)).amin(1)
        (gradient,) = torch.autograd.grad(-worst.sum(), p)
        p = threat.step(p.detach(), gradient, x, 0.2)
    worst = torch.einsum("bsk,bk->bs", rows, module(p)).amin(1)
    for method in METHODS:
        assert bool((bound(net, x, y, "linf:0.1", method)[0].amin(1) <= worst + 1e-5).all())


def test_crown_is_met_with_intervals() -> None:
    """The margin relu(z) is 0 at least, which a line below it of slope 1 does not know."""
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), ([[2.1]], [-1.0], [[1.0], [0.0]], [0.0, 0.0]), strict=True):
            parameter.copy_(torch.tensor(value))
    x = torch.full((1, 1), 0.5)
    net = trace(module, x)
    for method in ("interval", "crown", "alpha-crown"):
        assert float(bound(net, x, torch.tensor([0]), "linf:0.5", method)[0]) == pytest.approx(0.0, abs=1e-5)


def test_slopes_gain_and_boxes_are_met() -> None:
    """alpha-CROWN is above CROWN on a net where slopes matter, and CROWN's boxes lie in those of intervals."""
    module = seeded(NETS["mlp"])
    with torch.no_grad():
        for layer in (module[0], module[2], module[4]):
            layer.weight.mul_(2.0)
    x = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    net, y = trace(module, x), module(x).argmax(1)
    (low, found), (better, _), (least, wide) = (bound(net, x, y, "linf:0.2", m) for m in ("crown", "alpha-crown", "interval"))
    assert float((better - low).mean()) > 0.02
    assert float((low - least).mean()) > 0.05
    for i in range(len(net.nodes)):
        assert bool((found.boxes[i].lower >= wide.boxes[i].lower - 1e-5).all())
        assert bool((found.boxes[i].upper <= wide.boxes[i].upper + 1e-5).all())


@pytest.mark.parametrize("method", ["interval", "crown"])
@pytest.mark.parametrize("name", ["mlp", "conv", "residual relu", "residual silu"])
def test_float32_is_outside_of_float64(name: str, method: str) -> None:
    """Margins and boxes in float32 never claim what float64 does not, and cost little for it."""
    _, net, x, y = world(name)
    _, exact, _, _ = world(name, torch.float64)
    for scale in (1.0, 30.0):
        threat = f"linf:{scale / 100}"
        region, rows = region_of(parse_threat(threat), x), margins(net.classes, y, x.dtype)
        single, a = METHODS[method](net, region, rows)
        double, b = METHODS[method](exact, Region(Box(*(side.double() for side in region.box))), rows.double())
        assert bool((single.double() <= double + 1e-12).all())
        assert float((double - single).max()) < 2e-3 * (1 + float(double.abs().max()))
        for i in range(len(net.nodes)) if method == "interval" else ():  # which entries CROWN tightens hangs on rounding
            assert bool((a.boxes[i].lower.double() <= b.boxes[i].lower + 1e-12).all())
            assert bool((a.boxes[i].upper.double() >= b.boxes[i].upper - 1e-12).all())


def test_rounding_is_charged_at_every_activation() -> None:
    """What a sound constant is below the other is at least the worst rounding of the sum over its lines."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(1, 3, 2000, generator=generator)
    low = -torch.rand(1, 2000, generator=generator)
    relaxed = RELU.relax(Box(low, low + 1))
    (_, plain), (_, sound) = (through(A, relaxed, None, sound) for sound in (False, True))
    due = gamma(2000, A.dtype) * (A.abs() * relaxed.flow).flatten(2).sum(2)
    assert bool((plain - sound >= 0.99 * due).all())
    assert float(due.min()) > 0.05


def test_rounding_is_charged_at_every_product() -> None:
    """Two affine layers, so that nothing is bent: what is taken off is at least the worst rounding of the layers' products."""
    module = seeded(lambda: nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 3)))
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    net, A = trace(module, x), margins(3, torch.tensor([0, 1]), x.dtype)
    _, bounds = crown(net, region_of(parse_threat("linf:0.1"), x), A)
    charged = (substitute(bounds, Functions({2: A}), sound=False) - substitute(bounds, Functions({2: A}))).double()
    due = sum(
        gamma(layer.weight.shape[0], x.dtype) * torch.einsum("bsk,bk->bs", rows.abs(), bounds.flows[i])
        for i, layer, rows in ((2, module[1], A), (1, module[0], A @ module[1].weight))
    )
    assert bool((charged >= due.double()).all())  # type: ignore[union-attr]


def test_a_deep_network_is_bounded_in_float64() -> None:
    """Rounding adds up with depth: in float32 it would cost the bound, and the choice is the network's own."""
    layers = [part for _ in range(6) for part in (nn.Linear(6, 6), nn.ReLU())]
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    for module, dtype in ((nn.Sequential(*layers), torch.float64), (nn.Sequential(*layers[:10]), torch.float32)):
        net = network_of(as_model(module.eval(), x), x)
        assert net.depth == len(module) // 2
        assert (net.exact is None) == (dtype == torch.float64)
        assert net.dtype == dtype


def test_what_rounding_costs_is_bounded_again_in_float64() -> None:
    """A linear model whose bound is a hundred-thousandth: too little for float32, and proved all the same."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(2, 400, generator=generator), torch.rand(1, 400, generator=generator)
    y, least = torch.zeros(1, dtype=torch.long), certificates.Crown().bound

    def net(bias: float) -> Network:
        return network_of(as_model(Linear(weight, torch.tensor([bias, 0.0])).eval(), x), x)

    exact = net(0.0).exact
    assert exact is not None
    found = net(1e-5 - float(least(exact, mohs.Linf(0.05), x, y)))
    plain, again = (float(least(part, mohs.Linf(0.05), x, y)) for part in (replace(found, exact=None), found))
    assert -0.1 < plain <= 0
    assert 0 < again < 1e-3


@pytest.mark.parametrize("threat", THREATS)
def test_a_region_holds_what_the_set_forgives(threat: str) -> None:
    """The farthest points that still count as successes, by an ulp and a millionth of the budget, lie in what is bounded."""
    set_, x = parse_threat(threat), torch.tensor([[0.0, 0.3, 1.0, 0.6]])
    region = region_of(set_, x)
    far = set_.epsilon * (1 + 1e-6) + set_.rounding()
    assert bool((region.box.lower <= torch.clamp(x - far, min=-set_.rounding())).all())
    assert bool((region.box.upper >= torch.clamp(x + far, max=1 + set_.rounding())).all())
    assert (region.ball is None) == (set_.name == "linf")
    assert region.ball is None or region.ball.radius >= far


@pytest.mark.parametrize("threat", THREATS)
def test_an_example_outside_of_its_own_set_is_refused(threat: str) -> None:
    module, x, y = seeded(lambda: nn.Linear(2, 2)), torch.tensor([[1.05, 0.5]]), torch.zeros(1, dtype=torch.long)
    with pytest.raises(DataError, match="outside the bounds"):
        certificates.Crown()(module, x, y, threat=threat)
    found = certificates.Crown()(as_model(module, x, bounds=(0.0, 1.05)), x, y, threat=threat)
    assert bool((found[0] <= module(x)[0, 0] - module(x)[0, 1]).all())


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5"])
def test_a_bound_over_the_input_is_below_the_exact_one(threat: str) -> None:
    """float32 rounds as often up as down, and what is said to be least must never come out above."""
    generator = torch.Generator().manual_seed(0)
    x, A = torch.rand(50, 300, generator=generator), torch.randn(50, 4, 300, generator=generator)
    region = region_of(parse_threat(threat), x)
    ball = region.ball and region.ball._replace(center=x.double())
    exact = Region(Box(*(side.double() for side in region.box)), ball).lower(A.double(), sound=False)
    assert bool((region.lower(A).double() <= exact).all())
    assert bool((region.lower(A, sound=False).double() > exact).any())


@pytest.mark.parametrize("activation", [SIGMOID, TANH, SILU, GELU, ELU, softplus(2.0)], ids=lambda a: a.name)
def test_a_smooth_activation_stays_between_its_lines_off_the_grid(activation: Smooth) -> None:
    """Less the tangent's slope it has its extremum where the tangent touches: here in the middle of a cell of the grid."""
    h, at = 0.05, torch.linspace(-4, 4, 801, dtype=torch.float64)
    box = Box(at - 10.5 * h, at + (CELLS - 10.5) * h)
    slope = activation.derivative(at)
    least, most = activation._between(box, slope)
    value = activation.function(at) - slope * at
    assert bool((least <= value).all())
    assert bool((value <= most).all())


@pytest.mark.parametrize("transposed", [False, True])
def test_rounding_of_a_convolution_is_that_of_all_its_products(transposed: bool) -> None:
    """Of ones on ones, an output in the middle is the number of its products."""
    weight = torch.ones((3, 5, 3, 3) if transposed else (5, 3, 3, 3))
    made = convolution(weight, None, (3, 9, 9), [1, 1], [1, 1], [1, 1], transposed, [0, 0], 1)
    assert made.terms == int(made.forward(torch.ones(1, 3, 9, 9)).max()) == 27
    assert made.uses == int(made.transpose(torch.ones(1, 5, 9, 9)).max()) == 45


def test_slopes_that_did_not_move_give_the_bound_with_rounding_taken_off() -> None:
    _, net, x, y = world("mlp")
    A = margins(net.classes, y, x.dtype)
    _, bounds = crown(net, region_of(parse_threat("linf:0.1"), x), A)
    functions = Functions({len(net.nodes) - 1: A})
    assert torch.equal(optimised(bounds, functions, Ascent(steps=1)), substitute(bounds, functions))


def test_every_alpha_is_sound() -> None:
    """Lines of every activation bound it on its box, at any alpha."""
    grid = torch.linspace(0, 1, 501, dtype=torch.float64)
    for name in ("residual silu", "leaky", "sigmoid", "softplus", "clipped", "mlp"):
        _, net, _, _ = world(name)
        for node in net.nodes:
            if not isinstance(node.operator, Activation):
                continue
            for low, high in ((-3.0, 2.0), (-0.1, 5.0), (-6.0, -1.0), (0.5, 0.500001), (-20.0, 30.0)):
                box = Box(torch.full((1, 1), low, dtype=torch.float64), torch.full((1, 1), high, dtype=torch.float64))
                x = (low + (high - low) * grid)[:, None]
                value = node.operator.forward(x)
                reach = node.operator.box(box)
                assert float(reach.lower) <= float(value.min()) + 1e-12
                assert float(reach.upper) >= float(value.max()) - 1e-12
                relaxed = node.operator.relax(box)
                for alpha in (0.0, 0.3, 1.0):
                    for line, sign in ((relaxed.lower, 1), (relaxed.upper, -1)):
                        slope, intercept = line.at(torch.full((1, 1, 1), alpha, dtype=torch.float64))
                        gap = value - slope[0] * x - (0.0 if intercept is None else intercept[0])
                        assert float((sign * gap).min()) >= -1e-9, (name, low, high, alpha)


def test_rows_do_not_depend_on_one_another() -> None:
    _, net, x, y = world("conv")
    together, _ = bound(net, x, y, "linf:0.1", "crown")
    alone = torch.cat([bound(net, x[i : i + 1], y[i : i + 1], "linf:0.1", "crown")[0] for i in range(len(x))])
    assert torch.allclose(together, alone, atol=1e-5)


# graphs


class Odd(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: torch.sort(x.flatten(1)).values, "aten.sort"),
        (lambda x: x.flatten(1) * x.flatten(1), "aten.mul.*both depend on the input"),
        (lambda x: (x - x.mean(0)).flatten(1), "aten.mean.dim.*across the rows"),
        (lambda x: F.leaky_relu(x.flatten(1), 1.5), "slope 1.5"),
    ],
)
def test_an_operator_without_a_bound_is_named(function: object, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        trace(Odd(function).eval(), torch.rand(2, 1, 4, 4))


def test_the_layer_of_an_operator_is_named() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Softmax(1), nn.Linear(8, 3)).eval()
    with pytest.raises(Unsupported, match="_softmax"):
        trace(module, torch.rand(2, 1, 4, 4))


def test_code_that_depends_on_values_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be traced"):
        trace(Odd(lambda x: x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)).eval(), torch.rand(2, 1, 4, 4))


def test_exported_files_are_bounded_as_their_modules(tmp_path: Path) -> None:
    module, _, x, y = world("residual relu")
    torch.export.save(torch.export.export(module, (x[:2],)), tmp_path / "net.pt2")
    loaded = mohs.load_model(str(tmp_path / "net.pt2"), x=x)
    here = certificates.Crown()(module, x, y, threat="linf:0.02")
    assert torch.allclose(certificates.Crown()(loaded, x, y, threat="linf:0.02"), here, atol=1e-5)


def test_probabilities_and_margins_are_ranked_as_their_logits() -> None:
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    y = plain(x).argmax(1)
    least = certificates.Crown()(plain, x, y, threat="linf:0.01")
    soft = as_model(nn.Sequential(plain, nn.Softmax(1)).eval(), x, outputs="probabilities")
    assert torch.allclose(certificates.Crown()(soft, x, y, threat="linf:0.01"), least, atol=1e-5)
    single = nn.Linear(16, 1)
    with torch.no_grad():
        single.weight.copy_(plain[1].weight[1:] - plain[1].weight[:1])
        single.bias.copy_(plain[1].bias[1:] - plain[1].bias[:1])
    for tail, outputs in (([], "margin"), ([nn.Sigmoid()], "probabilities")):
        one = as_model(nn.Sequential(nn.Flatten(), single, *tail).eval(), x, outputs=outputs)  # type: ignore[arg-type]
        assert torch.allclose(certificates.Crown()(one, x, y, threat="linf:0.01"), least, atol=1e-5)
    assert network_of(as_model(plain, x), x).classes == 2


# the job


def test_certify_agrees_with_an_audit_and_proved_examples_are_not_attacked(tmp_path: Path) -> None:
    module = network()
    x, y = labelled(module, 24)
    found = mohs.certify(module, (x, y), threat="linf:0.1", method="alpha-crown")
    wrong = torch.arange(24) % 8 == 0
    assert found.clean_accuracy == pytest.approx(21 / 24)
    assert torch.equal(found.proved, found.bounds > 0)
    assert bool((found.bounds[wrong] == -torch.inf).all())
    assert 0 < int(found.proved.sum()) < 21
    assert found.score.high == pytest.approx(21 / 24)
    assert len(found.open) == 21 - int(found.proved.sum())
    assert "open" in str(found)

    options = {"threats": ["linf:0.1"], "profile": "quick"}
    audited = mohs.audit(module, (x, y), certify=True, method="alpha-crown", out=tmp_path / "r", **options)
    threat = audited.verdict.threats[0]
    plain = mohs.audit(module, (x, y), **options)
    assert audited.robust_accuracy == plain.robust_accuracy
    assert threat.certified is not None
    assert threat.certified.robust == int(found.proved.sum())
    assert threat.certified.high == threat.score.high
    records = audited.run.records().to_pandas()
    proved = set(threat.ids[threat.proved].tolist())
    deciding = [stage.name for stage in threat.stages if stage.kind == "decide"]
    assert set(records[records.status == "proved"].id) == proved
    assert not proved & set(records[records.attack.isin(deciding)].id)
    assert set(threat.open.tolist()) == set(threat.ids[(threat.status == "robust")].tolist()) - proved
    assert "lies in" in audited.report(tmp_path / "page.html").read_text()
    assert audited.run.spec["plan"]["profile"]["name"] == "quick+alpha-crown"


def test_proved_and_attacked_at_once_raises(tmp_path: Path) -> None:
    """A record that says both is a fault, and no number is read from it."""
    module = network()
    x, y = labelled(module, 16)
    mohs.audit(module, (x, y), threats=["linf:0.1"], profile="quick", certify=True, method="interval", out=tmp_path / "r")
    run = Run.open(tmp_path / "r")
    broken = run.records().to_pandas().query("status == 'broken' and stage >= 0").id.iloc[0]
    for path in (tmp_path / "r" / "records").glob("t00-g000-s00-*.parquet"):
        table = pq.read_table(path)
        pairs = zip(table["id"].to_pylist(), table["status"].to_pylist(), strict=True)
        status = ["proved" if i == broken else s for i, s in pairs]
        at = table.schema.get_field_index("status")
        pq.write_table(table.set_column(at, table.schema.field(at), [status]), path)
    with pytest.raises(Contradiction, match=str(broken)):
        verdict_of(Run.open(tmp_path / "r"))


def test_targets_that_cannot_be_reached_are_proved() -> None:
    module = network()
    x, y = labelled(module, 16)
    every = mohs.certify(module, (x, y), threat="linf:0.01")
    one = mohs.certify(module, (x, y), threat="linf:0.01", goal="targeted:least-likely")
    each = mohs.certify(module, (x, y), threat="linf:0.01", goal="targeted:all")
    assert torch.allclose(each.bounds, every.bounds, atol=1e-5)
    assert torch.equal(each.proved, every.proved)
    assert each.open == every.open
    assert int(one.proved.sum()) >= int(every.proved.sum())
    with pytest.raises(Refused, match="of a probability"):
        mohs.certify(module, (x, y), threat="linf:0.01", goal="confidence:0.5")


@pytest.mark.parametrize("method", ["interval", "crown", "alpha-crown"])
def test_a_target_is_bounded_by_its_own_margin(method: str) -> None:
    """Of a linear model, by the closed form: another class's margin proves nothing of this one."""
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(4, 9, generator=generator), 0.3 + 0.4 * torch.rand(4, 9, generator=generator)
    module, y = Linear(weight, torch.zeros(4)).eval(), torch.arange(4)
    net, certificate = trace(module, x), certificates.certificate.make(method)
    for shift in (1, 2, 3):
        target = (y + shift) % 4
        away = weight[y] - weight[target]
        exact = (away * x).sum(1) - 0.05 * away.abs().sum(1)
        least = certificate.prove(net, mohs.Linf(0.05), x, Aim(y, target=target)).least
        assert torch.allclose(least.float(), exact, atol=1e-4)
        every = certificate.prove(net, mohs.Linf(0.05), x, Aim(y)).least
        assert bool((every <= least).all())


def test_what_is_refused() -> None:
    module = network()
    data = labelled(module, 8)
    with pytest.raises(Refused, match="linf, l2 and l1"):
        mohs.certify(module, data, threat="l0:3")
    with pytest.raises(UnknownName, match="crown"):
        mohs.certify(module, data, threat="linf:0.1", method="crwn")
    inner = as_model(module, data[0])
    detector = Detector(inner, nn.Identity(), "none")
    with pytest.raises(Refused, match="refuses some inputs"):
        certificates.Crown().check(parse_threat("linf:0.1"), Untargeted(), Guarded(detector, 0.5), data[0])
    with pytest.raises(RequestError, match="takes no profile"):
        mohs.certify(module, data, threat="linf:0.1", profile="quick")
    with pytest.raises(ModelError, match="is random"):
        mohs.certify(nn.Sequential(module, Odd(lambda x: x + torch.rand_like(x))).eval(), data, threat="linf:0.1")


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


def test_the_command(mohs_: Mohs, tmp_path: Path) -> None:
    module = network()
    x, y = labelled(module, 16)
    np.savez(tmp_path / "test.npz", x=x.numpy(), y=y.numpy())
    words = ["tests.small:network", "--data", "test.npz", "--threat", "linf:0.01"]
    done = mohs_("certify", *words, "--method", "crown", "--out", "run", "--require", "linf:0.01 >= 0.01")
    assert done.code == 0, done.err
    assert "proved" in done.out
    assert "run/report.html" in done.out
    again = mohs_("certify", *words, "--json", "--method", "alpha-crown", "--require", "linf:0.01 >= 0.99")
    assert again.code == 1
    threat = json.loads(again.out)["threats"][0]
    assert threat["proved"]["robust"] + len(threat["open"]) == 14
    command = json.loads((tmp_path / "run" / "run.json").read_text())["request"]["command"]
    assert command.startswith("mohs certify tests.small:network --data test.npz --threat linf:0.01")
    audited = mohs_("audit", *words, "--profile", "quick", "--certify", "--out", "both")
    assert audited.code == 0
    assert "lies in [" in audited.out
    for words_, said in (
        (["--threat", "l0:3"], "linf, l2 and l1"),
        (["--threat", "linf:0.1", "--method", "nope"], "branch-and-bound, crown, interval, smoothing"),
        (["--threat", "linf:0.1", "--method", "alpha-crown", "--seconds", "1"], "--seconds is for --method branch-and-bound"),
        (["--threat", "linf:0.1", "--method", "alpha-crown lr=-5"], "lr should be a finite number above 0, not -5"),
    ):
        bad = mohs_("certify", "tests.small:network", "--data", "test.npz", *words_, "--out", "bad")
        assert bad.code == 2
        assert said in bad.said
        assert not (tmp_path / "bad").exists()


# real models


def test_kw_bounds_lie_below_attacks(cases) -> None:  # type: ignore[no-untyped-def]
    """mnist_kw_0.1 at 0.1: what is proved of the first 16, and the known picture that falls is not among it."""
    module, dataset = cases.load("mnist_kw_0.1")
    x, y = (part[:16] for part in cases.data(dataset))
    found = mohs.certify(module, (x, y), threat="linf:0.1")
    assert 14 <= int(found.proved.sum()) <= 16
    audited = mohs.audit(module, (x, y), threats=["linf:0.1"], profile="quick", certify=True)
    assert audited.robust_accuracy["linf:0.1"] >= found.certified_accuracy
