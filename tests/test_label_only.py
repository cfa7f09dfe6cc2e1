"""Attacks by labels, in closed form on a linear boundary."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mohs.attacks import QEBA, Boundary, GeoDA, HopSkipJump, Pointwise, RayS, SignOPT, SurFree
from mohs.attacks.blackbox.boundary import State as Walk
from mohs.attacks.blackbox.frequency import image, lowest, spectrum
from mohs.attacks.blackbox.labels import Labels
from mohs.attacks.blackbox.opt import along, unit
from mohs.attacks.blackbox.rays import flipped
from mohs.attacks.blackbox.surfree import State as Plane
from mohs.attacks.blackbox.surfree import circle
from mohs.attacks.sparse.sparse_rs import view
from mohs.ledger import Status
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import L0, Threat, parse_goal, parse_threat
from tests.conformance import frozen_module, linear


def begin(threat: Threat | str = "l2:inf+knowledge:label", goal: str = "untargeted") -> Oracle:
    w = linear().world
    known = parse_threat(threat) if isinstance(threat, str) else threat
    return Oracle.begin(w.prepared, known, parse_goal(goal), w.x, w.y, ids=w.ids, stop=False)


def cosine(v: Tensor) -> Tensor:
    """[rows] of the angle to the boundary's normal, towards the other side."""
    w = -linear().w.float()
    return v.flatten(1) @ w / (v.flatten(1).norm(dim=1) * w.norm())


def boundary(oracle: Oracle, queries: int = 100_000) -> tuple[Labels, Tensor]:
    labels = Labels.of(oracle, queries)
    return labels, labels.start(100, 20)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_start_is_led_to_the_boundary(norm: str) -> None:
    oracle = begin(f"{norm}:inf+knowledge:label")
    _, x = boundary(oracle)
    gap = x.flatten(1).double() @ linear().w + linear().world.module[1].bias.double() @ torch.tensor([1.0, -1, 0, 0]).double()
    moved = oracle.threat.distance(x, oracle.x0)
    assert bool((gap <= 0).all())
    slope = linear().gap / moved if norm == "l2" else linear().w.abs().sum()
    assert bool((-gap < 4 * moved * 2.0**-20 * slope + 1e-5).all())


def test_the_normal_is_found_the_better_the_more_probes_there_are() -> None:
    oracle = begin()
    labels, x = boundary(oracle)
    delta = torch.full((len(x),), 0.01)
    means = []
    for count in (10, 50, 400):
        v = HopSkipJump().normal(labels, x, delta, count, 0, Stream.of(1, oracle.ids))
        assert bool((cosine(v) > 0).all())
        means.append(float(cosine(v).mean()))
    assert means[0] < means[1] < means[2]
    assert means[2] > 0.9  # of 400 in 36 dimensions: sqrt(2 n / (pi d + 2 n)) = 0.94


def test_probes_stop_at_what_a_row_has_left() -> None:
    oracle = begin()
    labels, x = boundary(oracle, 60)
    before, left = oracle.ledger.queries.clone(), labels.left
    assert bool((left > 10).all())
    HopSkipJump().normal(labels, x, torch.full((len(x),), 0.01), 400, 10, Stream.of(1, oracle.ids))
    spent = oracle.ledger.queries - before
    assert bool((spent >= left - 10).all())
    assert bool((spent <= left - 8).all())  # the judge confirms a nearer one
    hit = labels.reached(oracle.x0.repeat_interleave(30, 0), torch.arange(6).repeat_interleave(30))
    assert not bool(hit.any())
    assert torch.equal(labels.left, torch.zeros(6, dtype=torch.long))
    assert torch.equal(oracle.ledger.queries - before, left)  # and nothing is asked beyond


def test_without_a_start_a_row_is_undecided() -> None:
    w = linear().world
    attack = HopSkipJump(queries=50, starts=7)
    out = attack(w.module, w.x, w.y, threat="l2:inf+knowledge:label", goal="targeted:3")  # a class out of reach
    assert out.status == [Status.UNDECIDED] * 6
    assert "none of 7 starting points reaches the goal" in out.reason[0]
    assert out.queries.tolist() == [7] * 6


def test_a_known_success_is_the_start() -> None:
    w = linear().world
    oracle = begin()
    near = oracle.x0 - (1.5 * linear().gap / linear().w.square().sum() * linear().w).float().view(1, 1, 6, 6)
    oracle.recall(torch.arange(6), near)
    assert torch.equal(Labels.of(oracle, 10).start(100, 0), near)
    assert len(w.x) == 6


