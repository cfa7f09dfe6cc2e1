"""A model behind an endpoint, against a small server with faults to order."""

from __future__ import annotations

import base64
import builtins
import math
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from mohs.attacks import Square
from mohs.errors import Missing, ModelError, Refused, RequestError, RunFailed
from mohs.ledger import Status
from mohs.models.contract import check_contract
from mohs.models.http import HttpModel, client, make_endpoint
from mohs.models.http.model import _key
from mohs.models.prepared import prepare
from mohs.request import Request
from mohs.subjects import load_http
from mohs.threat import Knowledge
from tests.stub import (
    Answer,
    Stub,
    examples,
    flaky,
    picture,
    probabilities,
    running,
    serve_labels,
    serve_picture,
    serve_scores,
    serve_top,
)

RETRY = {"first": 0.001, "longest": 0.05, "pause": 0.01, "attempts": 8}
Make = Callable[..., HttpModel]


@pytest.fixture
def make() -> Iterator[Make]:
    """An HttpModel of a stub; fields of the description by name, options of the model in `options`."""
    made = []

    def build(stub: Stub, *, options: dict[str, object] | None = None, **told: object) -> HttpModel:
        described = {"url": stub.url, "classes": 4, "timeout": 30, "answer": {"scores": "$.scores"}, "retry": RETRY, **told}
        made.append(HttpModel(make_endpoint(described), **(options or {})))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for model in made:
        model.client.close()


