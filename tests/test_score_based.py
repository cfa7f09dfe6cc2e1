"""Attacks by scores against their papers: estimates beside true gradients, what is accepted, and what is asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mohs import attacks
from mohs.aim import Aim
from mohs.attacks.blackbox.nes import NES
from mohs.attacks.blackbox.slope import slope
from mohs.attacks.blackbox.spsa import SPSA
from mohs.errors import Refused
from mohs.losses import logit_difference
from mohs.models import Guide, Judge, Prepared, TorchModel
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Threat, Untargeted, parse_threat
from tests.small import labelled, network

SHAPE = (2, 4, 4)


class Bowl(nn.Module):
    """z_1 - z_0 = <w, x> - |x - c|^2, whose gradient is w - 2 (x - c)."""

    def __init__(self, curved: bool = True) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.w = torch.randn(32, generator=draw)
        self.c = torch.rand(32, generator=draw)
        self.curved = curved

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        rise = (x * self.w).sum(1) - (x - self.c).square().sum(1) * self.curved
        return torch.stack([torch.zeros_like(rise), rise], 1)

    def slope(self, x: Tensor) -> Tensor:
        return (self.w - 2 * (x.flatten(1) - self.c) * self.curved).view_as(x)


class Watched(nn.Module):
    """Remembers every input that it was given, of each row of one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.seen: list[Tensor] = []
        self.graph = False

    def forward(self, x: Tensor) -> Tensor:
        self.seen += list(x.detach().clone())
        z: Tensor = self.module(x)
        self.graph |= x.requires_grad or z.requires_grad
        return z


def asking(module: nn.Module, x: Tensor, y: Tensor, threat: Threat | str, *, stop: bool = True) -> Oracle:
    threat = parse_threat(threat) if isinstance(threat, str) else threat
    model = TorchModel(module, classes=int(module(x[:1]).shape[1]))
    prepared = Prepared(Judge(model, 16, 1), Guide(model, 16, 1))
    oracle = Oracle.begin(prepared, threat, Untargeted(), x, y, ids=torch.arange(len(x)), stop=stop)
    if isinstance(module, Watched):
        module.seen.clear()
        module.graph = False
    return oracle


def grey(rows: int) -> Tensor:
    return 0.4 + 0.2 * torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(1))


# estimates


@pytest.mark.parametrize("draw", [Stream.normal, Stream.signs])
@pytest.mark.parametrize("curved", [False, True])
def test_a_slope_is_the_mean_of_what_the_gradient_says_along_each_draw(draw, curved: bool) -> None:
    """Pairs of points cancel whatever is even, so that a quadratic function's differences are exact at any distance."""
    module, x = Bowl(curved), grey(3)
    oracle = asking(module, x, torch.zeros(3, dtype=torch.long), "linf:0.3", stop=False)
    stream = oracle.stream.at("here")
    g = slope(oracle, x, x, oracle.threat, logit_difference, draw=draw, stream=stream, pairs=40, size=0.05)  # 40: two chunks
    u = torch.cat([draw(stream.at("pairs", first), n, *SHAPE) for first, n in ((0, 32), (32, 8))], 1)
    true = module.slope(x)
    wanted = torch.stack([(true * u[:, j]).flatten(1).sum(1)[:, None, None, None] * u[:, j] for j in range(40)]).mean(0)
    assert torch.allclose(g, wanted, rtol=1e-3, atol=1e-3)
    g = slope(oracle, x, x, oracle.threat, logit_difference, draw=draw, stream=stream, pairs=4000, size=0.05)
    assert float(torch.cosine_similarity(g.flatten(1), true.flatten(1)).min()) > 0.98


def test_points_asked_about_stay_in_the_box_and_may_leave_the_ball() -> None:
    module, x = Watched(Bowl()), grey(2)
    oracle = asking(module, x, torch.zeros(2, dtype=torch.long), "linf:0.01", stop=False)
    slope(oracle, x, x, oracle.threat, logit_difference, draw=Stream.signs, stream=oracle.stream, pairs=4, size=0.45)
    seen = torch.stack(module.seen)
    assert len(seen) == 16
    assert (float(seen.min()), float(seen.max())) == (0.0, 1.0)


def test_nes_halves_its_step_where_the_loss_falls() -> None:
    """A loss that sinks by one at every question: the first comparison comes after `plateau` steps."""

    def sinking(logits: Tensor, aim: Aim) -> Tensor:
        asked[0] += 1
        return torch.full((len(logits),), -float(asked[0]))

    sizes: list[float] = []

    class Recorded(type(parse_threat("linf:0.1"))):  # type: ignore[misc]
        def step(self, p: Tensor, g: Tensor, x0: Tensor, size: Tensor, epsilon: Tensor | None = None) -> Tensor:
            sizes.append(float(size[0]))
            return super().step(p, g, x0, size, epsilon)

    asked = [0]
    x = grey(1)
    oracle = asking(Bowl(), x, torch.zeros(1, dtype=torch.long), Recorded(0.1), stop=False)
    NES(steps=12, samples=2, plateau=3, step_size=0.4, loss=sinking).run(oracle, x, oracle.threat)
    assert sizes == [pytest.approx(s) for s in [0.4] * 3 + [0.2] * 3 + [0.1] * 3 + [0.05] * 3]


def test_spsa_is_adam_along_its_estimate() -> None:
    """The first step of Adam is its rate in every entry, against the sign of the estimate."""
    module, x = Bowl(), grey(2)
    oracle = asking(module, x, torch.zeros(2, dtype=torch.long), "linf:0.3", stop=False)
    g = slope(
        oracle, x, x, oracle.threat, logit_difference, draw=Stream.signs, stream=oracle.stream.at("step", 0), pairs=8, size=0.01
    )
    found = SPSA(steps=1, samples=16, rate=0.1).run(oracle, x, oracle.threat)
    assert torch.allclose(found, x + 0.03 * g.sign(), atol=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 7])
@pytest.mark.parametrize("kind", [NES, SPSA])
def test_samples_come_in_pairs(kind: type[NES | SPSA], samples: int) -> None:
    x = grey(1)
    with pytest.raises(Refused, match=f"samples {samples}"):
        kind(samples=samples)(Bowl(), x, torch.zeros(1, dtype=torch.long), threat="linf:0.1")


# all of them


@pytest.mark.parametrize("name", ["nes", "spsa"])
def test_no_graph_reaches_the_input(name: str) -> None:
    """The model's parameters ask for gradients, and grad mode is on outside; yet no graph is built."""
    kind = attacks.find(name)
    module = Watched(network())
    x, y = labelled(module, 4)
    threat = "l2:1" if "linf" not in kind.sets else "linf:0.05"
    oracle = asking(module, x, y, f"{threat}+knowledge:scores", stop=False)
    last = kind(**SMALL[name]).run(oracle, oracle.x0, oracle.threat)
    assert module.seen
    assert not module.graph
    assert not last.requires_grad


SMALL: dict[str, dict[str, object]] = {"nes": {"steps": 2}, "spsa": {"steps": 2}}
