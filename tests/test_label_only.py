"""Attacks by labels, in closed form on a linear boundary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mohs.attacks import HopSkipJump
from mohs.attacks.blackbox.labels import Labels
from mohs.ledger import Status
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Threat, parse_goal, parse_threat
from tests.conformance import linear


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
    x, found = labels.start(100)
    return labels, labels.bisect(x, found, 20)


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
    x, found = Labels.of(oracle, 10).start(100)
    assert torch.equal(x, near)
    assert found.tolist() == [*range(6)]
    assert len(w.x) == 6