class Clock:
    """In place of time: sleeping moves it on."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now - 1000

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def after(self, work: Coroutine[Any, Any, None]) -> float:
        """The time since the beginning when a piece of work is done."""
        with pytest.raises(StopIteration):
            work.send(None)
        return self.now - 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(client, "time", made)
    monkeypatch.setattr(client.asyncio, "sleep", made.sleep)
    return made


def truth(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(probabilities(x.numpy().astype(np.float64)))


class TestAnswers:
    def test_scores(self, make: Make) -> None:
        x, _ = examples()
        with running(Stub()) as stub:
            z = make(stub).logits(x)
        assert z.dtype == torch.float32
        assert torch.allclose(z.exp().double(), truth(x), rtol=1e-5)

    def test_batches_with_a_rest(self, make: Make) -> None:
        x, _ = examples()
        with running(Stub()) as stub:
            model = make(stub, batch=7)
            assert torch.allclose(model.logits(x).exp().double(), truth(x), rtol=1e-5)
            assert stub.received == 4
            assert model.client.answers.tally()["sent"] == 24

    def test_labels_are_one_hot_and_nothing_else(self, make: Make) -> None:
        x, _ = examples()

        def both(body, headers):  # type: ignore[no-untyped-def]
            return serve_labels(body, headers) | serve_scores(body, headers)

        with running(Stub(both)) as stub:
            model = make(stub, answer={"labels": "$.labels"})
            z = model.logits(x)
        assert model.gives == Knowledge.LABEL
        assert sorted(z.unique().tolist()) == [0.0, 1.0]
        assert torch.equal(z.argmax(1), truth(x).argmax(1))

    def test_labels_by_name(self, make: Make) -> None:
        names = ["ant", "bee", "cat", "dog"]
        with running(Stub(lambda body, _: {"label": names[2]})) as stub:
            model = make(stub, answer={"labels": "$.label"}, classes=names)
            assert model.logits(examples(1)[0]).tolist() == [[0, 0, 1, 0]]

    def test_scores_by_name(self, make: Make) -> None:
        told = {"dog": 0.1, "ant": 0.2, "cat": 0.3, "bee": 0.4}
        with running(Stub(lambda body, _: {"results": [{"p": told}]})) as stub:
            model = make(stub, answer={"scores": "$.results[*].p"}, classes=["ant", "bee", "cat", "dog"])
            assert model.logits(examples(1)[0]).exp()[0].tolist() == pytest.approx([0.2, 0.4, 0.3, 0.1])

    def test_the_best_few_leave_the_rest_below(self, make: Make) -> None:
        x, _ = examples()
        with running(Stub(serve_top)) as stub:
            p = make(stub, answer={"top": "$.top"}).logits(x).exp().double()
        best, want = p.topk(2), truth(x).topk(2)
        assert torch.equal(best.indices, want.indices)
        assert torch.allclose(best.values, want.values, rtol=1e-5)
        assert bool((p.topk(3).values[:, 2] < best.values[:, 1]).all())

    def test_logits(self, make: Make) -> None:
        with running(Stub(lambda body, _: {"z": [[-3, 0.5, 2, 7]]})) as stub:
            z = make(stub, answer={"scores": "$.z", "kind": "logits"}).logits(examples(1)[0])
        assert z.tolist() == [[-3, 0.5, 2, 7]]


class TestWhatIsSent:
    @pytest.mark.parametrize(
        ("told", "want"),
        [
            ({}, lambda x: x),
            ({"layout": "hwc"}, lambda x: x.permute(1, 2, 0)),
            ({"layout": "flat"}, lambda x: x.flatten()),
            ({"range": [0, 255], "integers": True}, lambda x: (x * 255).round().int()),
            ({"range": [-1, 1]}, lambda x: x * 2 - 1),
        ],
    )
    def test_numbers(self, make: Make, told: dict[str, object], want: Callable[[torch.Tensor], torch.Tensor]) -> None:
        seen = []
        x, _ = examples(1)
        with running(Stub(lambda body, _: seen.append(body) or {"scores": [[0.25] * 4]})) as stub:  # type: ignore[func-returns-value]
            make(stub, input=told).logits(x)
        assert np.allclose(seen[0]["inputs"][0], want(x[0]).numpy(), atol=1e-6)

    def test_bounds_of_the_inputs_are_mapped_to_the_range(self, make: Make) -> None:
        seen = []
        with running(Stub(lambda body, _: seen.append(body) or {"scores": [[0.25] * 4]})) as stub:  # type: ignore[func-returns-value]
            model = make(stub, options={"bounds": (-2.0, 2.0)}, input={"range": [0, 255], "integers": True})
            model.logits(torch.tensor([[[[-2.0, 2.0], [0.0, 1.0]]]]))
        assert seen[0]["inputs"] == [[[[0, 255], [128, 191]]]]

    def test_a_png_arrives_as_rounded(self, make: Make) -> None:
        x, _ = examples(3)
        with running(Stub(serve_picture)) as stub:
            model = make(stub, input={"encoding": "png"}, body={"json": {"image": "$input"}})
            z = model.logits(x)
        assert model.bits == 8
        assert torch.allclose(z.exp().double(), truth((x * 255).round() / 255), rtol=1e-5)
        assert not torch.allclose(z.exp().double(), truth(x), rtol=1e-5)

    def test_what_differs_below_the_rounding_is_one_question(self, make: Make) -> None:
        x, _ = examples(1, grid=True)
        with running(Stub(serve_picture)) as stub:
            model = make(stub, input={"encoding": "png"}, body={"json": {"image": "$input"}})
            model.logits(x)
            model.logits(x + 0.4 / 255)
            assert stub.received == 1
            model.logits(x + 0.6 / 255)
            assert stub.received == 2

    def test_a_file_of_a_form(self, make: Make) -> None:
        x, _ = examples(1, grid=True)
        seen = []

        def form(raw, headers):  # type: ignore[no-untyped-def]
            mark = headers["content-type"].partition("boundary=")[2].encode()
            parts = {p.split(b'name="')[1].split(b'"')[0]: p.split(b"\r\n\r\n", 1)[1][:-2] for p in raw.split(b"--" + mark)[1:-1]}
            seen.append(parts)
            return {"scores": probabilities(picture(parts[b"file"]))[0].tolist()}

        with running(Stub(form)) as stub:
            model = make(stub, input={"encoding": "png"}, body={"multipart": {"file": "$input", "model": "v2"}})
            assert torch.allclose(model.logits(x).exp().double(), truth(x), rtol=1e-5)
        assert seen[0][b"model"] == b"v2"

    def test_a_jpeg_within_an_object_each(self, make: Make) -> None:
        x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        seen = []

        def answer(body, _):  # type: ignore[no-untyped-def]
            seen.extend(base64.b64decode(one["b64"].removeprefix("data:,")) for one in body["instances"])
            return {"scores": [[0.25] * 4] * len(body["instances"])}

        body = {"json": {"instances": "$inputs"}, "each": {"b64": "data:,$input"}}
        with running(Stub(answer)) as stub:
            make(stub, input={"encoding": "jpeg"}, body=body, batch=2).logits(x)
        assert [part[:3] for part in seen] == [b"\xff\xd8\xff"] * 2


class TestTheAccount:
    def test_nothing_is_asked_twice(self, make: Make) -> None:
        x, _ = examples()
        with running(Stub()) as stub:
            model = make(stub)
            first = model.logits(torch.cat([x, x[:5]]))
            assert torch.equal(model.logits(x), first[:24])
            assert stub.received == 24
            tally = model.client.answers.tally()
        assert {k: tally[k] for k in ("asked", "cached", "answered", "failed", "sent")} == {
            "asked": 53,
            "cached": 29,
            "answered": 24,
            "failed": 0,
            "sent": 24,
        }

    @pytest.mark.parametrize("options", [{"total": 10}, {"spend": 0.1}])
    def test_the_budget_binds_what_is_sent(self, make: Make, options: dict[str, object]) -> None:
        x, _ = examples()
        with running(Stub(fault=lambda n: (500, b"", {}) if n % 3 == 0 else None)) as stub:
            model = make(stub, options=options, price=0.01)
            z = model.logits(x)
            assert stub.received == 10
            silent = z.isnan().any(1)
            assert 24 - 10 <= int(silent.sum()) < 24
            assert {reason.partition(":")[2].split(" (")[0] for reason in model.lapse(x[silent])} <= {
                " the total budget of 10 queries is spent"
            }

    def test_the_budget_ends_in_order(self, make: Make) -> None:
        x, _ = examples()
        with running(Stub(pause=0.005)) as stub:
            z = make(stub, options={"total": 9}).logits(x)
        assert z.isnan().any(1).tolist() == [False] * 9 + [True] * 15

    def test_no_more_than_the_rate(self, make: Make, clock: Clock) -> None:
        model = make(Stub(url="http://127.0.0.1:9/x"), options={"rate": 50.0})
        gone = [clock.after(model.client._turn(1)) for _ in range(30)]
        assert gone[:6] == pytest.approx([0] * 6)  # what was saved up in a tenth of a second goes at once
        assert np.diff(gone[6:]) == pytest.approx([0.02] * 23)

    @pytest.mark.parametrize(
        ("told", "wait"), [("2", 2.0), ("4000", 60.0), ("Thu, 01 Jan 1970 00:00:07 GMT", 7.0), ("soon", 0.0)]
    )
    def test_all_wait_where_one_is_told_to(self, make: Make, clock: Clock, told: str, wait: float) -> None:
        model = make(Stub(url="http://127.0.0.1:9/x"), retry={})
        model.client._obey(httpx.Response(429, headers={"Retry-After": told}), 0)
        assert clock.after(model.client._turn(1)) == pytest.approx(wait)

    def test_a_killed_process_repeats_what_was_in_flight(self, make: Make, tmp_path: Path) -> None:
        x, _ = examples(3)
        file = tmp_path / "answers.sqlite"
        with running(Stub()) as stub:
            model = make(stub, options={"answers": file})
            model.logits(x[:1])
            model.client.answers.reserve([_key(model._part(x[1]), 0)])  # and then the process dies
            again = make(stub, options={"answers": file})
            again.logits(x)
            tally = again.client.answers.tally()
            assert (tally["sent"], tally["repeated"], stub.received) == (4, 1, 3)

    def test_answers_move_to_a_file(self, make: Make, tmp_path: Path) -> None:
        x, _ = examples()
        with running(Stub()) as stub:
            model = make(stub)
            want = model.logits(x)
            model.keep(tmp_path / "answers.sqlite")
            again = make(stub, options={"answers": tmp_path / "answers.sqlite"})
            assert torch.equal(again.logits(x), want)
            assert stub.received == 24


class TestFaults:
    def test_a_fifth_failing_changes_no_answer(self, make: Make) -> None:
        x, _ = examples()
        with running(Stub(fault=flaky())) as stub:
            model = make(stub, timeout=0.3)
            assert torch.allclose(model.logits(x).exp().double(), truth(x), rtol=1e-5)
            tally = model.client.answers.tally()
        assert tally["sent"] == stub.received > 24
        assert tally["answered"] == 24

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            ((422, b"too dark", {}), "answered 422: 'too dark'"),
            ((500, b"oops", {}), r"answered 500: 'oops' \(attempt 2\)"),
            ((0, b"", {}), r"no answer within 0.2 s \(attempt 2\)"),
            ((200, b"{", {}), "the answer is no JSON"),
            ((200, b'{"scores": [[1, 2]]}', {}), "there are 2 scores, and 4 classes are described"),
            ((200, b'{"scores": [["a", 1, 1, 1]]}', {}), "'a' is no score"),
            ((200, b'{"oops": 1}', {}), "finds 0 answers to 1 examples"),
        ],
    )
    def test_a_row_without_an_answer_is_undecided_and_says_why(
        self, make: Make, fault: tuple[int, bytes, dict[str, str]], said: str
    ) -> None:
        x, y = examples(6)

        def answer(body, headers):  # type: ignore[no-untyped-def]
            odd = np.allclose(body["inputs"][0], x[2].numpy(), atol=1e-6)
            if odd and fault[0] == 0:
                time.sleep(0.3)
            return fault if odd and fault[0] else serve_scores(body, headers)

        with running(Stub(answer)) as stub:
            model = make(stub, retry=RETRY | {"attempts": 2}, timeout=30 if fault[0] else 0.2)
            outcome = Square(queries=20)(prepare(model, x), x, y, threat="linf:0.02+knowledge:scores")
        assert outcome.status[2] == Status.UNDECIDED
        assert re.search(said, outcome.reason[2])
        assert Status.UNDECIDED not in outcome.status[:2] + outcome.status[3:]

    def test_the_budget_of_an_example_that_ends_amid_an_attack(self, make: Make) -> None:
        x, y = examples(4)
        with running(Stub()) as stub:
            outcome = Square(queries=50)(
                prepare(make(stub, options={"total": 30}), x), x, y, threat="linf:0.001+knowledge:scores"
            )
        assert set(outcome.status) <= {Status.UNDECIDED, Status.SURVIVED}
        assert Status.UNDECIDED in outcome.status
        assert {r for s, r in zip(outcome.status, outcome.reason, strict=True) if s == Status.UNDECIDED} == {
            "the total budget of 30 queries is spent"
        }

    def test_an_endpoint_that_goes_down_ends_the_run(self, make: Make) -> None:
        x, _ = examples()
        with running(Stub(fault=lambda n: (500, b"", {}) if n > 5 else None)) as stub:
            model = make(stub, retry=RETRY | {"breaker": 4, "trips": 2})
            model.logits(x[:5])
            with pytest.raises(RunFailed, match=r"is down: \d+ failures in a row; resume"):
                model.logits(x)
            assert stub.received < 5 + 8 + 4 + 2 + 1  # in flight, before the breaker, trials

    def test_the_breaker_closes_again(self, make: Make) -> None:
        x, _ = examples()
        with running(Stub(fault=lambda n: (500, b"", {}) if 5 < n < 15 else None)) as stub:
            model = make(stub, retry=RETRY | {"breaker": 4, "trips": 8, "pause": 0.001}, concurrency=2)
            model.logits(x[:5])
            assert not model.logits(x).isnan().any()

    def test_no_redirect_is_followed(self, make: Make) -> None:
        with running(Stub(fault=lambda n: (302, b"", {"Location": "/login"}))) as stub:
            z = make(stub).logits(examples(1)[0])
            assert bool(z.isnan().all())
            assert stub.received == 1


class TestSecrets:
    def test_are_sent_and_shown_nowhere(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MOHS_TEST_KEY", "s3cret-value")
        x, y = examples(2)
        page = b"you are s3cret-value and may not " + b"x" * 2000
        with running(Stub(fault=lambda n: (403, page, {}))) as stub:
            model = make(stub, headers={"Authorization": "Bearer ${MOHS_TEST_KEY}"})
            with pytest.raises(ModelError) as error:
                check_contract(model, x, y)
            assert stub.heads[0]["authorization"] == "Bearer s3cret-value"
        assert "s3cret" not in str(error.value)
        assert "${MOHS_TEST_KEY}" in str(error.value)
        assert "authorisation" in str(error.value)
        assert len(str(error.value)) < 600
        assert "s3cret" not in model.endpoint.model_dump_json()

    def test_must_be_set(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MOHS_TEST_KEY", raising=False)
        with pytest.raises(RequestError, match=r"MOHS_TEST_KEY.*not set"), running(Stub()) as stub:
            make(stub, headers={"X-Api-Key": "${MOHS_TEST_KEY}"})


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"url": "ftp://x/y"}, "http://host/path"),
        ({"url": "http://u:p@x/y"}, "holds a password"),
        ({"headers": {"Authorization": "Bearer abc"}}, "secret in the clear"),
        ({"answer": {}}, "one of scores, top and labels"),
        ({"answer": {"scores": "$.a", "labels": "$.b"}}, "one of scores, top and labels"),
        ({"classes": 1}, "fewer than 2"),
        ({"classs": 4}, "classs: Extra inputs"),
        ({"body": {"json": {"x": 1}}}, "has no"),
        ({"body": {"json": {"x": "$input"}}, "batch": 4}, "batch is 4"),
        ({"body": {"multipart": {"f": "$input"}}}, "encoding is png or jpeg"),
        ({"input": {"encoding": "gif"}}, "input.encoding"),
    ],
)
def test_a_description_that_cannot_be(told: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make_endpoint({"url": "http://127.0.0.1/x", "classes": 4, "answer": {"scores": "$.s"}} | told)


class TestContract:
    """What is wrong is told at the start, with what was received."""

    def check(self, model: HttpModel) -> list[str]:
        return [finding.message for finding in check_contract(model, *examples())]

    def test_nothing_amiss(self, make: Make) -> None:
        with running(Stub()) as stub:
            model = make(stub)
            assert self.check(model) == []
            assert not model.random
            assert stub.received == 24 + 4 * 3

    def test_down(self, make: Make) -> None:
        with pytest.raises(ModelError, match="cannot be reached"):
            self.check(make(Stub(url="http://127.0.0.1:9/predict")))

    @pytest.mark.parametrize(
        ("answer", "told", "said"),
        [
            (lambda b, h: (200, b"<html>Sign in</html>", {}), {}, "answered 200: '<html>Sign in</html>': that is a page"),
            (lambda b, h: (401, b"who?", {}), {}, "answered 401: 'who\\?': it asks for authorisation"),
            (lambda b, h: (403, b"no", {}), {"guard": {"refuses": [403]}}, "its guard refuses the very first query"),
            (lambda b, h: (404, b"no such", {}), {}, "answered 404: 'no such'"),
            (lambda b, h: {"scores": [[0.5, 0.3, 0.2]]}, {}, "3 scores, and 4 classes are described.*received"),
            (lambda b, h: {"scores": [[5.0, -1, 2, 3]]}, {}, "no probabilities: say kind = 'logits'"),
            (serve_scores, {"answer": {"scores": "$.scores", "kind": "logits"}}, "say kind = 'probabilities'"),
            (serve_scores, {"answer": {"scores": "$.p"}}, r"\$.p finds 0 answers"),
            (lambda b, h: {"labels": [7]}, {"answer": {"labels": "$.labels"}}, "class 7 is none of the 4"),
        ],
    )
    def test_not_as_described(self, make: Make, answer, told: dict[str, object], said: str) -> None:  # type: ignore[no-untyped-def]
        with running(Stub(answer)) as stub, pytest.raises(ModelError, match=said):
            self.check(make(stub, **told))

    def test_classes_in_another_order(self, make: Make) -> None:
        def turned(body, headers):  # type: ignore[no-untyped-def]
            return {"scores": [row[1:] + row[:1] for row in serve_scores(body, headers)["scores"]]}

        with running(Stub(turned)) as stub, pytest.raises(ModelError, match=r"another order: 0 of 24 .* and 24 would be"):
            self.check(make(stub))

    def test_noise_is_told_and_averaged(self, make: Make) -> None:
        rng = np.random.default_rng(0)

        def noisy(body, headers):  # type: ignore[no-untyped-def]
            p = probabilities(np.array(body["inputs"])) * rng.uniform(0.9, 1.1, 4)
            return {"scores": (p / p.sum()).tolist()}

        x, y = examples()
        weak = truth(x).max(1).values.argsort()[:2]
        with running(Stub(noisy)) as stub:
            model = make(stub, concurrency=1)
            assert any("not deterministic" in said for said in self.check(model))
            assert model.random
            outcome = Square(queries=10)(prepare(model, x[:2]), x[weak], y[weak], threat="linf:0.3+knowledge:scores", draws=3)
            assert outcome.trials[outcome.broken].tolist() == [100] * int(outcome.broken.sum())
            assert outcome.broken.any()
            before = stub.received
            Square(queries=10)(prepare(model, x[:2]), x[weak], y[weak], threat="linf:0.3+knowledge:scores", draws=3)
            assert stub.received == before  # the same draws are the same answers


def noisy(seed: int) -> Answer:
    rng = np.random.default_rng(seed)

    def answer(body: Any, headers: dict[str, str]) -> Any:
        p = probabilities(np.array(body["inputs"])) * rng.uniform(0.99, 1.01, 4)
        return {"scores": (p / p.sum()).tolist()}

    return answer


@pytest.mark.parametrize(("gap", "status"), [(range(50, 51), Status.BROKEN), (range(30, 90), Status.UNDECIDED)])
def test_a_confirmation_with_a_gap(make: Make, gap: range, status: Status) -> None:
    """An answer that is missing is no hit: half of all fresh ones must be hits nonetheless, or nothing is decided."""
    x, y = examples(1)
    with running(Stub(noisy(0), fault=lambda n: (422, b"no", {}) if n in gap else None)) as stub:
        model = make(stub, concurrency=1)
        model.random = True
        outcome = Square(queries=1)(prepare(model, x), x, (y + 1) % 4, threat="linf:0.01+knowledge:scores", goal="targeted:0")
        assert stub.received == 1 + 100  # and no question after it
    assert outcome.status == [status]
    assert outcome.reason == ["" if status == Status.BROKEN else "answered 422: 'no'"]


def test_an_attack_by_scores_is_refused_labels(make: Make) -> None:
    x, y = examples(2)
    with running(Stub(serve_labels)) as stub:
        model = make(stub, answer={"labels": "$.labels"})
        with pytest.raises(Refused, match="needs scores"):
            Square(queries=10)(prepare(model, x), x, y, threat="linf:0.1")


def test_another_machine_asks_for_leave(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text('classes = 4\n[answer]\nscores = "$.s"\n')
    request = Request(model="https://models.example/v1", data="", threats=[], describe=str(tmp_path / "e.toml"))
    with pytest.raises(RequestError, match=r"models.example is another machine.*--i-am-authorised"):
        load_http(request.model, request)
    load_http(request.model, request.model_copy(update={"i_am_authorised": True})).client.close()


def test_a_missing_package_is_one_line(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "httpx":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Missing, match=r"pip install 'mohs\[serve\]'"):
        make(Stub(url="http://127.0.0.1:9/x"))


def test_money_buys_what_it_says(make: Make) -> None:
    model = make(Stub(url="http://127.0.0.1:9/x"), options={"spend": 0.3}, price=0.1)
    assert model.client.answers.limit == 3  # though 0.3 / 0.1 is below 3 in floats
    assert math.floor(0.3 / 0.1) == 2
    with pytest.raises(RequestError, match="--spend 1 needs what a query costs"):
        make(Stub(url="http://127.0.0.1:9/x"), options={"spend": 1.0})
