"""Square and DeepFool against their papers: window sizes, query counts, norms kept, exact distances of linear models."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mohs.attacks.blackbox.square import SEARCHES, Grid, Square, State
from mohs.attacks.minimal.deepfool import DeepFool
from mohs.models import Guide, Judge, Prepared, TorchModel, prepare
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Constraints, Untargeted, parse_threat
from tests.conformance import Counter, frozen_module, linear, world

IMAGES = torch.zeros(1, 3, 32, 32)


def stream(rows: int) -> Stream:
    return Stream.of(0, torch.arange(rows))


def affine(weight: Tensor, bias: Tensor, x: Tensor, bounds: tuple[float, float] = (-100.0, 100.0)) -> Prepared:
    module = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight))).eval()
    with torch.no_grad():
        module[1].weight.copy_(weight)
        module[1].bias.copy_(bias)
    return prepare(TorchModel(module, classes=len(weight), bounds=bounds), x, rows=16)


# Square


@pytest.mark.parametrize(
    ("norm", "wanted"),
    # Side of the window in a 32 x 32 image after so many steps of 10,000, p = 0.8: round(sqrt(p 32^2)); odd, >= 3 in L2.
    [
        ("linf", {0: 29, 10: 29, 11: 20, 51: 14, 201: 10, 501: 7, 1001: 5, 2001: 4, 4001: 3, 6001: 2, 8001: 1, 9999: 1}),
        ("l2", {0: 29, 10: 29, 11: 21, 51: 15, 201: 11, 501: 7, 1001: 5, 2001: 5, 4001: 3, 6001: 3, 8001: 3, 9999: 3}),
        ("l1", {0: 29, 11: 21, 2000: 5, 4000: 5, 9999: 3}),
    ],
)
def test_windows_shrink_by_the_schedule(norm: str, wanted: dict[int, int]) -> None:
    search = SEARCHES[norm](parse_threat(f"{norm}:0.1"), Grid.of(IMAGES))
    for step, side in wanted.items():
        assert search.sides(Square().part(step)) == (side, side), step
        scaled = Square(queries=1000, rescale_schedule=True)
        assert search.sides(scaled.part(step // 10)) == search.sides(Square().part(step // 10 * 10)), step
    assert Square(queries=1000).part(999) == Square().part(999)


@pytest.mark.parametrize(
    ("shape", "part", "sides"),
    [((1, 100), 0.8, (1, 80)), ((1, 100), 0.005, (1, 1)), ((3, 10, 40), 0.04, (4, 4)), ((3, 40, 10), 0.8, (32, 10))],
)
def test_windows_that_do_not_fit_keep_their_part(shape: tuple[int, ...], part: float, sides: tuple[int, int]) -> None:
    assert SEARCHES["linf"](parse_threat("linf:0.1"), Grid.of(torch.zeros(2, *shape))).sides(part) == sides


def test_layouts() -> None:
    assert Grid.of(torch.zeros(5, 7)) == Grid(1, 1, 7)
    assert Grid.of(torch.zeros(5, 2, 7)) == Grid(1, 2, 7)
    assert Grid.of(torch.zeros(5, 3, 8, 9)) == Grid(3, 8, 9)
    assert Grid.of(torch.zeros(5, 2, 3, 8, 9)) == Grid(6, 8, 9)


def test_windows_reach_every_place() -> None:
    search = SEARCHES["linf"](parse_threat("linf:0.1"), Grid(1, 4, 5))
    window = search.window(0.2, torch.device("cpu"))
    assert window.sides == (2, 2)
    found = search.entries(window, stream(2000).uniform(2))[:, 0]
    corners = {4 * row + column + row for row in range(3) for column in range(4)}
    assert {int(corner) for corner in found[:, 0]} == corners
    assert torch.equal(found - found[:, :1], torch.tensor([0, 1, 5, 6]).expand(2000, -1))


def test_linf_starts_from_stripes_and_changes_one_window() -> None:
    x0 = torch.full((6, 3, 16, 16), 0.5)
    x0[:, :, 0] = 0.02  # the box cuts the interval there
    threat = parse_threat("linf:0.1")
    search = SEARCHES["linf"](threat, Grid.of(x0))
    x, _ = search.start(x0, stream(6))
    assert torch.equal(x[:, :, 1:], x[:, :, 1:2].expand(-1, -1, 15, -1))
    assert set(x[:, :, 1:].unique().tolist()) == set(torch.tensor([0.4, 0.6]).tolist())
    assert torch.allclose(x[:, :, 0].unique(), torch.tensor([0.0, 0.12]))
    assert len(x[:, :, 1].flatten(0, 1).unique(dim=0)) > 10  # every channel of every row has its own
    s = State(x0, x, torch.zeros(6), torch.zeros(6), *search.bounds(x0))
    window = search.window(0.1, x0.device)
    u = stream(6).uniform(8)
    z, _ = search.move(s, window, u)
    assert window.sides == (5, 5)
    ends = z.flatten(2).gather(2, search.entries(window, u[:, :2]))[..., -1]  # the last entry of the windows, channel by channel
    assert bool((ends != ends[:, :1]).any())
    for before, after in zip(x.flatten(0, 1), z.flatten(0, 1), strict=True):
        rows, columns = (before != after).nonzero(as_tuple=True)
        if len(rows):
            assert int(rows.max() - rows.min()) < 5
            assert int(columns.max() - columns.min()) < 5
            inside = after[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert len(inside[inside > 0.13].unique()) <= 1  # one end for the whole window
    assert torch.equal(threat.project(z.clone(), x0), z)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 40)])
def test_l2_moves_mass_and_keeps_epsilon(shape: tuple[int, ...]) -> None:
    """Far from the box every candidate has length epsilon, and the carried mass is that of the point."""
    x0 = torch.full((5, *shape), 0.5)
    search = SEARCHES["l2"](parse_threat("l2:0.3"), Grid.of(x0))
    x, mass = search.start(x0, stream(5))
    s = State(x0, x, mass, torch.zeros(5), *search.bounds(x0))
    for i in range(20):
        z, mass = search.move(s, search.window(0.2, x0.device), stream(5).at(i).uniform(5 + search.grid.channels))
        length = (z.double() - 0.5).flatten(1).norm(dim=1)
        assert torch.allclose(length, torch.tensor(0.3).double(), rtol=1e-5)
        assert torch.allclose(mass, length.square(), rtol=1e-6)
        assert not torch.equal(z, s.x)
        s = s._replace(x=z, mass=mass)


def test_l2_gives_lost_mass_back() -> None:
    """What the box or a mask takes returns to the budget: near the edge the length climbs to epsilon and never past it."""
    x0 = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)).round()
    mask = torch.arange(12) < 8
    threat = replace(parse_threat("l2:2"), constraints=Constraints(mask=mask.expand(3, 12, 12)))
    search = SEARCHES["l2"](threat, Grid.of(x0))
    x, mass = search.start(x0, stream(4))
    s = State(x0, x, mass, torch.zeros(4), *search.bounds(x0))
    assert float(mass.sqrt().max()) < 1.9
    for i in range(60):
        z, mass = search.move(s, search.window(0.3, x0.device), stream(4).at(i).uniform(8))
        length = (z.double() - x0.double()).flatten(1).norm(dim=1)
        assert bool((length <= 2 * (1 + 1e-6)).all())
        assert torch.allclose(mass, length.square(), rtol=1e-6)
        assert torch.equal(z[..., 8:], x0[..., 8:])
        assert torch.equal(z, z.clamp(0, 1))
        better = mass > s.mass
        s = s._replace(x=torch.where(better.view(-1, 1, 1, 1), z, s.x), mass=torch.where(better, mass, s.mass))
    assert float(s.mass.sqrt().min()) > 1.9


def test_l1_moves_stay_in_the_ball() -> None:
    x0 = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    threat = parse_threat("l1:5")
    search = SEARCHES["l1"](threat, Grid.of(x0))
    x, mass = search.start(x0, stream(4))
    s = State(x0, x, mass, torch.zeros(4), *search.bounds(x0))
    for i in range(10):
        z, mass = search.move(s, search.window(0.2, x0.device), stream(4).at(i).uniform(8))
        length = (z.double() - x0.double()).abs().flatten(1).sum(1)
        assert torch.allclose(length, torch.tensor(5.0).double(), rtol=1e-5)
        assert torch.allclose(mass, length, rtol=1e-6)
        s = s._replace(x=z, mass=mass)


def test_eta_is_a_pair_of_pyramids() -> None:
    """The example of the supplement: two halves of opposite sign, rings of 1/k^2 that add up, norm 1, two orientations."""
    search = SEARCHES["l2"](parse_threat("l2:1"), Grid(1, 9, 9))
    lying, standing = search.eta(5, 5).view(2, 5, 5)
    assert torch.equal(lying, standing.T)
    assert bool((lying[:2] > 0).all())
    assert bool((lying[2:] < 0).all())
    assert float(lying.square().sum()) == pytest.approx(1)
    assert float(lying[:2].square().sum()) == pytest.approx(0.5)
    ring = [1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9]
    wanted = torch.tensor([[ring[max(abs(i - 1), abs(j - 2))] for j in range(5)] for i in range(3)])
    assert torch.allclose(lying[2:] / lying[3, 2], wanted / ring[0], atol=1e-6)


class Recorder(nn.Module):
    """Answers every input alike, and keeps the first of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x[0].detach().clone())
        return torch.tensor([1.0, 0.0]).expand(len(x), 2)


