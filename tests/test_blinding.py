"""Attacks that know of a guard: noise under which it lets queries pass, and several accounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mohs import demo
from mohs.attacks import Square
from mohs.errors import RequestError
from mohs.ledger import Outcome
from mohs.models import Guide, Judge, Prepared, as_model
from mohs.models.blinding import GROWTH, TRIES, Blinding, trials
from mohs.models.http import make_endpoint
from mohs.oracle import Oracle
from mohs.probing import probe
from mohs.rng import Stream
from mohs.serve import Blacklight, GuardSpec, make_app
from mohs.serve.measure import Detector, Watched
from mohs.threat import Untargeted, parse_threat
from tests.serving import serving
from tests.stub import DESCRIPTION, Stub, examples, running

MODULE, X, Y = demo.example(40)
MODEL = as_model(MODULE, X)
NOISE = Blinding(0.1, 0.5)


def blacklight() -> Detector:
    light = Blacklight(window=8, salt=b"of the tests")
    return lambda x, label: light(x)


def deaf() -> Detector:
    return lambda x, label: False


def attacked(watched: Watched, rows: slice, blinding: Blinding | None) -> Outcome:
    prepared = Prepared(Judge(watched, 64, 1), Guide(watched, 64, 1), blinding=blinding)
    threat = parse_threat("linf:0.4+knowledge:scores")
    oracle = Oracle.begin(prepared, threat, Untargeted(), X[rows], Y[rows], ids=torch.arange(40)[rows])
    return Square(queries=60).on(oracle)


def test_what_is_sent_lies_in_the_set_and_is_what_is_judged() -> None:
    threat = parse_threat("linf:0.05")
    p = NOISE(X, X, threat, Stream.of(0, torch.arange(len(X))), torch.zeros(len(X)))  # type: ignore[arg-type]
    assert bool(threat.contains(p, X).all())
    assert bool(((p - X).abs().flatten(1).amax(1) > 0.04).all())
    watched = Watched(MODEL, deaf)
    out = attacked(watched, slice(0, 8), NOISE)
    assert bool(out.broken.any())
    assert {x.numpy().tobytes() for x in out.adversarial[out.broken].split(1)} <= set(watched._known)


def refusing(which: Callable[[int], bool], seen: list[np.ndarray]) -> Callable[[], Detector]:
    """Refuses queries by their number, from 0, the clean input's."""

    def speak(x: np.ndarray, label: int) -> bool:
        seen.append(x)
        return which(len(seen) - 1)

    return lambda: speak


def test_a_refused_query_is_sent_again_under_larger_noise_and_counted() -> None:
    seen: list[np.ndarray] = []
    watched = Watched(MODEL, refusing(lambda k: k % 3 != 0, seen))
    out = attacked(watched, slice(0, 1), Blinding(0.001))
    assert out.status[0] in ("broken", "survived")
    assert int(out.queries[0]) == watched.asked - 1 == len(seen) - 1
    gaps = [float(np.abs(b - a).max()) for a, b in pairwise(seen[1:])]
    assert 0.001 < max(gaps[:2]) <= 2 * 0.001 * GROWTH**2 + 1e-6  # the same candidate, three times


def test_what_is_refused_to_the_end_is_undecided() -> None:
    for blinding, asked in ((None, 2), (NOISE, 1 + TRIES)):
        watched = Watched(MODEL, refusing(lambda k: k > 0, []))
        out = attacked(watched, slice(0, 1), blinding)
        assert (out.status, out.reason) == (["undecided"], ["a guard refused the query"])
        assert watched.asked == asked


def test_noise_does_not_depend_on_batch_mates() -> None:
    together = attacked(Watched(MODEL, deaf), slice(0, 6), NOISE)
    for i in range(6):
        alone = attacked(Watched(MODEL, deaf), slice(i, i + 1), NOISE)
        assert torch.equal(alone.adversarial[0], together.adversarial[i])
        assert int(alone.queries) == int(together.queries[i])


