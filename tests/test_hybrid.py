"""Hybrid attacks: what carries over costs one query, and the rest begins where the surrogates ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mohs import attacks
from mohs.attacks.blackbox import hybrid
from mohs.attacks.blackbox.square import Square
from mohs.errors import Refused, RequestError
from mohs.oracle import Oracle
from mohs.threat import Untargeted, parse_threat
from tests.conformance import world

CASES = (
    ("hybrid", {}, "square", {"rescale_schedule": True}, "linf:0.03", "scores"),
    ("hybrid", {"finish": "nes"}, "nes", {"steps": 2}, "linf:0.03", "scores"),
    ("hybrid", {}, "square", {"rescale_schedule": True}, "l2:0.25", "scores"),
    ("hybrid-label", {}, "rays", {}, "linf:0.1", "label"),
    ("hybrid-label", {}, "hop-skip-jump", {}, "l2:0.4", "label"),
)


@pytest.mark.parametrize(("name", "options", "alone", "own", "threat", "knowledge"), CASES)
def test_fewer_queries_than_its_second_half_alone(
    name: str, options: dict[str, object], alone: str, own: dict[str, object], threat: str, knowledge: str
) -> None:
    w, text = world(), f"{threat}+knowledge:{knowledge}"
    spend = {} if alone == "nes" else {"queries": 150}
    made = attacks.find(name)(**{**options, "queries": 150})  # type: ignore[arg-type]
    aided = made(w.prepared, w.x, w.y, threat=text)
    plain = attacks.find(alone)(**{**own, **spend})(w.prepared, w.x, w.y, threat=text)  # type: ignore[arg-type]
    assert int(aided.broken.sum()) >= int(plain.broken.sum())
    assert int(aided.queries.sum()) < int(plain.queries.sum())
    assert not bool(aided.backwards.any())


def test_the_second_half_begins_at_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the candidate does not carry over, Square's first point is the candidate."""
    w, seen = world(), []

    def run(self: Square, oracle: Oracle, x0: torch.Tensor, threat: object) -> torch.Tensor:
        assert oracle.begun is not None
        seen.append((oracle.begun.clone(), x0.clone()))
        assert self.queries == 49
        return oracle.begun

    monkeypatch.setattr(hybrid.Square, "run", run)
    threat = parse_threat("linf:0.008+knowledge:scores")
    oracle = Oracle.begin(w.prepared, threat, Untargeted(), w.x, w.y, ids=w.ids)
    oracle.settle_origin()
    outcome = attacks.Hybrid(queries=50).on(oracle)
    ((begun, x0),) = seen
    assert 0 < len(begun) < 12
    assert bool(((begun - x0).abs().flatten(1).amax(1) > 0.007).all())
    assert torch.equal(outcome.adversarial[~outcome.broken], begun)


def test_without_surrogates_it_is_refused() -> None:
    w = world()
    bare = replace(w.prepared, surrogate=None)
    with pytest.raises(Refused, match="--surrogate"):
        attacks.Hybrid()(bare, w.x, w.y, threat="linf:0.03")
    with pytest.raises(RequestError, match="square or nes"):
        attacks.Hybrid(finish="zoo")


def test_labels_do_not_show_every_goal() -> None:
    w = world()
    for goal in ("confidence:0.3", "topk:2"):
        with pytest.raises(Refused, match="sees labels alone"):
            attacks.RayS(queries=20)(w.prepared, w.x, w.y, threat="linf:0.1+knowledge:label", goal=goal)
