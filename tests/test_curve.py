"""Curves: distances against closed forms, robust accuracy read off them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import mohs
from mohs import attacks
from mohs.curving import unbounded
from mohs.data import Examples
from mohs.engine.curves import CHAINS, FIRST
from mohs.errors import RequestError, UnknownName
from mohs.report.curves import at
from mohs.store.verdict import Score
from mohs.threat import parse_threat
from tests.conformance import distance, linear
from tests.small import labelled, network


def test_distances_of_a_linear_model_are_the_known_ones() -> None:
    model = linear()
    x, y = model.world.x, model.world.y.clone()
    y[-1] = 1  # a clean error
    found = mohs.curve(model.world.module, (x, y))
    assert set(found.distances) == {"linf", "l2", "l1", "l0"}
    for norm, far in found.distances.items():
        assert far.dtype == torch.float64
        assert far.shape == (6,)
        assert float(far[-1]) == 0.0
        assert bool((far[:-1] >= model.distance(norm) * (1 - 1e-5)).all())
        assert bool((far[:-1] <= model.distance(norm) * 1.01).all()), norm
    assert found.clean_accuracy == 5 / 6
    nearest = model.distance("l2")
    assert found.robust_accuracy("l2", 0.0) == 5 / 6
    assert found.robust_accuracy("l2", 0.98 * nearest) == 5 / 6
    assert found.robust_accuracy("l2", 1.02 * nearest) == 0.0
    assert found.score("l2", 0.5 * nearest) == Score(5, 0, 6)
    with pytest.raises(RequestError, match="and not 'l3'"):
        found.robust_accuracy("l3", 1.0)


def test_a_model_that_cannot_be_fooled_is_infinitely_far() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    with torch.no_grad():
        module[1].weight.mul_(1e-3)
        module[1].bias.copy_(torch.tensor([10.0, 0.0, 0.0]))
    found = mohs.curve(module, (torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)), norms=["l2"])
    assert bool((found.distances["l2"] == torch.inf).all())
    assert found.robust_accuracy("l2", 100.0) == 1.0


def test_stored_points_are_at_the_distances(tmp_path: Path) -> None:
    """Every distance is that of a stored input which the model takes for another class; ids, not rows, say whose."""
    module = network()
    x, y = labelled(module, 12)
    ids = torch.arange(5, 29, 2)
    found = mohs.curve(module, Examples(x, y, ids, "mine"), norms=["linf", "l2"], out=tmp_path / "run")
    least = {norm: torch.full((12,), torch.inf, dtype=torch.float64) for norm in found.distances}
    for stored in found.result.run.examples():
        for i, number, made in zip(stored["ids"], stored["threat"], torch.from_numpy(stored["adversarial"]), strict=True):
            row, norm = (int(i) - 5) // 2, ["linf", "l2"][number]
            with torch.no_grad():
                assert int(module(made[None]).argmax()) != int(y[row])
            least[norm][row] = min(least[norm][row], float(distance(norm, made[None], x[row : row + 1])))
    for norm, far in found.distances.items():
        wrong = far == 0
        assert torch.equal(wrong, torch.arange(12) % 8 == 0)
        assert torch.allclose(far[~wrong], least[norm][~wrong], rtol=1e-6)
    saved = found.save(tmp_path / "copy")
    assert (saved / "run.json").exists()
    assert found.report(tmp_path / "page.html").stat().st_size > 1000


def test_undecided_examples_count_as_broken() -> None:
    module = network()
    x, y = labelled(module, 8)
    found = mohs.curve(module, (x, y), norms=["l2"])
    (threat,) = found.result.verdict.threats
    doubt = threat.status.copy()
    doubt[3] = "undecided"
    far = threat.distance.copy()
    far[3] = torch.inf
    changed = replace(threat, status=doubt, distance=far)
    assert at(changed, 0.0).undecided == 1
    assert at(changed, 0.0).low == at(threat, 0.0).low - 1 / 8
    assert at(changed, 0.0).high == at(threat, 0.0).low


def test_threats_of_norms() -> None:
    assert unbounded(["linf", "l0px", "l2+quantise:8bit"]) == ["linf:inf", "l0:infpx", "l2:inf+quantise:8bit"]
    assert all(parse_threat(text).epsilon == torch.inf for text in unbounded(["linf", "l2", "l1", "l0", "l0px"]))
    for norms, said in (([], "needs a norm"), (["l2", "l2"], "twice"), (["l2:0.5"], "over every epsilon")):
        with pytest.raises(RequestError, match=said):
            unbounded(norms)
    module = network()
    x, y = labelled(module, 8)
    with pytest.raises(UnknownName, match="did you mean"):
        mohs.curve(module, (x, y), norms=["l7"])
    for name, value in (("goal", "targeted:3"), ("threats", ["l2:1"]), ("profile", "quick")):
        with pytest.raises(RequestError, match=f"takes no {name}"):
            mohs.curve(module, (x, y), norms=["l2"], **{name: value})


def test_the_choice_is_fixed_and_round_trips() -> None:
    assert FIRST.keys() == CHAINS.keys() == {"linf", "l2", "l1", "l0"}
    for norm in CHAINS:
        for attack in (FIRST[norm], *CHAINS[norm]):
            assert attack.minimal
            assert norm in attack.sets
            assert attacks.make({"attack": attacks.name_of(attack), **attack.spec()}) == attack
