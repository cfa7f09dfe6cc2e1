"""The guard: each detector by itself, the file, and what a client meets."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mohs import demo
from mohs.data import load_digits
from mohs.errors import RequestError
from mohs.models import Model, as_model
from mohs.serve import Answers, Blacklight, Gives, Guard, GuardSpec, Limits, Prada, load_guard, make_app
from mohs.serve.declined import Declined
from mohs.serve.limits import Quota, TokenBucket
from mohs.serve.measure import effect, false_alarms, jacobian_queries, rounded, square_queries, walk_queries
from tests.serving import ask, serving
from tests.test_serve import SHAPE, images, small

RNG = np.random.default_rng(0)


# rates and quotas, by a clock of the test


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 10)), max_size=40), st.floats(0.1, 20))
def test_a_bucket_never_gives_more_than_its_rate(calls: list[tuple[float, int]], rate: float) -> None:
    bucket, now, given_ = TokenBucket(rate, 10, 0.0), 0.0, 0
    for pause, n in calls:
        now += pause
        wait = bucket.take(n, now)
        if wait == 0:
            given_ += n
        else:
            assert bucket.take(n, now + wait * (1 + 1e-9) + 1e-9) == 0  # what it promised
            given_, now = given_ + n, now + wait * (1 + 1e-9) + 1e-9
        assert given_ <= 10 + rate * now + 1e-6


def test_a_bucket_says_when_to_come_again() -> None:
    bucket = TokenBucket(2.0, 4, 0.0)
    assert bucket.take(4, 0.0) == 0
    assert bucket.take(1, 0.0) == 0.5
    assert bucket.take(1, 0.25) == 0.25
    assert bucket.take(1, 0.5) == 0


def test_a_quota_begins_anew() -> None:
    quota = Quota(5, 100.0, 0.0)
    assert [quota.take(3, 10.0), quota.take(2, 20.0), quota.take(1, 30.0)] == [0, 0, 70.0]
    assert quota.take(5, 100.0) == 0


# Blacklight


def test_a_fingerprint_counts_the_windows_two_inputs_share() -> None:
    """One change touches `window` windows of a vector; with all windows kept, the rest match."""
    light = Blacklight(fingerprints=1000, window=20, salt=b"of the test")
    x = RNG.random(200).astype(np.float32)
    y = x.copy()
    y[100] = (y[100] + 0.5) % 1  # 2 or 3 quantisation steps of 50/255
    assert len(light.fingerprint(x)) == 181
    light(x)
    assert light.matches(light.fingerprint(x)) == 181
    assert light.matches(light.fingerprint(y)) == 181 - 20


def test_small_changes_vanish_in_the_quantisation_and_other_inputs_do_not_match() -> None:
    light = Blacklight()
    levels = RNG.integers(0, 6, 784)
    x = (levels * 50 / 255).clip(0, 1).astype(np.float32)
    assert not light(x)
    assert light(x + RNG.uniform(-0.09, 0.09, 784).astype(np.float32))  # half a step is 0.098
    assert not light(RNG.random(784).astype(np.float32))
    assert light.matches(light.fingerprint(RNG.random(784).astype(np.float32))) == 0


def test_a_detection_needs_more_than_the_threshold() -> None:
    x, y = RNG.random(300).astype(np.float32), RNG.random(300).astype(np.float32)
    y[:150] = x[:150]
    shared = Blacklight(salt=b"s")
    shared(x)
    matches = shared.matches(shared.fingerprint(y))
    assert 5 < matches < 45
    for threshold, found in ((matches, False), (matches - 1, True)):
        light = Blacklight(threshold=threshold, salt=b"s")
        assert not light(x)
        assert light(y) is found


def test_the_choice_of_windows_is_secret() -> None:
    x = RNG.random(784).astype(np.float32)
    assert not set(Blacklight().fingerprint(x)) & set(Blacklight().fingerprint(x))


def test_what_is_remembered_is_bounded_and_the_oldest_goes() -> None:
    light = Blacklight(remember=5)
    queries = RNG.random((12, 100)).astype(np.float32)
    for x in queries:
        light(x)
    assert len(light._seen_in) <= 5 * 50
    assert light.matches(light.fingerprint(queries[7])) == 50
    assert light.matches(light.fingerprint(queries[6])) == 0


@pytest.mark.parametrize("shape", [(1,), (3, 2), (1, 8, 8)])
def test_inputs_smaller_than_a_window_are_one_window(shape: tuple[int, ...]) -> None:
    light = Blacklight(threshold=0)
    x = RNG.random(shape).astype(np.float32)
    assert [light(x), light(x)] == [False, True]


# PRADA


def test_the_statistic_is_that_of_the_algorithm_written_out() -> None:
    """D, G_c and T_c by plain lists, as printed; no outlier among these distances is left out twice."""
    from scipy.stats import shapiro

    x, labels = RNG.normal(size=(400, 30)).astype(np.float32), RNG.integers(0, 3, 400).tolist()
    prada = Prada(growing=10_000)
    for row, label in zip(x, labels, strict=True):
        prada(row, label)
    members: dict[int, list[np.ndarray]] = {}
    joined: dict[int, list[float]] = {}
    threshold: dict[int, float] = {}
    found: list[float] = []
    for row, label in zip(x.astype(np.float64), labels, strict=True):
        if label not in members:
            members[label], joined[label], threshold[label] = [row], [0.0], 0.0
            continue
        d = min(float(np.linalg.norm(row - member)) for member in members[label])
        found.append(d)
        if d > threshold[label]:
            members[label].append(row)
            joined[label].append(d)
            threshold[label] = max(threshold[label], float(np.mean(joined[label]) - np.std(joined[label])))
    kept = np.array(found)
    kept = kept[abs(kept - kept.mean()) < 3 * kept.std()]
    assert prada.statistic == pytest.approx(float(shapiro(kept).statistic), abs=1e-5)
    assert {c: s.joined for c, s in prada._sets.items()} == {c: len(m) for c, m in members.items()}


def test_prada_waits_for_100_distances_and_then_tells_normal_from_not() -> None:
    honest, attack = Prada(), Prada()
    base = RNG.normal(size=(100, 50)).astype(np.float32)
    spoke = []
    for i in range(300):
        assert not honest(RNG.normal(size=50).astype(np.float32), 0)
        near = base[i % 100] + (0.01 if i >= 100 else 0)  # each seed again, a little off
        spoke.append(attack(near.astype(np.float32), 0))
    assert spoke.index(True) > 100
    assert spoke[-1]


def test_the_growing_set_is_bounded() -> None:
    prada = Prada(growing=20)
    for _ in range(200):
        prada(RNG.normal(size=10).astype(np.float32), 1)
    assert prada.bytes == 20 * 10 * 4


def test_equal_queries_raise_no_warning() -> None:
    prada = Prada()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spoke = [prada(np.ones(4, np.float32), 0) for _ in range(150)]
    assert spoke[-1]
    assert not any(spoke[:100])


# what they are worth


@pytest.fixture(scope="module")
def digits() -> tuple[Model, torch.Tensor, torch.Tensor]:
    """A small network trained for a moment, and the digits it gets right."""
    module = demo.train(robust=False, epochs=3)
    x, y = load_digits("test")
    with torch.no_grad():
        right = module(x).argmax(1) == y
    return as_model(module, x), x[right], y[right]


def test_blacklight_catches_query_attacks_within_a_few_queries(digits: tuple[Model, torch.Tensor, torch.Tensor]) -> None:
    model, x, y = digits
    for i in range(3):
        square = square_queries(model, x[i], int(y[i]), 0.2, queries=150, seed=i)
        walk = walk_queries(model, x[i], int(y[i]), 0.8, queries=200, seed=i)
        for queries in (square, walk):
            assert len(queries.inputs) == len(queries.labels)
            light = Blacklight()
            found = effect(lambda q, label, light=light: light(q), queries)
            assert found.detected is not None
            assert found.detected <= 30
            assert found.share > 0.1


def test_success_is_the_first_adversarial_query(digits: tuple[Model, torch.Tensor, torch.Tensor]) -> None:
    model, x, y = digits
    queries = square_queries(model, x[0], int(y[0]), 0.4, queries=300)
    assert queries.success == len(queries.inputs)  # the attack stopped there
    with torch.no_grad():
        labels = model.logits(torch.from_numpy(queries.inputs)).argmax(1)
    assert queries.labels == labels.tolist()
    assert [i for i, label in enumerate(labels.tolist(), 1) if label != int(y[0])] == [queries.success]
    assert (np.abs(queries.inputs - x[0].numpy()) <= 0.4 + 1e-6).all()
    walk = walk_queries(model, x[0], int(y[0]), 1.0, queries=400)
    assert walk.success is not None
    near = [np.linalg.norm(q - x[0].numpy()) <= 1.0 and label != int(y[0]) for q, label in zip(*walk[:2], strict=True)]
    assert near.index(True) + 1 == walk.success


def test_prada_catches_extraction_and_not_honest_clients(cases: ModuleType) -> None:
    """On MNIST, as in the paper."""
    module, name = cases.load("mnist_cnn_a_adv")
    x = cases.data(name)[0][:500]
    model = as_model(module, x)
    with torch.no_grad():
        labels = torch.cat([module(part).argmax(1) for part in x.split(250)]).tolist()
    assert false_alarms(Prada(), x, labels) == 0
    extraction = effect(Prada(), jacobian_queries(model, x[:150], queries=500))
    assert extraction.detected is not None
    assert extraction.detected <= 300
    light = Blacklight(window=50)
    assert false_alarms(lambda q, _: light(q), x, labels) <= 0.01


def test_rounding_takes_the_scores_from_square(digits: tuple[Model, torch.Tensor, torch.Tensor]) -> None:
    model, x, y = digits
    queries = square_queries(model, x[1], int(y[1]), 0.2, queries=100, told=rounded(0))
    z = rounded(1)(torch.tensor([[0.0, 1.0, 5.0]]))
    assert z.argmax(1).item() == 2
    torch.testing.assert_close(z.exp(), torch.tensor([[1e-12, 1e-12, 1.0]]))
    assert len(queries.inputs) > 0


# guard.toml


WHOLE = """
clients = 100
[input]
range = [0.0, 1.0]
bits = 8
[rate]
examples = 5.0
burst = 20
[quota]
examples = 1000
[answer]
gives = "topk:1"
decimals = 2
[blacklight]
window = 20
on_detection = "label"
[prada]
delta = 0.9
"""


def test_a_guard_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "guard.toml"
    path.write_text(WHOLE)
    spec = load_guard(path)
    assert spec.input is not None
    assert spec.input.range == (0, 1)
    assert spec.blacklight is not None
    assert spec.blacklight.on_detection == "label"
    assert spec.answer.narrow(Answers(Gives("scores"))) == Answers(Gives("topk", 1), decimals=2)
    assert spec.answer.narrow(Answers(Gives("label"))).gives == Gives("label")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rates]\nexamples = 3", "there is no 'rates'"),
        ("[blacklight]\nwindows = 20", "there is no 'blacklight.windows'"),
        ("[rate]\nexamples = -1", "rate.examples"),
        ("[rate]", "rate.examples"),
        ("[input]\nrange = [1, 0]", "input.range"),
        ('[answer]\ngives = "top"', "answer.gives"),
        ('[prada]\non_detection = "ban"', "prada.on_detection"),
        ("[rate", "no TOML"),
        ("", None),
    ],
)
def test_a_wrong_guard_file_says_where(tmp_path: Path, text: str, said: str | None) -> None:
    path = tmp_path / "guard.toml"
    path.write_text(text)
    if said is None:
        assert load_guard(path) == GuardSpec()
        return
    with pytest.raises(RequestError) as refusal:
        load_guard(path)
    assert said in str(refusal.value)


def declined(guard: Guard, client: str, x: np.ndarray) -> Declined:
    with pytest.raises(Declined) as refusal:
        guard.admit(client, x)
    return refusal.value


def test_the_input_contract() -> None:
    x = np.full((2, 4), 0.2, np.float32)  # 51/255
    guard = Guard(GuardSpec.model_validate({"input": {"bits": 8}}), (0.0, 1.0))
    assert guard.admit("a", x) is False
    assert "quantised" in declined(guard, "a", x + np.float32(0.001)).message
    assert "expected 0 to 1" in declined(guard, "a", -x).message
    whole = Guard(GuardSpec.model_validate({"input": {"dtype": "integer", "range": [0, 255]}}), (0.0, 255.0))
    assert whole.admit("a", np.array([[0.0, 255.0]], np.float32)) is False
    assert declined(whole, "a", x).status == 422


def test_clients_have_limits_of_their_own_and_are_told_when_to_come_again() -> None:
    now = [0.0]
    spec = GuardSpec.model_validate({"rate": {"examples": 2, "burst": 4}, "quota": {"examples": 6, "seconds": 100}, "clients": 2})
    guard = Guard(spec, (0.0, 1.0), clock=lambda: now[0])
    x = RNG.random((4, 3)).astype(np.float32)
    guard.admit("a", x)
    refusal = declined(guard, "a", x[:1])
    assert (refusal.status, refusal.retry_after) == (429, 0.5)
    guard.admit("b", x)
    now[0] = 1.0
    guard.admit("a", x[:2])
    now[0] = 3.0
    refusal = declined(guard, "a", x[:1])
    assert (refusal.status, refusal.reason, refusal.retry_after) == (429, "quota", 97.0)
    assert declined(guard, "a", RNG.random((5, 3)).astype(np.float32)).status == 413
    for name in "cd":
        guard.admit(name, x)
    assert list(guard.clients) == ["c", "d"]


def test_what_prada_keeps_of_all_clients_is_bounded() -> None:
    guard = Guard(GuardSpec.model_validate({"prada": {"memory": 1}}), (0.0, 1.0))
    for client in range(30):
        x = RNG.random((30, 2000)).astype(np.float32)
        guard.watch(str(client), x, [0] * 30)
    held = sum(c.prada.bytes for c in guard.clients.values() if c.prada)
    assert held == guard._held
    assert 0 < held <= 2**20
    assert all(c.prada for c in guard.clients.values())


# over HTTP


@pytest.mark.parametrize("on_detection", ["refuse", "label"])
def test_a_detected_query_is_refused_or_gets_the_label_alone(on_detection: str) -> None:
    model = small()
    spec = GuardSpec.model_validate({"blacklight": {"on_detection": on_detection}})
    x = images(2)
    with serving(make_app(model, SHAPE, guard=spec)) as url:
        assert "scores" in ask(url, x[:1]).json()
        again = ask(url, x[:1] + 0.001)
        assert "scores" in ask(url, x[1:]).json()
    if on_detection == "refuse":
        assert again.status_code == 403
        assert "attack" in again.json()["error"]
    else:
        assert list(again.json()) == ["labels"]


def test_a_client_over_its_rate_gets_429() -> None:
    spec = GuardSpec.model_validate({"rate": {"examples": 0.1, "burst": 3}, "answer": {"decimals": 1}})
    with serving(make_app(small(), SHAPE, guard=spec, limits=Limits())) as url:
        first, second = ask(url, images(3)), ask(url, images(1), **{"X-Forwarded-For": "192.0.2.7"})
    assert first.status_code == 200
    assert all(math.isclose(s * 10, round(s * 10), abs_tol=1e-9) for row in first.json()["scores"] for s in row)
    assert second.status_code == 429
    assert second.headers["retry-after"] == "10"
