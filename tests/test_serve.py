"""`mohs serve` as a client meets it: what is answered, what is refused, and that nothing makes it stumble."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mohs.demo import DigitNet
from mohs.errors import Missing, Refused, RequestError
from mohs.models import Model, as_model
from mohs.models.shapes import input_shape
from mohs.serve import GuardSpec, Limits, make_app
from mohs.serve.declined import Declined
from mohs.serve.wire import Gives, read_inputs
from mohs.threat import Knowledge
from tests.serving import CLIENT, ask, serving

SHAPE = (1, 8, 8)
RIGHT = {"Authorization": "Bearer of-the-test"}


def small() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = DigitNet().eval()
    return as_model(module, torch.rand(2, *SHAPE), name="small")


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> Model:
    return small()


@pytest.fixture(scope="module")
def url(model: Model) -> Iterator[str]:
    with serving(make_app(model, SHAPE, limits=Limits(body=2**18, examples=64))) as address:
        yield address


# what is answered


def test_scores_are_the_logits_to_the_last_bit(url: str, model: Model) -> None:
    x = images(5)
    answer = ask(url, x)
    assert answer.status_code == 200
    assert set(answer.json()) == {"scores", "classes"}
    assert answer.json()["classes"] == list(range(10))
    with torch.no_grad():
        want = model.logits(torch.cat([x, x, x, x[:1]]))[:5]  # 16 rows, a multiple of any small quantum
    assert torch.equal(torch.tensor(answer.json()["scores"]), want)


@pytest.mark.parametrize(("gives", "outputs"), [("topk:3", "logits"), ("topk:3", "probabilities"), ("scores", "probabilities")])
def test_other_answers(model: Model, gives: str, outputs: str) -> None:
    x = images(4)
    with torch.no_grad():
        scores = model.logits(x)
    scores = scores.softmax(1) if outputs == "probabilities" else scores
    with serving(make_app(model, SHAPE, gives=gives, outputs=outputs)) as url:
        found = ask(url, x).json()
    if gives == "scores":
        torch.testing.assert_close(torch.tensor(found["scores"]), scores)
        return
    values, classes = scores.topk(3)
    assert [[pair["class"] for pair in row] for row in found["top"]] == classes.tolist()
    told = torch.tensor([[pair["score"] for pair in row] for row in found["top"]])
    torch.testing.assert_close(told, values)


def test_labels_alone(model: Model) -> None:
    x = images(4)
    with serving(make_app(model, SHAPE, gives="label")) as url, torch.no_grad():
        assert ask(url, x).json() == {"labels": model.logits(x).argmax(1).tolist()}


def test_an_answer_does_not_depend_on_company(url: str) -> None:
    x = images(40)
    together = ask(url, x).json()["scores"]

    async def alone() -> list[list[float]]:
        async with httpx.AsyncClient(timeout=60) as client:
            calls = [client.post(f"{url}/predict", json={"inputs": [row.tolist()]}) for row in x]
            return [answer.json()["scores"][0] for answer in await asyncio.gather(*calls)]

    assert asyncio.run(alone()) == together


def test_health_metrics_and_openapi(url: str) -> None:
    ask(url, images(3))
    assert CLIENT.get(f"{url}/health").json() == {"status": "ok", "model": "small", "shape": [1, 8, 8], "classes": 10}
    metrics = CLIENT.get(f"{url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert re.search(r'^mohs_requests_total\{status="200"\} [1-9]', metrics.text, re.M)
    described = CLIENT.get(f"{url}/openapi.json").json()["paths"]["/predict"]["post"]
    body = described["requestBody"]["content"]["application/json"]["schema"]["properties"]["inputs"]
    assert body["items"]["items"]["items"] == {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 8,
        "maxItems": 8,
    }
    assert {"200", "401", "422", "429"} <= set(described["responses"])
    assert CLIENT.get(f"{url}/docs").status_code == 200


# what is refused


def nested(value: object, shape: tuple[int, ...] = SHAPE) -> object:
    for size in reversed(shape):
        value = [value] * size
    return value


BAD = {
    "empty": (b"", 400, "no JSON"),
    "cut": (b'{"inputs": [', 400, "no JSON"),
    "not utf-8": (b'{"inputs": "\xff"}', 400, "no JSON"),
    "deep": (b"[" * 100_000, 400, "no JSON"),
    "deep inside": (b'{"inputs":' + b"[" * 100 + b"]" * 100 + b"}", 422, "shape"),
    "a list": (b"[]", 422, "object"),
    "null": (b"null", 422, "object"),
    "no examples": (b'{"inputs": []}', 422, "one example or more"),
    "a number": (b'{"inputs": 3}', 422, "list"),
    "another key": (b'{"inputs": [1], "targets": 3}', 422, "targets"),
    "ragged": (b'{"inputs": [[1], [1, 2]]}', 422, "ragged"),
    "NaN": (json.dumps({"inputs": [nested(float("nan"))]}).encode(), 400, "no JSON"),
    "Infinity": (json.dumps({"inputs": [nested(float("inf"))]}).encode(), 400, "no JSON"),
    "beyond float64": (json.dumps({"inputs": [nested(0)]}).replace("0", "1e999").encode(), 422, "float32"),
    "beyond float32": (json.dumps({"inputs": [nested(1e39)]}).encode(), 422, "float32"),
    "beyond int64": (json.dumps({"inputs": [nested(10**30)]}).encode(), 422, "not a number"),
    "texts": (json.dumps({"inputs": [nested("1")]}).encode(), 422, "not a number"),
    "truth values": (json.dumps({"inputs": [nested(True)]}).encode(), 422, "not a number"),
    "nulls": (json.dumps({"inputs": [nested(None)]}).encode(), 422, "not a number"),
    "objects": (json.dumps({"inputs": [nested({})]}).encode(), 422, "not a number"),
    "another shape": (json.dumps({"inputs": [nested(0, (1, 8, 7))]}).encode(), 422, r"[n, 1, 8, 8]"),
    "too many": (json.dumps({"inputs": [nested(0)] * 65}).encode(), 413, "at most 64"),
    "too large": (b" " * (2**18 + 1), 413, "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bodies_are_refused_in_plain_words(url: str, name: str) -> None:
    body, status, words = BAD[name]
    answer = CLIENT.post(f"{url}/predict", content=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert len(answer.json()["error"]) < 200


def test_a_body_without_a_length_is_bounded_too(url: str) -> None:
    answer = CLIENT.post(f"{url}/predict", content=(b" " * 2**12 for _ in range(2**7)))
    assert answer.status_code == 413


def test_other_paths_and_methods_answer_json(url: str) -> None:
    for answer, status in ((CLIENT.get(f"{url}/nothing"), 404), (CLIENT.get(f"{url}/predict"), 405)):
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)
MUTATED = st.tuples(st.integers(0, 300), st.binary(max_size=4), st.integers(0, 20))


@given(body=st.binary(max_size=200) | VALUES.map(lambda v: json.dumps({"inputs": v}).encode()))
def test_no_body_makes_the_server_stumble(url: str, body: bytes) -> None:
    answer = CLIENT.post(f"{url}/predict", content=body)
    assert 400 <= answer.status_code < 500
    assert list(answer.json()) == ["error"]


@given(MUTATED)
def test_no_broken_body_makes_the_server_stumble(url: str, change: tuple[int, bytes, int]) -> None:
    """A good body with some bytes replaced: it may still be one."""
    at, bytes_, cut = change
    good = json.dumps({"inputs": [nested(0.5)]}).encode()
    answer = CLIENT.post(f"{url}/predict", content=good[:at] + bytes_ + good[at + cut :])
    assert answer.status_code < 500
    assert "error" in answer.json() or answer.status_code == 200


@given(value=VALUES)
def test_what_is_read_is_finite_and_of_the_shape(value: object) -> None:
    try:
        x = read_inputs(json.dumps({"inputs": value}).encode(), (2,), 4)
    except Declined as declined:
        status = declined.status
    else:
        status = 422
        assert x.dtype == np.float32
        assert x.shape == (len(x), 2)
        assert np.isfinite(x).all()
    assert 400 <= status < 500


class Strange(nn.Module):
    """NaN where an input is negative, an error where one exceeds 1."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 1).any()):
            raise ValueError("a secret of the model")
        return x.flatten(1)[:, :3].sqrt()