def test_cosines_are_orthonormal_and_low_ones_smooth() -> None:
    x = Stream.of(0, torch.arange(3)).normal(2, 7, 5)
    c = spectrum(x)
    assert torch.allclose(c.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-5)
    assert torch.allclose(image(c[:, None], x.shape[1:])[:, 0], x, atol=1e-5)
    assert torch.allclose(c[:, :, 0, 0], x.sum((2, 3)) / math.sqrt(35), atol=1e-5)
    assert lowest(torch.Size([3, 32, 32]), 0.25) == [3, 8, 8]
    assert lowest(torch.Size([10]), 0.5) == [5]
    assert torch.equal(spectrum(x[1:2]), c[1:2])  # alone and in company
    low = image(Stream.of(0, torch.arange(3)).normal(1, 2, 3, 2), x.shape[1:])[:, 0]
    beyond = spectrum(low)
    beyond[:, :, :3, :2] = 0
    assert float(beyond.abs().max()) < 1e-5


def test_probes_of_qeba_and_geoda_are_low_frequencies_of_unit_length() -> None:
    labels = Labels.of(begin(), 100)
    for u in (
        QEBA(reduction=2).directions(labels, 5, labels.oracle.stream),
        GeoDA().directions(labels, [1, 3, 3], 5, labels.oracle.stream),
    ):
        assert torch.allclose(u.flatten(2).norm(dim=2), torch.ones(6, 5))
        c = spectrum(u.flatten(0, 1))
        c[..., :3, :3] = 0
        assert float(c.abs().max()) < 1e-5


def test_one_round_of_geoda_meets_the_boundary_along_its_normal() -> None:
    """With every frequency, and probes enough, from any start: at the nearest point of a flat boundary."""
    oracle = begin()
    out = GeoDA(queries=1500, rounds=1, part=1.0).on(oracle)
    assert bool((out.distance < 1.03 * linear().distance("l2")).all())
    labels, x = boundary(begin())
    delta, most = torch.full((6,), 0.01), torch.full((6,), 1000)
    w = labels.probe(x, delta, most, lambda n, s: GeoDA().directions(labels, [1, 6, 6], n, s), oracle.stream).weighted
    assert bool((cosine(w) > 0.95).all())


def test_a_circle_meets_a_flat_boundary_at_its_nearest_point_of_the_plane() -> None:
    """v in the plane of the normal: at the angle between u and the normal, at the distance of the boundary."""
    oracle = begin()
    labels, x = boundary(oracle)
    normal = -(linear().w / linear().w.norm()).float().view(1, 1, 6, 6).expand_as(x)
    u = unit(x - oracle.x0)
    cos = (u * normal).flatten(1).sum(1)
    v = unit(normal - cos.view(-1, 1, 1, 1) * u)
    s = Plane(oracle.x0, x, torch.zeros(6), u, v[:, None])
    met = circle(labels, s, v, cos.acos(), torch.arange(6))
    distance = (met - oracle.x0).flatten(1).norm(dim=1)
    inside = ((met > 0) & (met < 1)).flatten(1).all(1)
    assert bool(inside.any())
    assert torch.allclose(distance[inside], torch.tensor(linear().distance("l2")).float(), rtol=1e-2)
    assert torch.allclose(circle(labels, s, v, torch.zeros(6), torch.arange(6)), x, atol=1e-6)


def test_directions_of_surfree_are_orthogonal() -> None:
    oracle = begin()
    x = oracle.x0 + 0.1 * oracle.stream.normal(1, 6, 6)
    attack = SurFree(part=1.0, orthogonal=8)
    s = Plane(oracle.x0, x, torch.ones(6), spectrum(oracle.x0).tanh() * attack._kept(oracle.x0), torch.zeros(6, 8, 1, 6, 6))
    for k in range(8):
        v = attack._direction(s, oracle.stream.at(k))
        assert torch.allclose(v.flatten(1).norm(dim=1), torch.ones(6))
        assert float((v * unit(x - oracle.x0)).flatten(1).sum(1).abs().max()) < 1e-5
        s.known[:, k] = v
    half = SurFree()._kept(oracle.x0)
    assert half.sum() == 18
    assert half[0, 0] == 1
    assert half[5, 5] == 0


def test_flips_are_of_the_whole_then_halves_then_quarters_and_come_round() -> None:
    signs = torch.ones(9, 5)
    turned = flipped(signs, torch.arange(-1, 8)) < 0
    blocks = [[], [0, 1, 2, 3, 4], [0, 1, 2], [3, 4], [0, 1], [2, 3], [4], [0], [1]]
    assert [row.nonzero()[:, 0].tolist() for row in turned] == blocks
    assert torch.equal(flipped(signs[:1], torch.tensor([11])), flipped(signs[:1], torch.tensor([0])))  # 1 + 2 + 3 + 5 blocks


