"""Attacks by scores against their papers: estimates beside true gradients, what is accepted, and what is asked."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy.fft import idctn
from torch import Tensor, nn

from mohs import attacks
from mohs.aim import Aim
from mohs.attacks.blackbox.bandits import Bandits
from mohs.attacks.blackbox.nes import NES
from mohs.attacks.blackbox.parsimonious import Levels, Parsimonious
from mohs.attacks.blackbox.simba import Basis, SimBA, SimBADCT
from mohs.attacks.blackbox.slope import slope
from mohs.attacks.blackbox.spsa import SPSA
from mohs.attacks.blackbox.square import Grid
from mohs.attacks.blackbox.zoo import ZOO, CoordinateAdam, Regions, draw
from mohs.errors import Refused
from mohs.losses import logit_difference
from mohs.models import Guide, Judge, Prepared, TorchModel, prepare
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Constraints, Threat, Untargeted, parse_threat
from tests.conformance import linear
from tests.small import labelled, network

SHAPE = (2, 4, 4)
SMALL: dict[str, dict[str, object]] = {
    "nes": {"steps": 2},
    "spsa": {"steps": 2},
    "simba": {"queries": 20},
    "simba-dct": {"queries": 20},
    "parsimonious": {"queries": 20},
    "bandits": {"steps": 5},
    "zoo": {"steps": 3, "search_steps": 2, "coordinates": 4},
}


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


@pytest.mark.parametrize("samples", [1, 7])
@pytest.mark.parametrize("kind", [NES, SPSA])
def test_samples_come_in_pairs(kind: type[NES | SPSA], samples: int) -> None:
    x = grey(1)
    with pytest.raises(Refused, match=f"samples {samples}"):
        kind(samples=samples)(Bowl(), x, torch.zeros(1, dtype=torch.long), threat="linf:0.1")


# SimBA


class Plane(nn.Module):
    """z_0 - z_1 = 100 - <w, x>: far from its boundary."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = w

    def forward(self, x: Tensor) -> Tensor:
        rise = (x.flatten(1).double() * self.w).sum(1)
        return torch.stack([100 - rise, torch.zeros_like(rise)], 1)


@pytest.mark.parametrize("made", [SimBA(queries=40, step=0.1), SimBADCT(queries=40, step=0.1, frequencies=0.5)])
def test_simba_asks_about_the_other_side_only_where_the_first_fails(made: Basis) -> None:
    """Followed from what the model was asked: every point is the best so far and one move, plus or minus a direction of
    length `step` that was not used before; k moves are step sqrt(k) long."""
    module, x = Watched(Plane(Bowl().w.double())), grey(1)
    oracle = asking(module, x, torch.zeros(1, dtype=torch.long), "l2:5", stop=False)
    last = made.run(oracle, x, oracle.threat)
    assert len(module.seen) == 40
    assert torch.equal(module.seen[0], x[0])
    rise = [float((point.flatten().double() * module.module.w).sum()) for point in module.seen]
    best, kept, used, failed = 0, 0, [], None
    for i in range(1, 40):
        move = (module.seen[i] - module.seen[best]).flatten()
        assert float(move.norm()) == pytest.approx(0.1, rel=1e-4)
        if failed is not None:
            assert torch.allclose(move, -failed, atol=1e-6)
        else:
            assert all(abs(float(move @ other)) < 1e-5 for other in used), "a direction came twice"
            used.append(move)
        better = rise[i] > rise[best]
        failed = move if not better and failed is None else None
        best, kept = (i, kept + 1) if better else (best, kept)
    assert torch.equal(last[0], module.seen[best])
    assert kept >= 15
    assert float((last - x).norm()) == pytest.approx(0.1 * kept**0.5, rel=1e-3)


def test_a_spent_budget_is_kept_by_projection() -> None:
    x = grey(2)
    oracle = asking(Plane(Bowl().w.double()), x, torch.zeros(2, dtype=torch.long), "l2:0.5", stop=False)
    last = SimBA(queries=200).run(oracle, x, oracle.threat)
    assert (last - x).flatten(1).norm(dim=1).tolist() == [pytest.approx(0.5, rel=1e-5)] * 2
    along = (last - x).flatten(1).double() @ oracle.judge.model.module.w  # type: ignore[attr-defined]
    assert bool((along > 0.8 * 0.5 * Bowl().w.double().norm()).all())  # five directions of 0.2 alone would reach 0.6