def test_a_failing_model_spoils_no_other_answer(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(as_model(Strange().eval(), torch.rand(2, 4)), (4,))
    with serving(app) as url:
        answers: dict[float, httpx.Response] = {}

        def call(value: float) -> None:
            answers[value] = ask(url, torch.full((1, 4), value))

        threads = [threading.Thread(target=call, args=(v,)) for v in (0.25, -1.0, 2.0, 0.5, 0.75, 1.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {v: a.status_code for v, a in answers.items()} == {0.25: 200, -1.0: 422, 2.0: 500, 0.5: 200, 0.75: 200, 1.0: 200}
    assert "secret" not in answers[2.0].text
    assert "secret" in caplog.text
    assert "no finite scores for input 0" in answers[-1.0].json()["error"]


# tokens


def test_a_token_is_wanted_and_never_told(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    token = "kept-in-the-dark"
    with serving(make_app(model, SHAPE, token=token)) as url:
        x = images(1)
        wrong = [ask(url, x), ask(url, x, Authorization="Bearer no"), ask(url, x, Authorization=f"Basic {token}")]
        wrong += [ask(url, x, Authorization=token), CLIENT.get(f"{url}/metrics")]
        assert [answer.status_code for answer in wrong] == [401] * 5
        assert all(answer.headers["www-authenticate"] == "Bearer" for answer in wrong)
        right = {"Authorization": f"Bearer {token}"}
        assert ask(url, x, **right).status_code == 200
        assert CLIENT.get(f"{url}/health").status_code == 200
        metrics = CLIENT.get(f"{url}/metrics", headers=right)
        assert metrics.status_code == 200
        said = caplog.text + metrics.text + CLIENT.get(f"{url}/openapi.json").text + "".join(a.text for a in wrong)
    assert token not in said


def test_each_token_is_a_client_of_its_own(model: Model) -> None:
    spec = GuardSpec.model_validate({"quota": {"examples": 2, "seconds": 3600}})
    with serving(make_app(model, SHAPE, token="alpha beta", guard=spec)) as url:
        alpha, beta = ({"Authorization": f"Bearer {name}"} for name in ("alpha", "beta"))
        assert [ask(url, images(1), **alpha).status_code for _ in range(3)] == [200, 200, 429]
        assert [ask(url, images(1), **beta).status_code for _ in range(3)] == [200, 200, 429]
        assert ask(url, images(1), Authorization="Bearer alpha beta").status_code == 401


# many at once


class Slow(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        time.sleep(0.02)
        return x.flatten(1)[:, :3]


def flood(url: str, clients: int, shape: tuple[int, ...]) -> list[httpx.Response]:
    """One request of every client, all at once."""

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            x = torch.rand(clients, 1, *shape)
            return list(await asyncio.gather(*(client.post(f"{url}/predict", json={"inputs": row.tolist()}) for row in x)))

    return asyncio.run(run())


def test_concurrent_requests_share_calls_and_200_clients_hold() -> None:
    module = Slow().eval()
    app = make_app(as_model(module, torch.rand(2, 4)), (4,))
    with serving(app) as url:
        module.calls.clear()
        answers = flood(url, 200, (4,))
    assert [answer.status_code for answer in answers] == [200] * 200
    assert sum(module.calls) >= 200
    assert len(module.calls) < 100


def test_what_waits_is_bounded_and_the_rest_is_told_to_come_again() -> None:
    app = make_app(as_model(Slow().eval(), torch.rand(2, 4)), (4,), limits=Limits(waiting=20))
    with serving(app) as url:
        answers = flood(url, 100, (4,))
        codes = {answer.status_code for answer in answers}
        assert codes == {200, 503}
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
        assert ask(url, torch.rand(1, 4)).status_code == 200  # and it recovers


def test_the_bodies_held_are_bounded(model: Model) -> None:
    async def run(url: str) -> list[int]:
        async def drip() -> Iterator[bytes]:  # type: ignore[misc]
            yield b" " * 40_000
            await asyncio.sleep(0.3)
            yield b" "

        async with httpx.AsyncClient(timeout=60) as client:
            calls = [client.post(f"{url}/predict", content=drip()) for _ in range(8)]
            return [answer.status_code for answer in await asyncio.gather(*calls)]

    with serving(make_app(model, SHAPE, limits=Limits(held=80_500))) as url:
        assert sorted(asyncio.run(run(url))) == [400] * 2 + [503] * 6
        assert ask(url, images(1)).status_code == 200


def test_a_body_that_does_not_come_is_given_up(model: Model) -> None:
    def drip() -> Iterator[bytes]:
        yield b"{"
        time.sleep(0.4)
        yield b"}"

    with serving(make_app(model, SHAPE, limits=Limits(seconds=0.1))) as url:
        assert CLIENT.post(f"{url}/predict", content=drip()).status_code == 408


# the command


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "slow.py").write_text(
        "import time, torch\n"
        "class Slow(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        time.sleep(0.5 if len(x) == 3 else 0)\n"
        "        return x.flatten(1)[:, :3]\n"
        "def make():\n"
        "    return Slow().eval()\n"
    )
    return {**os.environ, "MOHS_TOKEN": "of-the-test", "COLUMNS": "300"}


def test_the_command_listens_on_loopback_and_stops_gracefully(tmp_path: Path, environment: dict[str, str]) -> None:
    """A stop answers what is in flight: three rows take the model half a second, and SIGTERM comes before that."""
    words = "serve slow:make --shape 4 --port 0 --rows 3 --token-env MOHS_TOKEN --json"
    command = [sys.executable, "-W", "error", "-m", "mohs", *words.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes) as it:
        assert it.stdout is not None
        line = it.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert json.loads(line)["shape"] == [4]
        assert found, line + it.communicate()[1]
        found_codes: list[int] = []

        def call() -> None:
            answer = ask(found[0], torch.rand(3, 4), **RIGHT)
            found_codes.append(answer.status_code)

        thread = threading.Thread(target=call)
        thread.start()
        while "waiting_examples 3" not in CLIENT.get(f"{found[0]}/metrics", headers=RIGHT).text:
            time.sleep(0.01)
        it.send_signal(signal.SIGTERM)
        thread.join()
        out, err = it.communicate(timeout=60)
    assert found_codes == [200]
    assert it.returncode == 0, err
    assert err == ""
    assert "of-the-test" not in line + out


def test_the_shape_is_read_from_the_file(tmp_path: Path) -> None:
    module, x = DigitNet().eval(), (torch.rand(2, *SHAPE),)
    torch.export.save(torch.export.export(module, x), tmp_path / "fixed.pt2")
    dynamic = torch.export.export(module, x, dynamic_shapes=({0: torch.export.Dim("n", max=512)},))
    torch.export.save(dynamic, tmp_path / "any.pt2")
    torch.onnx.export(module, x, tmp_path / "model.onnx", dynamo=False)
    for name in ("fixed.pt2", "any.pt2", "model.onnx"):
        assert input_shape(str(tmp_path / name)) == SHAPE
    assert input_shape("demo:standard") == SHAPE
    assert input_shape("package.module:factory") is None


class Labels(Model):
    classes, gives = 3, Knowledge.LABEL

    def logits(self, x: Tensor) -> Tensor:
        return torch.eye(3)[x.flatten(1)[:, :3].argmax(1)]


def test_bad_requests_say_what_to_do(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for gives in ("topk", "topk:0", "scores:3", "top:3"):
        with pytest.raises(RequestError):
            Gives.parse(gives)
    with pytest.raises(RequestError, match="probabilities"):
        make_app(model, SHAPE, outputs="probability")
    with pytest.raises(Refused, match="--gives label"):
        make_app(Labels(), (4,))
    make_app(Labels(), (4,), gives="label")
    with pytest.raises(RequestError, match="empty"):
        make_app(model, SHAPE, token=" ")
    with pytest.raises(RequestError, match="topk:11 tells more than the 10 classes"):
        make_app(model, SHAPE, gives="topk:11")
    make_app(model, SHAPE, gives="topk:10")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "mohs.serve.app", raising=False)
    with pytest.raises(Missing, match=r"pip install 'mohs\[serve\]'"):
        make_app(model, SHAPE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("demo --token-env NOT_THERE", "NOT_THERE"),
        ("demo --gives topk", "topk:5"),
        ("demo --shape 8x8", "1,28,28"),
        ("demo --guard nowhere.toml", "nowhere.toml"),
        ("demo --host 192.0.2.1", "cannot listen"),
        ("package.module:factory", "--shape"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mohs.cli
    import mohs.demo

    monkeypatch.setattr(mohs.demo, "load_demo", lambda name: DigitNet().eval())
    monkeypatch.setattr(mohs.cli.app, "registered_commands", [])
    monkeypatch.setattr(sys, "argv", ["mohs", "serve", *words.split()])
    with pytest.raises(SystemExit) as end:
        mohs.cli.main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


# the page


PAGE = (Path(__file__).parents[1] / "docs" / "serve.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_the_commands_of_the_page_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each `mohs serve` of docs/serve.md makes an application, which every curl of the page is then put to."""
    import mohs.cli
    import mohs.serve
    from mohs import demo

    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl: apt-get install curl")
    module = DigitNet().eval()
    torch.export.save(torch.export.export(module, (torch.rand(2, *SHAPE),)), tmp_path / "model.pt2")
    (guard,) = blocks("toml")
    (tmp_path / "guard.toml").write_text(guard)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOHS_TOKEN", "of-the-test")
    monkeypatch.setattr(demo, "load_demo", lambda name: module)
    served: list[object] = []
    monkeypatch.setattr(mohs.serve, "serve", lambda app, host, port, started: served.append((app, host)))
    commands, questions = blocks("bash")
    for line in commands.strip().splitlines():
        monkeypatch.setattr(mohs.cli.app, "registered_commands", [])
        monkeypatch.setattr(sys, "argv", line.partition("#")[0].split())
        with pytest.raises(SystemExit) as end:
            mohs.cli.main()
        assert end.value.code == 0, capsys.readouterr().err
    assert len(served) == 4
    answers = []
    for app, host in served:
        assert host == "127.0.0.1"
        with serving(app) as url:
            script = "set -e\n" + questions.replace("http://127.0.0.1:8080", url).replace("python -c", f"{sys.executable} -c")
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        answers.append(done.stdout)
    keys = ['"scores":[[', '"top":[[', '"labels":[', '"top":[[']
    assert [key in answer for key, answer in zip(keys, answers, strict=True)] == [True] * 4
    assert [answer.count('{"class":') for answer in answers] == [0, 3, 0, 1]  # the guard says topk:1


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mohs import demo

    module = demo.train(robust=False, epochs=2)
    monkeypatch.setattr(demo, "load_demo", lambda name: module)
    (code,) = blocks("python")
    exec(compile(code, "docs/serve.md", "exec"), {})
    alarms, found = capsys.readouterr().out.splitlines()
    assert 0 <= float(alarms) <= 1
    assert found.startswith("Effect(detected=")
