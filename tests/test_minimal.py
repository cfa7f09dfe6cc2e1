"""Minimal-norm attacks against closed forms and their papers' update rules, and the proximal maps against a plain search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mohs import geometry
from mohs.aim import Aim
from mohs.asking import Answer
from mohs.attacks import find
from mohs.attacks.adam import adam
from mohs.attacks.base import Attack
from mohs.attacks.minimal.alma import ALMA, slope, violated
from mohs.attacks.minimal.ddn import DDN
from mohs.attacks.minimal.fab import FAB
from mohs.attacks.minimal.fmn import FMN
from mohs.attacks.minimal.superdeepfool import SuperDeepFool
from mohs.attacks.sparse.sigma_zero import SigmaZero
from mohs.errors import Refused
from mohs.geometry import Norm
from mohs.models import Prepared, TorchModel, prepare
from mohs.oracle import Oracle
from mohs.threat import Constraints, Targeted, Untargeted, parse_threat
from tests.conformance import linear, world


class Ball(nn.Module):
    """z_0 - z_1 = radius^2 - ||x - 1/2||^2: class 1 lies outside a sphere."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(radius), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        f = self.radius**2 - (x - 0.5).flatten(1).square().sum(1)
        return torch.stack([f, torch.zeros_like(f), torch.full_like(f, -1.0)], 1)


class Bowl(nn.Module):
    """The margin of class 1 is <a, x>^2 + <b, x> - 1: its gradient turns on the way, so that DeepFool's point is not the
    nearest."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([4.0, 0.0, 1.0]), requires_grad=False)
        self.b = nn.Parameter(torch.tensor([0.2, 1.5, 0.0]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        f = ((x * self.a).sum(1)) ** 2 + (x * self.b).sum(1) - 1
        return torch.stack([torch.zeros_like(f), f, torch.full_like(f, -50.0)], 1)


def sphere(radius: float, offset: float) -> tuple[Prepared, Tensor, Tensor]:
    """Six points `offset` away from the centre of `Ball`, in random directions; `radius - offset` from the boundary."""
    way = nn.functional.normalize(torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(5)).flatten(1))
    x = 0.5 + offset * way.view(6, 1, 3, 3)
    return prepare(TorchModel(Ball(radius).eval(), classes=3), x, rows=16), x, torch.zeros(6, dtype=torch.long)


@pytest.mark.parametrize(
    ("name", "options", "factor"),
    [
        ("ddn", {"steps": 100}, 1.02),
        ("fmn", {"steps": 60}, 1.02),
        ("alma", {"steps": 200, "alpha": 0.5}, 1.3),
        ("pdpgd", {"steps": 400}, 1.25),
        ("fab", {"steps": 20}, 1.02),
    ],
)
def test_a_sphere_is_reached_where_it_is_nearest(name: str, options: dict[str, object], factor: float) -> None:
    prepared, x, y = sphere(0.3, 0.1)
    out = find(name)(**options)(prepared, x, y, threat="l2:inf", stop=False)  # type: ignore[arg-type]
    assert bool(out.broken.all())
    assert float(out.distance.min()) >= 0.2 * (1 - 1e-5)
    assert float(out.distance.max()) <= 0.2 * factor


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("superdeepfool", {}),
        ("ddn", {"steps": 100}),
        ("fmn", {"steps": 60}),
        ("alma", {"steps": 200, "alpha": 0.5}),
        ("pdpgd", {"steps": 200}),
        ("fab", {"steps": 20}),
        ("sigma-zero", {"steps": 60}),
    ],
)
def test_masked_entries_stay_and_the_rest_is_used(name: str, options: dict[str, object]) -> None:
    """Under a mask the linear model's distance is that of the entries left."""
    model = linear()
    mask = torch.arange(36).view(1, 6, 6) % 3 == 0
    kind = "l0" if name == "sigma-zero" else "l2"
    threat = replace(parse_threat(f"{kind}:inf"), constraints=Constraints(mask=mask))
    out = find(name)(**options)(model.world.prepared, model.world.x, model.world.y, threat=threat, stop=False)  # type: ignore[arg-type]
    assert bool(out.broken.all())
    fixed = ~mask.expand_as(model.world.x)
    assert torch.equal(out.adversarial[fixed], model.world.x[fixed])
    if kind == "l2":
        wanted = model.gap / float(model.w[mask.flatten()].norm())
        assert float(out.distance.max()) <= wanted * (1.15 if name in ("alma", "pdpgd") else 1.02)
        assert float(out.distance.min()) >= wanted * (1 - 1e-5)


# SuperDeepFool