def test_rays_bisects_the_radius_of_its_signs() -> None:
    """On a linear boundary the radius of signs s is the gap over <-w, s>; the best s is that of -w."""
    oracle = begin("linf:inf+knowledge:label")
    out = RayS(queries=600, tolerance=1e-4).on(oracle)
    nearest = linear().distance("linf")
    assert bool((out.distance >= nearest * (1 - 1e-5)).all())
    assert bool((out.distance <= nearest + 4e-4).all())


def test_a_move_on_the_sphere_keeps_the_distance() -> None:
    oracle = begin()
    labels = Labels.of(oracle, 10)
    x = oracle.x0 + 0.02 * oracle.stream.normal(1, 6, 6)
    size = torch.tensor([0.2, 0.1]).expand(6, 2)
    around, near = Boundary()._moves(labels, Walk(oracle.x0, x, size, size * 0, size * 0), oracle.stream.at("step"))
    before, after, last = (oracle.threat.distance(p, oracle.x0) for p in (x, around, near))
    assert torch.allclose(before, after, rtol=1e-5)
    assert torch.allclose(last, 0.9 * before, rtol=1e-5)
    angle = torch.nn.functional.cosine_similarity((x - oracle.x0).flatten(1), (around - oracle.x0).flatten(1)).acos()
    assert torch.allclose(angle.tan(), torch.full((6,), 0.2), rtol=1e-3)


def test_sizes_of_the_boundary_attack_follow_their_rates() -> None:
    hits = torch.tensor([[60.0, 3], [10, 5], [30, 10], [30, 1]])
    tried = torch.tensor([100.0, 30]).expand(4, 2).clone()
    x = torch.zeros(4, 1)
    size = Boundary()._adapt(Walk(x, x, torch.ones(4, 2), tried, hits)).size
    assert torch.allclose(size, torch.tensor([[1.5, 1.5], [1 / 1.5, 1 / 1.5], [1, 1.5], [1, 1 / 1.5]]))


def test_the_distance_along_a_direction_is_found_and_its_signs_tell_the_normal() -> None:
    oracle = begin()
    labels = Labels.of(oracle, 100_000)
    theta = unit(-linear().w.float().view(1, 1, 6, 6) + 0.1 * oracle.stream.normal(1, 6, 6))
    cos, nearest = cosine(theta), linear().distance("l2")
    rows = torch.arange(6)
    for guess in (0.8, 1.05):
        g = along(labels, theta, guess * nearest / cos, rows, 1e-4, lower=False)
        assert torch.allclose(g, nearest / cos, rtol=2e-4)
    assert bool(along(labels, theta, 0.9 * nearest / cos, rows, 1e-4, lower=True).isinf().all())
    slope = SignOPT(probes=600).gradient(labels, theta, g, torch.full((6,), 0.01), oracle.stream)
    sideways = unit(theta * cos.view(-1, 1, 1, 1) + (linear().w / linear().w.norm()).float().view(1, 1, 6, 6))
    assert bool(((slope * sideways).flatten(1).sum(1) > 0.8).all())  # uphill is away from the normal


@pytest.mark.parametrize("threat", ["l0:inf", "l0:infpx"])
def test_pointwise_leaves_no_unit_that_could_go_back(threat: str) -> None:
    """Of entries, and of pixels, whose channels go together."""
    module, units = frozen_module(), parse_threat(threat)
    assert isinstance(units, L0)
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = module(x).argmax(1)
    out = Pointwise(queries=100_000, starts=20)(module, x, y, threat=units, stop=False)
    assert out.broken.all()
    origin, found = view(x, units), view(out.adversarial, units)
    changed = (origin != found).any(1)
    assert changed.sum(1).tolist() == out.distance.tolist()
    row, unit = changed.nonzero().T
    less = found[row].clone()
    less[torch.arange(len(row)), :, unit] = origin[row, :, unit]
    assert (module(less.view(-1, 3, 8, 8)).argmax(1) == y[row]).all()  # each of them is needed


def test_pointwise_goes_on_from_what_is_known_and_leaves_alone_what_is_not() -> None:
    oracle = begin("l0:inf")
    towards = (-linear().w.float()).sign().view(1, 1, 6, 6).expand(3, -1, -1, -1)
    assert oracle.reached((towards > 0).float(), torch.arange(3)).all()
    before = oracle.best.distance.clone()
    out = Pointwise(queries=500, starts=0).on(oracle)
    assert out.broken.tolist() == [True] * 3 + [False] * 3
    assert out.distance[:3].max() <= 2
    assert (before[:3] > 10).all()
    assert out.queries[3:].max() <= 1  # the last point is judged, always
    assert not any("starting points" in why for why in out.reason)