def test_every_step_draws_anew() -> None:
    """Where nothing is ever accepted, candidates differ from the start by one window each, and those do not come again."""
    recorder = Recorder()
    model, x = TorchModel(recorder, classes=2), torch.full((2, 3, 16, 16), 0.5)
    judge = Judge(model, 16, 1)
    prepared = Prepared(judge, Guide(model, 16, 1))
    y = torch.zeros(2, dtype=torch.long)
    oracle = Oracle.begin(prepared, parse_threat("linf:0.1"), Untargeted(), x, y, ids=torch.arange(2))
    recorder.seen.clear()
    Square(queries=200).run(oracle, oracle.x0, oracle.threat)
    start, *candidates = recorder.seen
    assert len(candidates) == 199
    late = [c for c in candidates[60:] if not torch.equal(c, start)]  # windows of one size, over two blocks of draws
    assert len(late) > 100
    assert len({tuple(c.flatten().tolist()) for c in late}) > 0.8 * len(late)


def begin(model: nn.Module, threat: str, stop: bool = False) -> Oracle:
    w = world()
    prepared = prepare(TorchModel(model, classes=6), w.x, rows=16)
    return Oracle.begin(prepared, parse_threat(threat), Untargeted(), w.x, w.y, ids=w.ids, stop=stop)


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.2", "l1:2"])
def test_square_spends_its_queries_and_never_gets_worse(threat: str) -> None:
    """`queries` scores a row, and the last point's verdict; the best loss rises, and the last point has it."""
    oracle = begin(frozen_module(), threat)
    out = Square(queries=40).on(oracle)
    assert out.forwards.tolist() == [40] * 12
    assert bool((out.queries >= 41).all())
    values = []
    for queries in (1, 5, 20, 80):
        oracle = begin(frozen_module(), threat)
        x = Square(queries=queries).run(oracle, oracle.x0, oracle.threat)
        values.append(Untargeted().margin(oracle.judge.scores(x), oracle.aim))
        known = oracle.ledger.closest_margin  # of all points asked about, as long as a row stands
        assert bool((values[-1] >= known - 1e-4).all())
        assert bool(oracle.ledger.broken.all()) or torch.allclose(values[-1], known, atol=1e-4)
    for before, after in pairwise(values):
        assert bool((after >= before).all())
    assert bool((values[-1] > values[0]).all())