def test_waves_are_the_orthonormal_cosine_transform() -> None:
    x = torch.zeros(2 * 6 * 5, 2, 6, 5)
    waves = SimBADCT().direction(torch.arange(60), x)
    units = torch.eye(60, dtype=torch.float64).view(60, 2, 6, 5)
    assert torch.allclose(waves, torch.from_numpy(idctn(units.numpy(), axes=(2, 3), norm="ortho")).float(), atol=1e-6)
    entries = SimBA().direction(torch.arange(60), x)
    assert torch.equal(entries, units.float())


def test_low_waves_come_first() -> None:
    """28 frequencies of 224 a side, then 7 more at a time; all of them in the end, in an order of the row's own."""
    made, x = SimBADCT(), torch.zeros(2, 1, 224, 224)
    order = made.order(Stream.of(0, torch.arange(2)), parse_threat("l2:1"), x)
    highest = torch.maximum(order // 224, order % 224)
    assert torch.equal(order.sort(1).values, torch.arange(224**2).expand(2, -1))
    assert not torch.equal(order[0], order[1])
    for side in range(28, 225, 7):
        assert int(highest[:, : side**2].max()) == side - 1
    vector = made.order(Stream.of(0, torch.arange(1)), parse_threat("l2:1"), torch.zeros(1, 64))
    assert set(vector[0, :8].tolist()) == set(range(8))


def test_entries_that_may_not_change_are_not_asked_about() -> None:
    threat = replace(parse_threat("l2:1"), constraints=Constraints(mask=torch.arange(4).expand(SHAPE) == 1))
    order = SimBA().order(Stream.of(0, torch.arange(3)), threat, grey(3))
    assert torch.equal(order.sort(1).values, torch.arange(1, 32, 4).expand(3, -1))


@pytest.mark.parametrize(("option", "value"), [("frequencies", 0.0), ("frequencies", 1.5), ("stride", 0.0)])
def test_shares_of_a_side(option: str, value: float) -> None:
    x, y = grey(1), torch.zeros(1, dtype=torch.long)
    with pytest.raises(Refused, match=str(value)):
        SimBADCT(**{option: value})(Plane(torch.ones(32)), x, y, threat="l2:1")


# Parsimonious


def test_parsimonious_finds_the_corner_of_a_plane_in_the_queries_of_lazy_greed() -> None:
    """The gain of an entry is the same wherever the others are. One question for the start; 32 for all gains; each of the p
    entries that gain moves in the order of their gains, all but the first asked about once more; p for the ways back; then
    a sweep of 32 in which nothing moves, and it rests."""
    w, x = Bowl().w.double(), grey(2)
    module = Watched(Plane(w))
    oracle = asking(module, x, torch.zeros(2, dtype=torch.long), "linf:0.1", stop=False)
    last = Parsimonious(queries=5000).run(oracle, x, oracle.threat)
    assert torch.allclose(last, x + 0.1 * w.sign().float().view(SHAPE), atol=1e-6)
    p = int((w > 0).sum())
    assert oracle.ledger.queries.tolist() == [1 + 32 + (p - 1) + p + 32] * 2
    one = Watched(Plane(w))
    oracle = asking(one, x[:1], torch.zeros(1, dtype=torch.long), "linf:0.1", stop=False)
    Parsimonious(queries=5000).run(oracle, x[:1], oracle.threat)
    start, moves = one.seen[0], one.seen[33 : 33 + p - 1]
    first = (moves[0] - start).flatten().abs() > 0.1
    assert int(w.argmax()) in first.nonzero()[:, 0].tolist()
    order = [int(((b - a).flatten().abs() > 0.1).nonzero()[0, 0]) for a, b in pairwise(moves)]
    assert order == w.argsort(descending=True)[2:p].tolist()


def test_a_budget_of_queries_ends_the_search() -> None:
    x = grey(3)
    oracle = asking(Plane(Bowl().w.double()), x, torch.zeros(3, dtype=torch.long), "linf:0.1", stop=False)
    Parsimonious(queries=40).run(oracle, x, oracle.threat)
    assert oracle.ledger.queries.tolist() == [40] * 3


def test_a_move_that_stopped_paying_is_taken_back() -> None:
    """a gains most and moves first; b and c gain still; beside both of them a is worth less than nothing."""

    class Rivals(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b, c = (x.flatten(1) > 0.5).float().unbind(1)
            rise = 3 * a + 2 * b + 2 * c - 1.9 * a * (b + c) - 20
            return torch.stack([torch.zeros_like(rise), rise], 1)

    module, x = Watched(Rivals()), torch.full((1, 3), 0.5)
    oracle = asking(module, x, torch.zeros(1, dtype=torch.long), "linf:0.1", stop=False)
    last = Parsimonious().run(oracle, x, oracle.threat)
    assert (last[0] > 0.5).tolist() == [False, True, True]
    assert [True, True, True] in [(seen > 0.5).tolist() for seen in module.seen]


def test_blocks_are_split_in_four() -> None:
    levels = Levels.of(Grid(2, 8, 12), 0.5, torch.ones(1, 2, 8, 12))
    assert [len(free) for free in levels.free] == [2 * 2 * 3, 2 * 4 * 6, 2 * 8 * 12]
    for coarse, fine in pairwise(levels.block):
        assert [len(coarse[fine == block].unique()) for block in fine.unique().tolist()] == [1] * len(fine.unique())
    for block, first in zip(levels.block, levels.first, strict=True):
        numbers = block.unique()
        assert torch.equal(block[first[numbers]], numbers)
    assert torch.equal(levels.block[0].view(2, 8, 12)[1, :4, 4:8], torch.full((4, 4), 7))
    masked = Levels.of(Grid(1, 4, 4), 0.5, (torch.arange(16) < 1).float().view(1, 1, 4, 4))
    assert [free.tolist() for free in masked.free] == [[0], [0]]


# Bandits


def test_tanh_of_a_sum_is_the_exponentiated_gradient() -> None:
    """v' = (p e^g - (1 - p) e^-g) / (p e^g + (1 - p) e^-g) at p = (v + 1) / 2, as printed."""
    w, g = torch.linspace(-2, 2, 9, dtype=torch.float64), torch.linspace(1, -3, 9, dtype=torch.float64)
    p = (w.tanh() + 1) / 2
    up, down = p * g.exp(), (1 - p) * (-g).exp()
    assert torch.allclose((w + g).tanh(), (up - down) / (up + down))


@pytest.mark.parametrize(("threat", "probe", "size"), [("linf:0.1", 0.1, 0.2), ("l2:0.5", 0.01, 0.1)])
def test_bandits_steps_along_the_prior_that_two_scores_made(threat: str, probe: float, size: float) -> None:
    """From a prior of nothing: it asks `probe` to both sides along u, of tiles of one colour, and steps to the better one."""
    w, x = Bowl().w.double(), grey(1)
    module = Watched(Plane(w))
    oracle = asking(module, x, torch.zeros(1, dtype=torch.long), threat, stop=False)
    last = Bandits(steps=1, tile=2, loss=logit_difference).run(oracle, x, oracle.threat)
    up, down, end = (seen - x[0] for seen in module.seen)
    assert torch.allclose(up, -down, atol=1e-6)
    assert float(up.norm()) == pytest.approx(probe, rel=1e-4)
    tiles = up.view(2, 2, 2, 2, 2).transpose(2, 3).reshape(8, 4)
    assert torch.allclose(tiles, tiles[:, :1].expand(-1, 4), atol=1e-6)
    assert len(tiles[:, 0].unique()) == 8
    way = up * float((up.flatten().double() @ w).sign())
    wanted = way.sign() * size * 0.1 if threat.startswith("linf") else way / way.norm() * size * 0.5
    assert torch.allclose(end, wanted, atol=1e-5)
    assert torch.equal(last[0], end + x[0]) or torch.allclose(last[0], module.seen[2])


def test_the_prior_turns_to_the_gradient() -> None:
    w, x = Bowl().w.double(), grey(2)
    oracle = asking(Plane(w), x, torch.zeros(2, dtype=torch.long), "linf:0.1", stop=False)
    last = Bandits(steps=400, tile=1, prior_rate=0.05, loss=logit_difference).run(oracle, x, oracle.threat)
    assert bool(((last - x).flatten(1).double() @ w > 0.9 * 0.1 * w.abs().sum()).all())


# ZOO


def test_zoo_takes_differences_in_the_box() -> None:
    """Of a quadratic function they are exact, but where the box leaves one side: there the bend counts, h times a half of
    the second derivative, 2."""
    module, x = Bowl(), grey(2)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = 0.0, 1.0
    oracle = asking(module, x, torch.zeros(2, dtype=torch.long), "l2:inf", stop=False)
    chosen = torch.tensor([[0, 1, 5, 31], [0, 9, 8, 1]])
    g = ZOO(h=0.01).slope(oracle, x, chosen, oracle.threat, logit_difference)
    true = -module.slope(x).flatten(1).gather(1, chosen)
    bend = torch.zeros_like(true)
    bend[0, 0] = bend[1, 0] = 0.01
    bend[0, 1] = bend[1, 3] = -0.01
    assert torch.allclose(g, true + bend, atol=2e-3)
    fixed = replace(oracle.threat, constraints=Constraints(mask=torch.arange(4).expand(SHAPE) != 1))
    g = ZOO(h=0.01).slope(oracle, x, chosen, fixed, logit_difference)
    assert torch.equal(g == 0, chosen % 4 == 1)


def test_every_coordinate_counts_its_own_steps() -> None:
    """A coordinate that steps now and then goes where Adam would take it alone."""
    draws = torch.Generator().manual_seed(0)
    x = torch.zeros(2, 5)
    adam = CoordinateAdam(x, 0.1, 30)
    values = [[torch.zeros(1) for _ in range(5)] for _ in x]
    alone = [[torch.optim.Adam([value], lr=0.1) for value in row] for row in values]
    for _ in range(30):
        chosen = torch.stack([torch.randperm(5, generator=draws)[:2] for _ in range(2)])
        g = torch.randn(2, 2, generator=draws)
        x = adam.step(x, chosen, g)
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            k = int(chosen[i, j])
            values[i][k].grad = g[i, j].view(1).clone()
            alone[i][k].step()
    assert torch.allclose(x, torch.tensor([[float(v) for v in row] for row in values]), atol=1e-5)


def test_coordinates_are_drawn_by_their_weight() -> None:
    """Without replacement; a weight of nothing is never drawn, one of four times as much four times as often."""
    weight = torch.tensor([0.0, 1.0, 4.0, 1.0]).expand(8000, -1)
    found = draw(weight, Stream.of(0, torch.arange(8000)), 1)[:, 0]
    assert found.bincount(minlength=4).double().div(8000).tolist() == [
        pytest.approx(share, abs=0.02) for share in (0, 1 / 6, 4 / 6, 1 / 6)
    ]
    three = draw(weight, Stream.of(0, torch.arange(8000)), 3)
    assert torch.equal(three.sort(1).values, torch.tensor([1, 2, 3]).expand(8000, -1))


def test_regions_weigh_what_changed_most_in_them() -> None:
    regions = Regions.of(torch.zeros(1, 2, 16, 16), parse_threat("l2:1"))
    change = torch.zeros(1, 2, 16, 16)
    change[0, 1, 3, 5], change[0, 1, 2, 4], change[0, 0, 15, 15] = -0.5, 0.2, 0.1
    weight = regions.weights(change).view(2, 16, 16)
    assert weight[1, 2:4, 4:6].unique().tolist() == [0.5]
    assert weight[0, 14:, 14:].unique().tolist() == [pytest.approx(0.1)]
    assert int((weight > 0.006).sum()) == 8
    assert float(weight.min()) == pytest.approx(0.005)


def test_zoo_comes_near_the_boundary_of_a_plane() -> None:
    w = linear().world
    prepared = prepare(TorchModel(w.module, classes=4), w.x, rows=256)
    made = ZOO(search_steps=4, steps=100, coordinates=18, learning_rate=0.015, initial_const=0.1, abort_early=False)
    out = made(prepared, w.x, w.y, threat="l2:inf")
    assert float(out.distance.max()) <= 1.06 * linear().distance("l2")


# all of them


@pytest.mark.parametrize("name", SMALL)
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