def test_superdeepfool_is_nearer_than_deepfool_on_a_curved_boundary() -> None:
    x = torch.tensor([[0.02, 0.05, 0.1], [0.05, 0.3, 0.02], [0.1, 0.1, 0.1]]).view(3, 1, 1, 3)
    prepared = prepare(TorchModel(Bowl().eval(), classes=3), x, rows=16)
    y = torch.zeros(3, dtype=torch.long)
    plain = find("deepfool")()(prepared, x, y, threat="l2:inf", stop=False).distance
    out = SuperDeepFool()(prepared, x, y, threat="l2:inf", stop=False).distance
    fine = find("fmn")(steps=500)(prepared, x, y, threat="l2:inf", stop=False).distance  # type: ignore[call-arg]
    assert bool((out < plain).all())
    assert bool((out - fine < 0.5 * (plain - fine)).all())


def test_superdeepfool_is_exact_on_a_linear_model_and_stops_there() -> None:
    model = linear()
    out = SuperDeepFool()(model.world.prepared, model.world.x, model.world.y, threat="l2:inf", stop=False)
    assert torch.allclose(out.distance, torch.tensor(model.distance("l2")).double(), rtol=1e-3)
    assert bool((out.distance >= model.distance("l2") * (1 - 1e-5)).all())
    assert out.backwards.tolist() == [5] * 6  # one linearisation of four classes, one gradient across


# DDN and FMN


def recorded(attack: Attack, threat: str, margin: list[float], known: Tensor | None = None) -> list[Tensor]:
    """The points that an attack asks about, where the answer's gradient is fixed and its margin as given. known: a success
    of an earlier attack."""
    asked: list[Tensor] = []
    x = torch.full((1, 1, 2, 2), 0.5)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    prepared = prepare(TorchModel(module, classes=3), x, rows=16)

    def gradient(p: Tensor, loss: object, rows: Tensor | None = None) -> Answer:
        asked.append(p.clone())
        value = torch.tensor([margin[len(asked) - 1]])
        return Answer(value, torch.zeros(1, 3), value, torch.tensor([[[[3.0, 0.0], [4.0, 0.0]]]]))

    oracle = Oracle.begin(prepared, parse_threat(threat), Untargeted(), x, torch.zeros(1, dtype=torch.long), ids=torch.arange(1))
    oracle.gradient = gradient  # type: ignore[method-assign]
    if known is not None:
        ledger = oracle.ledger
        ledger.broken[:], ledger.point[:], ledger.distance[:] = True, known, oracle.threat.distance(known, x)
    attack.run(oracle, oracle.x0, oracle.threat)
    return asked


def test_ddn_radius_shrinks_after_a_success_and_grows_after_a_failure() -> None:
    asked = recorded(DDN(steps=4, norm=0.2), "l2:inf", [-1.0, -1.0, 1.0, -1.0])
    sizes = [float((p - 0.5).norm()) for p in asked]
    assert sizes == pytest.approx([0, 0.2 * 1.05, 0.2 * 1.05**2, 0.2 * 1.05**2 * 0.95], rel=1e-5)


@pytest.mark.parametrize(("kind", "dual"), [("l2", 5.0), ("linf", 7.0), ("l1", 4.0)])
def test_fmn_radius_is_the_linear_distance_until_a_success(kind: str, dual: float) -> None:
    """Then (1 - gamma) of itself, and (1 + gamma) after a failure; the step is long enough to reach the ball."""
    norm = {"l2": geometry.L2, "linf": geometry.LINF, "l1": geometry.L1}[kind]
    asked = recorded(FMN(steps=4, gamma=0.1, gamma_final=0.1, step_size=2.0), f"{kind}:inf", [-1.0, 0.5, -0.5, 0.5])
    sizes = [float(norm.distance(p - 0.5)) for p in asked]
    first = 1 / dual
    assert sizes == pytest.approx([0, first, first * 0.9, first * 0.9 * 1.1], rel=1e-4)


def test_fmn_goes_on_from_a_known_success_at_its_radius() -> None:
    known = torch.tensor([[[[0.5, 0.7], [0.5, 0.9]]]])
    far = float((known - 0.5).norm())
    options = {"steps": 3, "gamma": 0.1, "gamma_final": 0.1, "step_size": 2.0}
    asked = recorded(FMN(warm=True, **options), "l2:inf", [0.5, -0.5, -0.5], known)  # type: ignore[arg-type]
    assert torch.equal(asked[0], known)
    assert [float((p - 0.5).norm()) for p in asked] == pytest.approx([far, 0.9 * far, 0.9 * 1.1 * far], rel=1e-4)
    cold = recorded(FMN(**options), "l2:inf", [-0.5] * 3, known)  # type: ignore[arg-type]
    alone = recorded(FMN(warm=True, **options), "l2:inf", [-0.5] * 3)  # type: ignore[arg-type]
    assert not (cold[0] - 0.5).any()
    assert not (alone[0] - 0.5).any()