def test_square_stops_at_the_first_success() -> None:
    out = Square(queries=200).on(begin(frozen_module(), "linf:0.03", stop=True))
    assert bool(out.broken.any())
    assert not bool(out.broken.all())
    assert bool((out.forwards[out.broken] < 200).all())
    assert out.forwards[~out.broken].tolist() == [200] * int((~out.broken).sum())


@pytest.mark.parametrize("threat", ["linf:0.2", "l2:1.5", "l1:4"])
def test_square_attacks_tables(threat: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 30, generator=generator)
    prepared = affine(torch.randn(3, 30, generator=generator) / 5, torch.zeros(3), x, bounds=(0.0, 1.0))
    y = prepared.judge.scores(x).argmax(1)
    out = Square(queries=300, rescale_schedule=True)(prepared, x, y, threat=threat)
    assert bool(out.broken.all())


# DeepFool


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_is_exact_on_a_binary_linear_model(norm: str) -> None:
    model = linear()
    out = DeepFool()(model.world.prepared, model.world.x, model.world.y, threat=f"{norm}:inf")
    assert torch.allclose(out.distance, torch.tensor(model.distance(norm) * 1.02).double(), rtol=1e-4)
    assert out.forwards.tolist() == [3] * 6  # one look and linearisation, and the look that finds it crossed
    assert out.backwards.tolist() == [4] * 6


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_deepfool_finds_the_nearest_of_many_classes(norm: str, dual: int) -> None:
    """min_k |f_k| / ||w_k||_q, not the likeliest class; along |w|^(q-1) sign(w); the overshoot is on top."""
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(7, 20, generator=generator) * torch.rand(7, 1, generator=generator).mul(3).add(0.2)
    bias, x = torch.randn(7, generator=generator), torch.rand(40, 20, generator=generator)
    prepared = affine(weight, bias, x)
    z = x.double() @ weight.double().T + bias
    y = z.argmax(1)
    w = weight.double()[None] - weight.double()[y][:, None]
    gaps = z.gather(1, y[:, None]) - z
    each = (gaps / w.norm(p=dual, dim=2)).scatter(1, y[:, None], torch.inf)
    nearest = each.amin(1)
    likeliest = z.scatter(1, y[:, None], -torch.inf).argmax(1)
    assert bool((likeliest != each.argmin(1)).any())
    out = DeepFool(overshoot=0.05)(prepared, x, y, threat=f"{norm}:inf")
    assert torch.allclose(out.distance, nearest * 1.05, rtol=1e-4)
    few = DeepFool(candidates=2)(prepared, x, y, threat=f"{norm}:inf")
    assert few.backwards.tolist() == (few.forwards - 1).tolist()  # two passes of each at a linearisation, and the last look
    assert bool((few.distance >= nearest * 1.0199).all())
    assert bool((few.distance > nearest * 1.021).any())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_goes_to_the_class_that_is_named(norm: str) -> None:
    model = linear()
    w = model.world
    out = DeepFool()(w.prepared, w.x, w.y, threat=f"{norm}:inf", goal="targeted:1")
    assert torch.allclose(out.distance, torch.tensor(model.distance(norm) * 1.02).double(), rtol=1e-4)
    v = world()
    out = DeepFool()(v.prepared, v.x, v.y, threat=f"{norm}:inf", goal="targeted:least-likely")
    target = v.reference.scatter(1, v.y[:, None], torch.inf).argmin(1)
    assert bool(out.broken.all())
    assert torch.equal(out.label, target)
    assert bool((out.backwards == out.forwards).all())  # one boundary, one backward pass


