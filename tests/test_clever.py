"""CLEVER, Lipschitz constants and where they lie."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from mohs.certificates.clever import clever, clever_points, in_ball, location
from mohs.certificates.lipschitz import network_bound, spectral_norm
from mohs.errors import ModelError, RequestError, ThreatError
from mohs.models import as_model, prepare
from tests.small import Linear, labelled, network


def linear(classes: int = 4, d: int = 6) -> Linear:
    draw = torch.Generator().manual_seed(3)
    return Linear(torch.randn(classes, d, generator=draw), torch.randn(classes, generator=draw)).eval()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("goal", ["untargeted", "targeted:2", "targeted:least-likely"])
def test_on_a_linear_model_it_is_the_distance_by_the_fallback(norm: str, goal: str) -> None:
    module = linear()
    x = torch.rand(9, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = module(x)
    y = z.argmax(1)
    y[0] = (y[0] + 1) % 4
    found = clever_points(prepare(as_model(module, x), x[:8]), x, y, norm=norm, goal=goal, radius=99.0, batches=3, per_batch=8)
    w = module.weight.detach()
    apart = torch.linalg.vector_norm((w[y][:, None] - w[None]).double(), {"linf": 1, "l2": 2, "l1": math.inf}[norm], dim=2)
    distance = (z.gather(1, y[:, None]) - z).double() / apart
    distance[torch.arange(9), y] = math.inf
    if goal != "untargeted":
        to = z.scatter(1, y[:, None], math.inf).argmin(1) if goal.endswith("likely") else torch.full_like(y, 2)
        distance = distance.gather(1, to[:, None])
    want = distance.min(1).values.numpy()
    want[0] = 0 if goal != "targeted:2" or int(y[0]) != 2 else math.inf  # wrong already, or there already
    assert found.score == pytest.approx(want, rel=1e-5)
    assert not found.fitted.any()


def test_the_location_of_a_reverse_weibull_sample_is_found() -> None:
    draw = stats.weibull_max(c=4.0, loc=10.0, scale=3.0).rvs(400, random_state=np.random.default_rng(0))
    end, good = location(draw)
    assert good
    assert draw.max() < end
    assert end == pytest.approx(10.0, abs=0.4)


def test_a_fit_that_fails_is_told_and_gives_the_largest() -> None:
    assert location(np.full(20, 3.0)) == (3.0, False)
    two = np.repeat([1.0, 2.0], 200)  # no extreme value distribution: every fit is rejected
    assert location(two) == (2.0, False)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_samples_are_uniform_in_the_ball(norm: str) -> None:
    draws = in_ball(torch.Generator().manual_seed(0), norm, 4000, torch.Size([3])).double()
    size = torch.linalg.vector_norm(draws, {"linf": math.inf, "l2": 2, "l1": 1}[norm], dim=1).numpy()
    assert size.max() <= 1 + 1e-6
    assert stats.kstest(size**3, "uniform").pvalue > 1e-3
    assert draws.mean(0).abs().max() < 0.05


def test_an_example_gets_the_same_in_any_company() -> None:
    module = network()
    x, y = labelled(module, 4)
    prepared, ids = prepare(as_model(module, x), x), torch.tensor([3, 8, 1, 6])
    together = clever_points(prepared, x, y, batches=4, per_batch=16, ids=ids)
    alone = clever_points(prepared, x[2:3], y[2:3], batches=4, per_batch=16, ids=ids[2:3])
    assert (alone.lipschitz[0] == together.lipschitz[2]).all()
    assert alone.score[0] == together.score[2] > 0


def jacobian(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = torch.autograd.functional.jacobian(lambda v: layer(v).flatten(), x)  # type: ignore[no-untyped-call]
    return out.reshape(out.shape[0], -1).detach()


class Does(nn.Module):
    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


KERNEL = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(5))
SHADES = torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1)
COPYING: dict[str, Callable[[Tensor], Tensor]] = {
    "replicate": lambda x: functional.pad(x, (3, 3, 3, 3), mode="replicate"),
    "reflect": lambda x: functional.pad(x, (3, 3, 3, 3), mode="reflect"),
    "circular": lambda x: functional.pad(x, (2, 1, 0, 7), mode="circular"),
    "constant": lambda x: functional.pad(x, (1, 1), value=2.0),
    "index": lambda x: x[:, [0, 1, 1]],
    "shift": lambda x: x[:, :1] - SHADES,
    "scale": lambda x: x[:, :1] * SHADES.abs().amax(),
    "shades": lambda x: x[:, :1] * SHADES.sign(),
    "branches": lambda x: functional.relu(x[:, :1]) + torch.cat([x[:, :1], x[:, :1], x[:, :1]], 1),
    "beside": lambda x: torch.cat([x, x, x * 2], 1),
    "keyword": lambda x: functional.conv2d(x, weight=KERNEL),
    "elu": nn.ELU(3.0),
}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(2, 4, 3, groups=2, bias=False),
        nn.AvgPool2d(2),
        nn.MaxPool2d(3, stride=2),
        *map(Does, COPYING.values()),
    ],
    ids=["strided", "grouped", "pool", "max", *COPYING],
)
def test_the_norm_of_a_layer_is_that_of_its_operator(layer: nn.Module) -> None:
    x = torch.rand(1, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    x[0, 0, 3, 3] = -1e-6  # ELU is steepest there
    j = jacobian(layer.eval(), x)
    exact = {"l2": torch.linalg.matrix_norm(j, 2), "linf": j.abs().sum(1).max(), "l1": j.abs().sum(0).max()}
    for norm, value in exact.items():
        found = network_bound(nn.Sequential(layer), x, norm)
        if isinstance(layer, nn.MaxPool2d):
            assert found >= float(value) - 1e-6  # of one region; the constant holds for all
        else:
            assert found == pytest.approx(float(value), rel=1e-4)


@pytest.mark.parametrize("side", [(3, 2, 2), (3, 1, 1), (3, 3, 2), (2, 4, 3), (4, 6, 4)], ids=str)
def test_a_value_is_in_so_many_windows_of_a_pool(side: tuple[int, int, int]) -> None:
    pool = nn.MaxPool2d(side[0], stride=(side[1], 1), dilation=(side[2], 1)).eval()
    spikes = torch.eye(30 * 8).view(-1, 1, 30, 8)  # each the largest of all windows that it is in
    seen = float(pool(spikes).flatten(1).sum(1).max())
    for norm, value in {"linf": 1.0, "l2": math.sqrt(seen), "l1": seen}.items():
        assert network_bound(nn.Sequential(pool), spikes[:1], norm) == pytest.approx(value)


def test_a_weight_that_moves_has_no_constant() -> None:
    with pytest.raises(ModelError, match="linear"):
        network_bound(Does(lambda x: functional.linear(torch.ones(2, 4), x)), torch.rand(1, 4), "l2")


def test_the_bias_is_subtracted() -> None:
    layer = nn.Linear(5, 4).eval()
    nn.init.constant_(layer.bias, 100.0)
    with torch.no_grad():
        assert spectral_norm(layer, torch.zeros(1, 5)) == pytest.approx(
            float(torch.linalg.matrix_norm(layer.weight, 2)), rel=1e-3
        )


def test_a_layer_of_zeros_has_the_norm_zero() -> None:
    layer = nn.Conv2d(2, 3, 3).eval()
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        assert spectral_norm(layer, torch.zeros(1, 2, 7, 7)) == 0.0


class Branched(nn.Module):
    """x + f(x) + f(x), doubled and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_var.fill_(0.25)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(x)
        z: Tensor = self.norm((x + y + y) * 2)
        return z


