"""PGD from where a bound would be attained: exact where the bound is, and every start in the set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mohs import attacks
from mohs.certificates import Crown
from mohs.certificates.crown import attained, margins
from mohs.certificates.graph import trace
from mohs.certificates.region import region_of
from mohs.errors import Refused
from mohs.models import TorchModel, prepare
from mohs.oracle import Oracle
from mohs.threat import Untargeted, parse_threat
from tests.test_certificates import seeded

THREATS = ["linf:0.1", "l2:0.2", "l1:0.18"]


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), seeded(lambda: nn.Linear(12, 4), 1))


def relu() -> nn.Module:
    return nn.Sequential(nn.Flatten(), seeded(lambda: nn.Linear(12, 16), 2), nn.ReLU(), seeded(lambda: nn.Linear(16, 4), 3))


def examples(n: int = 24) -> Tensor:
    return 0.2 + 0.6 * torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def begun(module: nn.Module, x: Tensor, threat: str) -> Oracle:
    y = module(x).argmax(1)
    prepared = prepare(TorchModel(module, classes=4), x, rows=16)
    return Oracle.begin(prepared, parse_threat(threat), Untargeted(), x, y, ids=torch.arange(len(x)))


@pytest.mark.parametrize("threat", THREATS)
def test_of_a_linear_network_the_first_input_decides(threat: str) -> None:
    """The bound is exact there and the box far away: one step of every start breaks what can be broken."""
    module, x = linear(), examples(64)
    y = module(x).argmax(1)
    least = Crown()(module, x, y, threat=threat).amin(1)
    clear = least.abs() > 1e-3
    broken = attacks.FromBound(steps=1, step_size=1e-6)(module, x, y, threat=threat).broken
    assert torch.equal(broken[clear], (least < 0)[clear])
    assert 0 < int(broken.sum()) < len(x)


@pytest.mark.parametrize("threat", [*THREATS, "l2:1.2", "l1:4"])
def test_the_starts_lie_in_the_set_where_the_linear_bound_is_least(threat: str) -> None:
    module, x = relu(), examples()
    y, parsed = module(x).argmax(1), parse_threat(threat)
    network = trace(module, x)
    lower, points = attained(network, region_of(parsed, x), margins(4, y, x.dtype))
    assert points.shape == (24, 3, 3, 2, 2)
    for k in range(3):
        moved = (parsed.project(points[:, k], x) - points[:, k]).abs().max()
        assert float(moved) < 1e-5
        values = torch.einsum("bk,bk->b", margins(4, y, x.dtype)[:, k], module(points[:, k]))
        assert bool((values >= lower[:, k] - 1e-4).all())
    starts = attacks.FromBound(targets=2).starts(begun(module, x, threat), x, parsed)
    best = lower.argsort(dim=1)[:, :2]
    torch.testing.assert_close(starts, points[torch.arange(24).unsqueeze(1), best])


def test_where_the_goal_names_a_class_there_is_its_start_alone() -> None:
    module, x = relu(), examples()
    y = module(x).argmax(1)
    outcome = attacks.FromBound(steps=3)(module, x, y, threat="linf:0.3", goal="targeted:2")
    assert bool((outcome.label[outcome.broken & (y != 2)] == 2).all())
    assert int(outcome.forwards.max()) <= 3


@pytest.mark.parametrize("name", ["from-bound", "noisy-copies"])
def test_who_sees_surrogates_alone_does_not_open_the_attacked_model(name: str) -> None:
    model, attack = TorchModel(relu(), classes=4), attacks.find(name)()
    attack.check(parse_threat("linf:0.1"), Untargeted(), model)
    with pytest.raises(Refused, match="shows surrogates alone"):
        attack.check(parse_threat("linf:0.1+knowledge:transfer"), Untargeted(), model)
    scripted = TorchModel(torch.jit.trace(relu(), examples(2)), classes=4)
    with pytest.raises(Refused, match="opens a torch module"):
        attack.check(parse_threat("linf:0.1"), Untargeted(), scripted)