def test_fmn_counts_by_ones_in_l0() -> None:
    asked = recorded(FMN(steps=5), "l0:inf", [-1.0, 1.0, -1.0, 1.0, -1.0])
    assert [int((p != 0.5).sum()) for p in asked] == [0, 2, 1, 2, 1]


def test_ddn_goes_anywhere_where_there_is_no_gradient() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].bias.copy_(torch.tensor([1.0, 0.0]))
    out = DDN(steps=3)(prepare(TorchModel(module, classes=2), x, rows=16), x, torch.zeros(2, dtype=torch.long), threat="l2:inf")
    assert out.status == ["survived"] * 2


# ALMA


def test_the_slope_of_the_penalty_is_its_derivative() -> None:
    c = torch.linspace(-2, 2, 41, dtype=torch.float64).requires_grad_()
    rho, mu = torch.full_like(c, 1.7), torch.full_like(c, 0.6)
    above = mu * c + mu * rho * c**2 + rho**2 * c**3 / 6
    below = mu * c / (1 - rho * c.clamp(max=0))
    penalty = torch.where(c >= 0, above, below)
    wanted = torch.autograd.grad(penalty.sum(), c)[0]
    assert torch.allclose(slope(c.detach(), rho, mu), wanted)


def test_the_violation_is_negative_where_the_goal_is_reached() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, -2.0], [1.0, 3.0, 0.0, -2.0], [1.0, 1.0, 0.0, -2.0]])
    y = torch.zeros(3, dtype=torch.long)
    c = violated(Untargeted(), 1e-4)(logits, Aim(y))
    assert c.tolist() == pytest.approx([(2 + 1e-4) / 3, (1e-4 - 2) / 3, 1e-4], rel=1e-4)
    c = violated(Targeted(to=1), 1e-4)(logits, Aim(y, target=torch.ones_like(y)))
    assert c.tolist() == pytest.approx([(2 + 1e-4) / 4, (1e-4 - 2) / 4, 1e-4 / 2], rel=1e-4)


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_alma_first_step_has_the_distance_asked_for(kind: str) -> None:
    model = linear()
    w = model.world
    oracle = Oracle.begin(w.prepared, parse_threat(f"{kind}:inf"), Untargeted(), w.x, w.y, ids=w.ids, stop=False)
    x = ALMA(steps=1, first=0.05).run(oracle, oracle.x0, oracle.threat)
    size = oracle.threat.distance(x, w.x)
    assert bool((size > 0.04).all())
    assert bool((size < 0.055).all())  # the first average of squares divides by about 1


def test_alma_needs_three_classes() -> None:
    x = torch.rand(2, 4)
    prepared = prepare(TorchModel(nn.Linear(4, 2).eval(), classes=2), x, rows=16)
    with pytest.raises(Refused, match="3 logits"):
        ALMA()(prepared, x, torch.zeros(2, dtype=torch.long), threat="l2:inf")


# sigma-zero


def test_the_smooth_count_has_the_gradient_of_its_formula() -> None:
    delta = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).mul_(0.1).requires_grad_()
    count = (delta**2 / (delta**2 + 1e-2)).flatten(1).mean(1).sum()
    wanted = torch.autograd.grad(count, delta)[0]
    assert torch.allclose(SigmaZero(sigma=1e-2)._count(delta.detach()), wanted, rtol=1e-4)


def test_sigma_zero_changes_one_entry_of_a_linear_model() -> None:
    model = linear()
    out = SigmaZero(steps=200)(model.world.prepared, model.world.x, model.world.y, threat="l0:inf", stop=False)
    assert out.distance.tolist() == [1.0] * 6


def test_adam_is_torch_s() -> None:
    p = torch.zeros(2, 3, requires_grad=True)
    optimiser = torch.optim.Adam([p], lr=0.1)
    x, m, v = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)
    for k in range(5):
        g = torch.randn(2, 3, generator=torch.Generator().manual_seed(k))
        p.grad = g.clone()
        optimiser.step()
        direction, metric = adam(g, m, v, k)
        x = x - 0.1 * direction / metric
    assert torch.allclose(x, p.detach(), atol=1e-6)


# proximal maps


def penalty(norm: Norm, w: Tensor) -> Tensor:
    return norm.distance(w)