def test_trials_end_at_the_least_noise_that_passes() -> None:
    watched = Watched(MODEL, blacklight)
    watched.logits(X)
    tried = list(trials(watched.logits, X, (0.0, 1.0)))
    assert [t.refused > 0 for t in tried] == [True] * (len(tried) - 1) + [False]
    assert len(tried) > 1
    norms = [t.blinding.size**2 * t.blinding.share for t in tried]
    assert norms == sorted(norms)


def test_a_probe_of_a_served_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without adapting the guard stops it; with it, examples break and hardly a query is refused."""
    monkeypatch.setattr("mohs.serve.blacklight.secrets.token_bytes", bytes)  # one salt, and one query after another
    described = tmp_path / "endpoint.toml"
    answer = '[answer]\nscores = "$.scores"\nkind = "logits"\n'
    described.write_text(f"classes = 10\nconcurrency = 1\n{answer}[guard]\nrefuses = [403]\n")
    found, refused = {}, {}
    for adapt in (False, True):
        app = make_app(MODEL, tuple(X.shape[1:]), guard=GuardSpec.model_validate({"blacklight": {"window": 8}}))
        with serving(app) as url:
            result = probe(f"{url}/predict", (X[:20], Y[:20]), describe=described, threats=["linf:0.3"], queries=100, adapt=adapt)
            run = result.run
        rows = run.records().to_pylist()
        found[adapt] = Counter(row["status"] for row in rows)
        refused[adapt] = sum("refused" in row["reason"] for row in rows)
        if adapt:
            assert any("under that" in finding["message"] for finding in run.spec["findings"])
    assert refused[False] > 10
    assert refused[True] < refused[False] / 2
    assert found[True]["broken"] > found[False]["broken"] + 3


def test_adapting_wants_a_guard_and_a_norm(tmp_path: Path) -> None:
    x, y = examples(8)
    (tmp_path / "plain.toml").write_text(DESCRIPTION)
    (tmp_path / "guard.toml").write_text(DESCRIPTION + "\n[guard]\nrefuses = [403]\n")
    with running(Stub()) as stub:
        for name, threat, words in (("plain", "linf:0.1", "section"), ("guard", "rotation:10deg", "norm")):
            with pytest.raises(RequestError, match=words):
                probe(stub.url, (x, y), describe=tmp_path / f"{name}.toml", threats=[threat], queries=20, adapt=True)


class TestAccounts:
    TOLD: ClassVar[dict[str, Any]] = {"url": "http://127.0.0.1:1/", "classes": 4, "answer": {"labels": "$.labels"}}

    @pytest.mark.parametrize(
        ("told", "words"),
        [
            ({"accounts": ["in the clear"], "headers": {"X-Key": "${ACCOUNT}"}}, "in the clear"),
            ({"accounts": ["${A}"]}, "belong together"),
            ({"headers": {"X-Key": "${ACCOUNT}"}}, "belong together"),
            ({"guard": {"refuses": [403]}, "batch": 4, "body": {"json": {"inputs": "$inputs"}}}, "whole requests"),
        ],
    )
    def test_descriptions_that_do_not_fit(self, told: dict[str, Any], words: str) -> None:
        with pytest.raises(RequestError, match=words):
            make_endpoint(self.TOLD | told)

    def test_they_take_turns_and_are_masked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mohs.models.http import HttpModel

        heard: Counter[str] = Counter()

        def answer(body: Any, headers: dict[str, str]) -> Any:
            heard[headers.get("Authorization", headers.get("authorization", ""))] += 1
            return {"labels": [0] * len(body["inputs"])}

        monkeypatch.setenv("KEY_A", "secret-a")
        monkeypatch.setenv("KEY_B", "secret-b")
        with running(Stub(answer)) as stub:
            more = {"accounts": ["${KEY_A}", "${KEY_B}"], "headers": {"Authorization": "Bearer ${ACCOUNT}"}, "url": stub.url}
            endpoint = make_endpoint(self.TOLD | more)
            HttpModel(endpoint).logits(examples(12)[0])
        assert heard == {"Bearer secret-a": 6, "Bearer secret-b": 6}
        assert endpoint.masked("secret-b") == "${KEY_B}"