def test_branches_add_and_steps_multiply() -> None:
    module = Branched().eval()
    nn.init.eye_(module.f.weight)
    assert network_bound(module, torch.rand(1, 4), "linf") == pytest.approx(3 * 2 / math.sqrt(0.25 + 1e-5), rel=1e-4)


def test_an_operation_without_a_constant_is_named() -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    with pytest.raises(ModelError, match="mul"):
        network_bound(Squares(), torch.rand(1, 4), "l2")


def test_estimates_lie_between_the_product_and_the_attack(tmp_path: Path) -> None:
    module = network()
    x, y = labelled(module, 8)
    found = clever(module, (x, y), radius=1.0, batches=8, per_batch=32, out=tmp_path / "out")
    kept = json.loads((tmp_path / "out/clever.json").read_text())
    assert found.certain is not None
    assert found.attacked is not None
    right = found.scores.score > 0
    assert right.tolist() == [False] + [True] * 7
    assert (found.certain[right] <= found.scores.score[right]).all()
    assert (found.certain[right] <= found.attacked[right]).all()
    assert kept["kind"] == "estimate, not a certificate"
    assert kept["examples"][0]["fit"] is None
    assert {row["fit"] for row in kept["examples"][1:]} <= {"reverse Weibull", "largest sample"}
    assert "estimate, not a certificate" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ThreatError, {"norm": "l0"}),
        (ThreatError, {"goal": "topk:2"}),
        (ThreatError, {"goal": "targeted:77"}),
        (RequestError, {"radius": 0.0}),
        (RequestError, {"batches": 1}),
        (RequestError, {"top": 99}),
    ],
)
def test_a_wrong_request_is_refused(error: type[Exception], options: dict[str, object], tmp_path: Path) -> None:
    module = network()
    x, y = labelled(module, 2)
    with pytest.raises(error):
        clever(module, (x, y), out=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