def test_deepfool_steps_in_what_may_change() -> None:
    """Under a mask the linear model's distance is that of the entries left, gap / ||w_mask||_2."""
    model = linear()
    mask = torch.arange(36).view(1, 6, 6) % 3 == 0
    threat = replace(parse_threat("l2:inf"), constraints=Constraints(mask=mask))
    out = DeepFool()(model.world.prepared, model.world.x, model.world.y, threat=threat)
    wanted = model.gap / float(model.w[mask.flatten()].norm()) * 1.02
    assert torch.allclose(out.distance, torch.tensor(wanted).double(), rtol=1e-4)
    assert out.forwards.tolist() == [3] * 6


def test_deepfool_stops_where_its_own_point_has_crossed() -> None:
    """Within a budget that its crossing exceeds, a row is done when it has crossed, though it is no success."""
    model = linear()
    w = model.world
    out = DeepFool()(w.prepared, w.x, w.y, threat=f"l2:{model.distance('l2') / 2!r}")
    assert not bool(out.broken.any())
    assert out.forwards.tolist() == [3] * 6
    out = DeepFool()(w.prepared, w.x, w.y, threat=f"l2:{model.distance('l2') * 1.03!r}")
    assert bool(out.broken.all())


def test_deepfool_asks_only_for_rows_that_have_not_crossed() -> None:
    counter = Counter(frozen_module())
    oracle = begin(counter, "l2:inf")
    counter.forwards = counter.backwards = 0
    out = DeepFool().on(oracle)
    assert bool((out.backwards[:-1] == 3 * (out.forwards - 1)[:-1]).all())  # 6 classes; the last look has no gradients
    assert len(set(out.forwards.tolist())) > 1