@pytest.mark.parametrize("norm", [geometry.L2, geometry.L1, geometry.LINF, geometry.L0], ids=lambda n: n.name)
def test_prox_is_the_least_of_its_objective(norm: Norm) -> None:
    """No other point is better: not the input, zero, any of many near and far, nor any subset of the entries."""
    g = torch.Generator().manual_seed(1)
    for size in (0.1, 0.5, 2.0):
        v = torch.randn(20, 4, generator=g)
        scale = torch.full((20,), size, dtype=torch.float64)

        def value(w: Tensor, v: Tensor = v, scale: Tensor = scale) -> Tensor:
            return (w - v).double().square().sum(1) / 2 + scale * penalty(norm, w)

        w = norm.prox(v.clone(), scale)
        least = value(w)
        for other in _others(v, w, g):
            assert bool((value(other) >= least - 1e-6).all())
    assert torch.equal(norm.prox(torch.ones(1, 3), torch.zeros(1, dtype=torch.float64)), torch.ones(1, 3))


def _others(v: Tensor, w: Tensor, g: torch.Generator) -> Iterator[Tensor]:
    yield v
    for bits in range(16):
        yield v * torch.tensor([float(bits >> i & 1) for i in range(4)])
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(30):
            yield w + scale * torch.randn(v.shape, generator=g)


def test_prox_of_pixels_keeps_whole_pixels() -> None:
    v = torch.tensor([[[[0.5, 0.1]], [[0.9, 0.1]]]])  # 2 channels of 1 x 2
    w = geometry.L0_PIXELS.prox(v.clone(), torch.tensor([0.1], dtype=torch.float64))
    assert w.tolist() == [[[[0.5, 0.0]], [[pytest.approx(0.9), 0.0]]]]


# FAB


def test_fab_goes_to_the_nearest_of_many_classes() -> None:
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(7, 20, generator=generator) * torch.rand(7, 1, generator=generator).mul(3).add(0.2)
    bias, x = torch.randn(7, generator=generator) * 0.1, torch.rand(10, 20, generator=generator) * 0.2 + 0.4
    module = nn.Linear(20, 7).eval()
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias - weight @ torch.full((20,), 0.5))
        z = module(x).double()
    y = z.argmax(1)
    gaps = z.gather(1, y[:, None]) - z
    normals = (weight[None] - weight[y][:, None]).double().norm(dim=2)
    nearest = (gaps / normals).scatter(1, y[:, None], math.inf).amin(1)
    out = FAB(steps=30)(prepare(TorchModel(module, classes=7), x, rows=16), x, y, threat="l2:inf", stop=False)
    assert torch.allclose(out.distance, nearest, rtol=1e-2)
    assert out.backwards.tolist() == [30 * 7] * 10
    some = FAB(steps=30, candidates=3)(prepare(TorchModel(module, classes=7), x, rows=16), x, y, threat="l2:inf", stop=False)
    assert some.backwards.tolist() == [30 * 3] * 10


def test_fab_of_a_named_class_has_one_boundary() -> None:
    w = world()
    out = FAB(steps=5)(w.prepared, w.x, w.y, threat="l2:inf", goal="targeted:least-likely", stop=False)
    assert out.backwards.tolist() == [5] * 12


# Real models


@pytest.mark.parametrize(
    ("name", "threat", "options", "median"),
    [
        ("superdeepfool", "l2:inf", {}, 0.4419),
        ("ddn", "l2:inf", {"steps": 100}, 0.4852),
        ("alma", "l2:inf", {"steps": 100}, 0.4278),
        ("sigma-zero", "l0:inf", {"steps": 100}, 8),
        ("fmn", "l1:inf", {"steps": 100}, 3.9085),
        ("pdpgd", "l1:inf", {"steps": 100}, 4.3592),
        ("fab", "l2:inf", {"steps": 50}, 0.4301),
    ],
)
def test_on_a_real_model_as_adv_lib_finds(
    cases: object, name: str, threat: str, options: dict[str, object], median: float
) -> None:
    """Medians of adv-lib 0.2.8 on the same 32 images; its DDN without rounding, its ALMA with first steps of 0.1."""
    module, data = cases.load("cifar_cnn_a_adv")  # type: ignore[attr-defined]
    x, y = cases.data(data)  # type: ignore[attr-defined]
    x, y = x[:192], y[:192]
    with torch.no_grad():
        rows = (module(x).argmax(1) == y).nonzero()[:32, 0]
    prepared = prepare(TorchModel(module, classes=10), x[rows], rows=64)
    out = find(name)(**options)(prepared, x[rows], y[rows], threat=threat, stop=False)  # type: ignore[arg-type]
    assert bool(out.broken.all())
    assert float(out.distance.median()) == pytest.approx(median, rel=0.01)