class Bent(nn.Module):
    """z_0 - z_1 = 1 - sqrt(s), s = sum of x: convex, so that Newton's steps from inside never pass s = 1."""

    def forward(self, x: Tensor) -> Tensor:
        f = 1 - x.flatten(1).sum(1).clamp(min=1e-6).sqrt()
        return torch.stack([f, torch.zeros_like(f)], 1)


def test_deepfool_crosses_curved_boundaries() -> None:
    """Where steps shrink towards the boundary, the least step carries the point across."""
    x, y = torch.full((3, 4), 0.02), torch.zeros(3, dtype=torch.long)
    prepared = prepare(TorchModel(Bent().eval(), classes=2), x, rows=16)
    out = DeepFool(overshoot=0.0)(prepared, x, y, threat="l2:inf")
    assert bool(out.broken.all())
    assert torch.allclose(out.distance, torch.tensor(2 * 0.23).double(), rtol=0.01)


def test_deepfool_leaves_a_model_without_gradient_alone() -> None:
    """No direction, no step: the input comes back as it was, as a survivor."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        flat[1].weight.zero_()
        flat[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(3, 4)
    out = DeepFool(steps=3)(
        prepare(TorchModel(flat, classes=2), x, rows=16), x, torch.zeros(3, dtype=torch.long), threat="l2:inf"
    )
    assert out.status == ["survived"] * 3
    assert torch.equal(out.adversarial, x)


# Real models


def right(cases: object, name: str, n: int) -> tuple[Prepared, Tensor, Tensor]:
    module, data = cases.load(name)  # type: ignore[attr-defined]
    x, y = cases.data(data)  # type: ignore[attr-defined]
    x, y = x[: 4 * n], y[: 4 * n]
    with torch.no_grad():
        rows = (module(x).argmax(1) == y).nonzero()[:n, 0]
    return prepare(TorchModel(module, classes=10), x[rows], rows=64), x[rows], y[rows]


def test_deepfool_on_a_real_model(cases: object) -> None:
    """foolbox 3.3.4 on the same 24 images: all broken, median 0.05001, mean 0.08051."""
    prepared, x, y = right(cases, "cifar_resnet20", 24)
    out = DeepFool()(prepared, x, y, threat="l2:inf")
    assert bool(out.broken.all())
    assert float(out.distance.median()) == pytest.approx(0.0500, rel=0.02)
    assert float(out.distance.mean()) == pytest.approx(0.0805, rel=0.02)


def test_square_on_a_real_model(cases: object) -> None:
    """pyautoattack on the same 64 images at 500 queries, four seeds: 33 or 34 survive, 300 to 319 queries in the mean."""
    prepared, x, y = right(cases, "cifar_cnn_a_adv", 64)
    out = Square(queries=500)(prepared, x, y, threat="linf:8/255")
    assert 32 <= int((~out.broken).sum()) <= 35
    assert float(out.forwards.double().mean()) == pytest.approx(308, rel=0.05)
