"""`mohs probe`: from the command line to the verdict, through faults and kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mohs
from mohs import attacks
from mohs.attacks.base import Attack
from mohs.cli.probe import rate_of
from mohs.engine.probes import choose, probing
from mohs.errors import RequestError
from mohs.exploring import explore
from mohs.models import Model
from mohs.models.http import make_endpoint
from mohs.oracle import Oracle
from mohs.probing import against, probe
from mohs.report import write_report
from mohs.report.queries import as_json
from mohs.report.words import number
from mohs.store import Run
from mohs.store.answers import NAME, read_tally
from mohs.threat import Knowledge, Threat, parse_threat
from tests.stub import DESCRIPTION, Stub, examples, flaky, running, serve_labels, serve_picture, serve_scores, weights
from tests.test_cli import Mohs, command_line

THREAT = "linf:0.08"


@pytest.fixture
def described(tmp_path: Path) -> Path:
    (tmp_path / "endpoint.toml").write_text(DESCRIPTION)
    return tmp_path / "endpoint.toml"


@pytest.fixture
def data(tmp_path: Path) -> str:
    x, y = examples(12)
    np.savez(tmp_path / "test.npz", x=x.numpy(), y=y.numpy())
    return str(tmp_path / "test.npz")


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


def facts(run: Run) -> list[tuple[object, ...]]:
    """What the records say, seconds aside."""
    table = run.records().drop_columns(["seconds"])
    return sorted(map(repr, zip(*(table[name].to_pylist() for name in table.column_names), strict=True)))  # type: ignore[return-value]


def test_a_probe_goes_on_from_surrogates(described: Path, tmp_path: Path) -> None:
    """Its candidates first, then queries; and the candidates alone where the threat lets nothing be asked."""
    x, y = examples(12)
    linear = torch.nn.Linear(16, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weights()) + 0.2 * torch.linspace(-1, 1, 64).view(4, 16))
        linear.bias.zero_()
    own = torch.nn.Sequential(torch.nn.Flatten(), linear).eval()
    options = {"describe": described, "threats": [THREAT], "queries": 120}
    with running(Stub()) as stub:
        aided = probe(stub.url, (x, y), surrogates=[own], out=tmp_path / "aided", **options)
        alone = probe(stub.url, (x, y), out=tmp_path / "alone", **options)
        options["threats"] = [f"{THREAT}+knowledge:transfer"]
        carried = probe(stub.url, (x, y), surrogates=[own], out=tmp_path / "carried", **options)
    (stage,) = aided.run.spec["plan"]["threats"][0]["stages"]
    assert stage["name"] == "hybrid"
    assert "surrogates to start on" in stage["note"]
    first = [
        {row["id"]: row["queries_to_success"] for row in run.run.records().to_pylist() if row["stage"] == 0}
        for run in (aided, alone)
    ]
    both = [i for i in first[1] if first[0][i] >= 0 and first[1][i] >= 0]
    assert len(both) >= 4, first
    assert sum(first[0][i] for i in both) < 0.5 * sum(first[1][i] for i in both)
    rows = [row for row in carried.run.records().to_pylist() if row["stage"] == 0]
    assert len(rows) == 11
    assert {row["queries"] - row["forwards"] for row in rows} == {1}  # what is asked again comes from the cache
    with pytest.raises(RequestError, match="linf and l2"):
        probing(100, aided=True).compose(parse_threat("l1:1+knowledge:scores"), _Ten())


class _Ten(Model):
    classes = 10

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class TestVerdict:
    def test_what_a_user_types(self, mohs_: Mohs, described: Path, data: str) -> None:
        with running(Stub()) as stub:
            words = ["probe", stub.url, "--describe", described, "--data", data, "--threat", THREAT]
            done = mohs_(*words, "--queries", 120, "--rate", "5000/s", "--out", "run")
        assert done.code == 0
        said = re.sub(r"\s+", " ", done.out)
        assert "parsimonious broke" in said
        assert "within 120" in said
        assert f"{stub.received} sent" in said
        assert "USD" in said
        assert "the adversary sees scores, and `parsimonious` asks for no more" in done.said
        page = Path("run/report.html").read_text()
        assert "Success against queries" in page
        assert "<polyline" in page
        tally = read_tally(Path("run"))
        assert tally is not None
        assert tally["sent"] == stub.received
        assert tally["asked"] == tally["cached"] + tally["answered"] + tally["failed"]
        spec = json.loads(Path("run/run.json").read_text())
        assert spec["plan"]["profile"]["name"] == "probe"
        assert spec["request"]["command"].startswith(f"mohs probe {stub.url} --data")

    def test_json(self, mohs_: Mohs, described: Path, data: str) -> None:
        with running(Stub()) as stub:
            words = ["probe", stub.url, "--describe", described, "--data", data, "--threat", THREAT, "--queries", 120, "--json"]
            told = mohs_(*words).json["probe"]
        (threat,) = told["threats"]
        assert told["account"]["money"] == pytest.approx(0.001 * stub.received)
        assert threat["attacked"] == 11  # one is wrong before anyone attacks
        assert set(threat["within"]) == {"100", "120"}
        assert threat["within"]["120"] == len(threat["queries"]) / 11
        assert all(1 <= q <= 120 for q in threat["queries"])

    def test_no_example_costs_more_than_it_may(self, described: Path, tmp_path: Path) -> None:
        x, y = examples(4)
        with running(Stub()) as stub:
            result = probe(stub.url, (x, y), describe=described, threats=["l2:0.001"], queries=40, out=tmp_path / "run")
            contract = 4 * 3
            assert stub.received <= 4 * 40 + contract
        assert result.verdict.threats[0].score.undecided == 0
        table = result.run.records()
        spent = [q for q, stage in zip(table["queries"].to_pylist(), table["stage"].to_pylist(), strict=True) if stage >= 0]
        assert max(spent) == 39  # and the clean one

    def test_nor_does_one_of_an_endpoint_with_noise(self, described: Path, tmp_path: Path) -> None:
        """A hit asks for a hundred answers, which this budget does not cover."""
        rng = np.random.default_rng(0)

        def noisy(body, headers):  # type: ignore[no-untyped-def]
            p = np.array(serve_scores(body, headers)["scores"][0]) * rng.uniform(0.99, 1.01, 4)
            return {"scores": [(p / p.sum()).tolist()]}

        x, y = examples(4)
        with running(Stub(noisy)) as stub:
            result = probe(stub.url, (x, y), describe=described, threats=["linf:0.3"], queries=60, out=tmp_path / "run")
        threat = result.verdict.threats[0]
        assert "undecided: the budget of 60 queries is spent" in threat.reasons
        table = result.run.records()
        spent = [q for q, stage in zip(table["queries"].to_pylist(), table["stage"].to_pylist(), strict=True) if stage >= 0]
        assert max(spent) <= 60

    def test_an_endpoint_in_trouble_gives_the_same_verdict(self, described: Path, tmp_path: Path) -> None:
        x, y = examples(12)
        found = []
        for fault, timeout in ((lambda n: None, 30), (flaky(), 0.3)):
            described.write_text(DESCRIPTION.replace("timeout = 30", f"timeout = {timeout}"))
            with running(Stub(fault=fault)) as stub:
                where = tmp_path / f"run{len(found)}"
                found.append(probe(stub.url, (x, y), describe=described, threats=[THREAT], queries=100, out=where))
                assert max(stub.bodies.values()) <= 5  # an answer that came is never asked for again, but for the draws
        calm, troubled = found
        assert facts(calm.run) == facts(troubled.run)
        assert 0 < calm.verdict.threats[0].boundary < 12
        one, two = (read_tally(result.run.folder) for result in found)
        assert one is not None
        assert two is not None
        assert two["sent"] > one["sent"] == one["answered"] == two["answered"]

    def test_every_example_ends_with_a_reason(self, described: Path, tmp_path: Path) -> None:
        """Where retries are too few for so many failures, what has no answer is undecided and the rest goes on."""
        x, y = examples(12)
        text = described.read_text().replace("attempts = 8", "attempts = 1")
        described.write_text(text)
        fault = flaky(1)
        with running(Stub(fault=lambda n: fault(n) if n > 100 else None)) as stub:
            result = probe(stub.url, (x, y), describe=described, threats=[THREAT], queries=40, out=tmp_path / "run")
        threat = result.verdict.threats[0]
        assert threat.score.undecided == sum(threat.reasons.values()) > 0
        assert threat.score.robust + threat.boundary > 0
        assert all(reason.startswith("undecided: ") for reason in threat.reasons)

    def test_the_total_ends_a_probe_as_undecided(self, described: Path, tmp_path: Path) -> None:
        x, y = examples(12)
        with running(Stub()) as stub:
            result = probe(stub.url, (x, y), describe=described, threats=[THREAT], queries=100, total=80, out=tmp_path / "run")
            assert stub.received == 80
        reasons = result.verdict.threats[0].reasons
        assert list(reasons) == ["undecided: the total budget of 80 queries is spent"]

    def test_a_clean_input_without_an_answer_is_undecided(self, described: Path, tmp_path: Path) -> None:
        x, y = examples(12)
        with running(
            Stub(lambda b, h: (422, b"no", {}) if np.allclose(b["inputs"][0], x[10], atol=1e-6) else Stub().answer(b, h))
        ) as s:
            result = probe(s.url, (x, y), describe=described, threats=[THREAT], queries=20, out=tmp_path / "run")
        assert result.verdict.clean.undecided == 1
        assert result.verdict.threats[0].status[10] == "undecided"
        assert result.verdict.threats[0].reasons == {"undecided: answered 422: 'no'": 1}


class TestResume:
    def test_a_killed_probe_asks_nothing_twice(self, described: Path, data: str, tmp_path: Path) -> None:
        log = tmp_path / "log"
        killed = None
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.stub", str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            words = [sys.executable, "-m", "mohs", "probe", url, "--describe", str(described), "--data", data]
            words += ["--threat", THREAT, "--queries", "120"]
            killed = subprocess.Popen(
                [*words, "--out", str(tmp_path / "run")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            base = tmp_path / "run" / NAME
            while killed.poll() is None and (not base.exists() or (read_tally(base.parent) or {}).get("sent", 0) < 80):
                time.sleep(0.01)
            os.kill(killed.pid, signal.SIGKILL)
            assert killed.wait() == -signal.SIGKILL  # and not done before
            known = {key for key, scores in _answers(base) if scores is not None}
            flying = len(_answers(base)) - len(known)
            before = Counter(log.read_text().split())
            result = mohs.resume(tmp_path / "run")
            after = Counter(log.read_text().split())
            repeated = after - Counter(set(after)) - (before - Counter(set(before)))
            tally = read_tally(base.parent)
            assert tally is not None
            assert sum(repeated.values()) <= flying == tally["repeated"]
            assert tally["sent"] >= after.total()
            whole = probe(url, data, describe=described, threats=[THREAT], queries=120, out=tmp_path / "whole")
            assert facts(result.run) == facts(whole.run)
            assert result.verdict.threats[0].score == whole.verdict.threats[0].score
        finally:
            if killed is not None:
                killed.kill()
                killed.wait()
            server.communicate("")
        assert server.returncode == 0

    def test_an_endpoint_that_was_down_is_gone_on_with(self, described: Path, mohs_: Mohs, data: str) -> None:
        described.write_text(described.read_text() + "breaker = 4\ntrips = 2\n")
        with running(Stub(fault=lambda n: (500, b"", {}) if n > 60 else None)) as stub:
            words = ["probe", stub.url, "--describe", described, "--data", data, "--threat", THREAT, "--queries", 100]
            done = mohs_(*words, "--out", "run")
            assert done.code == 3
            assert "is down" in done.said
            stub.fault = lambda n: None
            answered = Counter(stub.bodies)
            assert mohs_("resume", "run").code == 0
            again = Counter(stub.bodies) - answered
            assert not set(again) & set(answered)
        assert mohs_("report", "run").code == 0

    def test_another_description_is_another_run(self, described: Path, mohs_: Mohs, data: str) -> None:
        with running(Stub(fault=lambda n: (403, b"", {}) if n > 60 else None)) as stub:
            words = ["probe", stub.url, "--describe", described, "--data", data, "--threat", THREAT, "--queries", 100]
            assert mohs_(*words, "--out", "run").code == 3
            stub.fault = lambda n: None
            described.write_text(described.read_text().replace("concurrency = 8", "concurrency = 9"))
            done = mohs_("resume", "run")
        assert done.code == 2
        assert "changed since the run began" in done.said


def _answers(base: Path) -> list[tuple[bytes, bytes | None]]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(base)) as file:
        return file.execute("select key, scores from answers").fetchall()


@dataclass(frozen=True, kw_only=True)
class Coin(Attack):
    """An attack by labels: random points of the set."""

    queries: int = 10

    paper = "none"
    knowledge = Knowledge.LABEL
    sets = ("linf",)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        x = x0
        for i in oracle.steps(self.queries):
            u = oracle.stream.at("coin", i).signs(*x0.shape[1:])
            x = threat.project(x0 + threat.epsilon * u, x0)
            oracle.reached(x)
            x0, x = oracle.compact(x0, x)
        return x


class TestKnowledge:
    @pytest.fixture
    def coin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attacks, "TABLE", {"square": attacks.TABLE["square"], "coin": f"{__name__}:Coin"})
        attacks.table.cache_clear()
        monkeypatch.setattr(attacks, "table", lambda: attacks.TABLE)

    @pytest.mark.usefixtures("coin")
    def test_labels_get_an_attack_by_labels(self, described: Path, tmp_path: Path) -> None:
        described.write_text(described.read_text().replace('scores = "$.scores"', 'labels = "$.labels"'))
        x, y = examples(12)
        with running(Stub(serve_labels)) as stub:
            result = probe(stub.url, (x, y), describe=described, threats=[THREAT], queries=60, out=tmp_path / "run")
        (threat,) = result.run.spec["plan"]["threats"]
        assert threat["knowledge"] == "label"
        assert [stage["name"] for stage in threat["stages"]] == ["coin"]
        assert "sees labels" in threat["stages"][0]["note"]
        assert threat["stages"][0]["attacks"][0]["queries"] == 58
        told = as_json(result.verdict)
        assert told is not None
        assert told["threats"][0]["queries"]

    @pytest.mark.parametrize("gives", ["labels", "scores"])
    def test_the_nearest_is_told_against_queries(self, gives: str, described: Path, tmp_path: Path) -> None:
        """Without a budget of distance, as far as the queries go."""
        if gives == "labels":
            described.write_text(described.read_text().replace('scores = "$.scores"', 'labels = "$.labels"'))
        x, y = examples(6)
        with running(Stub(serve_labels) if gives == "labels" else Stub()) as stub:
            result = probe(stub.url, (x, y), describe=described, threats=["l2:inf"], queries=300, out=tmp_path / "run")
        told = as_json(result.verdict)
        assert told is not None
        (threat,) = told["threats"]
        assert threat["attack"] == "hop-skip-jump"
        nearest = threat["nearest"]
        assert list(nearest) == ["10", "20", "50", "100", "200", "300"]
        known = [d for d in nearest.values() if d is not None]
        assert known == sorted(known, reverse=True)
        assert known[-1] < 0.8 * known[0]
        distances = result.verdict.threats[0].distance
        attacked = np.sort(distances[result.verdict.threats[0].by != "clean"])
        assert known[-1] == pytest.approx(float(np.median(attacked)))
        page = write_report(result.run, tmp_path / "page.html").read_text()
        assert "Distance against queries" in page
        assert page.count("<polyline") == 2
        assert f"<td>{number(known[-1])}</td>" in page
        assert "the median is" in page

    @pytest.mark.usefixtures("coin")
    def test_scores_that_the_threat_withholds_are_not_used(self, described: Path, tmp_path: Path) -> None:
        x, y = examples(4)
        with running(Stub()) as stub:
            threats = [f"{THREAT}+knowledge:label"]
            result = probe(stub.url, (x, y), describe=described, threats=threats, queries=20, out=tmp_path / "run")
        assert result.run.spec["plan"]["threats"][0]["stages"][0]["name"] == "coin"

    def test_where_nothing_serves_it_is_said(self) -> None:
        class Labels(Model):
            classes, gives = 10, Knowledge.LABEL

            def logits(self, x: Tensor) -> Tensor:
                raise NotImplementedError

        with pytest.raises(RequestError, match="no attack in the table moves in flow by labels alone"):
            choose(parse_threat("flow:0.1+knowledge:label"), Labels())

    def test_choices_by_scores(self) -> None:
        class Scores(Model):
            classes, gives = 10, Knowledge.SCORES

            def logits(self, x: Tensor) -> Tensor:
                raise NotImplementedError

        texts = ["linf:0.1", "l2:1", "l1:5", "l0:20", "rotation:30deg"]
        assert [choose(parse_threat(text), Scores())[0] for text in texts] == [
            *["parsimonious", "square", "square", "sparse-rs", "worst-of-k"]
        ]

    def test_too_few_queries(self) -> None:
        with pytest.raises(RequestError, match="at least 10"):
            probing(3)


def test_pictures_are_attacked_on_their_grid(described: Path, tmp_path: Path) -> None:
    described.write_text(
        described.read_text() + '\n[input]\nencoding = "png"\n[body]\njson = { image = "$input" }\n',
    )
    x, y = examples(8, grid=True)
    with running(Stub(serve_picture)) as stub:
        result = probe(stub.url, (x, y), describe=described, threats=["linf:20/255"], queries=60, out=tmp_path / "run")
        with pytest.raises(RequestError, match=r"say linf:20/255\+quantise:8bit"):
            mohs.audit(stub.url, (x, y), threats=["linf:20/255"], describe=str(described), profile="probe")
    assert result.verdict.threats[0].text == "linf:20/255+quantise:8bit+knowledge:scores"
    hits = 0
    for stored in result.run.examples():
        adversarial = torch.from_numpy(stored["adversarial"])
        assert torch.equal((adversarial * 255).round() / 255, adversarial)
        assert float((adversarial - x[stored["ids"]]).abs().max()) <= 20 / 255 + 1e-6
        hits += len(adversarial)
    assert hits == result.verdict.threats[0].boundary > 0


def test_threats_are_completed_once() -> None:
    told = {"url": "http://127.0.0.1/x", "classes": 4, "answer": {"labels": "$.l"}, "input": {"encoding": "png"}}
    given = ["linf:0.1", "l2:1+quantise:8bit", "l1:1+knowledge:label"]
    assert against(make_endpoint(told), given) == [
        "linf:0.1+quantise:8bit+knowledge:label",
        "l2:1+quantise:8bit+knowledge:label",
        "l1:1+knowledge:label+quantise:8bit",
    ]


@pytest.mark.parametrize(("text", "rate"), [("50/s", 50), ("600/m", 10), ("25", 25), ("3600/h", 1), (None, None)])
def test_rates(text: str | None, rate: float | None) -> None:
    assert rate_of(text) == rate


class TestMistakes:
    """Each is one line and exit code 2."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--threat", THREAT, "--rate", "fast"], "--rate should read 50/s"),
            ([], "a probe needs a threat"),
            (["--threat", THREAT, "--queries", "5"], "give at least 10"),
            (["--threat", "linf:0.1+knowledge:gradient", "--describe", "none.toml"], "none.toml of the endpoint cannot be read"),
        ],
    )
    def test_request(self, mohs_: Mohs, described: Path, data: str, words: list[str], said: str) -> None:
        with running(Stub()) as stub:
            done = mohs_("probe", stub.url, "--describe", described, "--data", data, *words)
        assert done.code == 2
        assert said in done.said

    def test_endpoint(self, mohs_: Mohs, described: Path, data: str) -> None:
        with running(Stub(lambda b, h: (200, b"<html>hello</html>", {}))) as stub:
            done = mohs_("probe", stub.url, "--describe", described, "--data", data, "--threat", THREAT)
        assert done.code == 2
        assert "<html>hello</html>" in done.said
        assert not Path("runs").exists()


class TestExplore:
    def test_what_is_learnt(self, described: Path) -> None:
        x, y = examples(12)
        with running(Stub()) as stub:
            found = explore(stub.url, (x, y), describe=described, queries=400)
            assert stub.received == found.account["sent"] == 400
        assert found.deterministic
        assert found.decimals is None
        assert set(found.classes) == {"0", "1", "2", "3"}
        assert found.agreement is not None
        assert found.chance is not None
        assert found.agreement > found.chance + 0.2

    def test_rounding_is_seen(self, described: Path) -> None:
        x, y = examples(12)

        def rounded(body, headers):  # type: ignore[no-untyped-def]
            return {"scores": np.round(Stub().answer(body, headers)["scores"], 3).tolist()}

        with running(Stub(rounded)) as stub:
            assert explore(stub.url, (x, y), describe=described, queries=60).decimals == 3

    def test_the_command(self, mohs_: Mohs, described: Path, data: str) -> None:
        with running(Stub(serve_labels)) as stub:
            described.write_text(described.read_text().replace('scores = "$.scores"', 'labels = "$.labels"'))
            words = ["probe", stub.url, "--describe", described, "--data", data, "--explore", "--queries", 100]
            done = mohs_(*words)
            assert done.code == 0
            assert "classes seen  4" in done.out
            told = mohs_(*words, "--json").json
        assert told["gives"] == "label"
        assert told["account"]["sent"] == 100


def test_a_break_is_found_exactly_where_the_boundary_is_within_reach(described: Path, tmp_path: Path) -> None:
    """The stub is linear: eight entries of weight 4 part two classes, so that the nearest boundary in linf is known."""
    x, y = examples(12)
    z = x.flatten(1).double() @ torch.from_numpy(weights()).T
    gap = (z.gather(1, y[:, None]) - z.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True))[:, 0] / 32
    with running(Stub()) as stub:
        result = probe(stub.url, (x, y), describe=described, threats=[THREAT], queries=120, out=tmp_path / "run")
    threat = result.verdict.threats[0]
    assert bool(((gap - 0.08).abs() > 1e-3).all())  # no case is a matter of rounding
    assert (threat.status == "broken").tolist() == (gap < 0.08).tolist()
    assert 0 < int((gap < 0.08).sum()) < 12


def test_the_page_about_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/probe.md: its description, its Python, and every line of its tables."""
    text = (Path(__file__).parents[1] / "docs/probe.md").read_text()
    described, python = (re.search(rf"```{kind}\n(.*?)```", text, re.S)[1] for kind in ("toml", "python"))  # type: ignore[index]
    (tmp_path / "endpoint.toml").write_text(described)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREDICT_KEY", "s3cret-value")
    x, y = examples(12)
    with running(Stub()) as stub:
        names = {"mohs": mohs, "url": stub.url, "x": x, "y": y}
        exec(python, names)
        assert {head["authorization"] for head in stub.heads} == {"Bearer s3cret-value"}
    assert "undecided" not in names["result"].verdict.threats[0].status  # type: ignore[attr-defined]
    for body, answer in re.findall(r"\| (?:`\[input\] .*?` and )?`(\[body\].*?)`(?: and `(each .*?)`)? \|", text):
        make_endpoint(
            tomllib.loads(
                'url="http://h/"\nclasses=2\nanswer={labels="$.l"}\ninput={encoding="png"}\n'
                + body.replace("] ", "]\n")
                + "\n"
                + answer
            )
        )
    assert len(re.findall(r"^\| .*`\[body\]", text, re.M)) == 3
    for path in re.findall(r"\| `((?:scores|top|labels) = .*?)`", text):
        make_endpoint(tomllib.loads(f'url="http://h/"\nclasses=2\n[answer]\n{path}\n'))


def test_a_secret_is_in_no_file_of_a_run(described: Path, mohs_: Mohs, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOHS_TEST_KEY", "s3cret-value")
    described.write_text(described.read_text() + '\n[headers]\nX-Api-Key = "${MOHS_TEST_KEY}"\n')

    def echo(body, headers):  # type: ignore[no-untyped-def]
        odd = body["inputs"][0][0][0][0] * 1000 % 1 < 0.2
        return (422, b"bad request of " + headers["x-api-key"].encode(), {}) if odd else serve_scores(body, headers)

    with running(Stub(echo)) as stub:
        words = ["probe", stub.url, "--describe", described, "--data", data, "--threat", THREAT, "--queries", 30, "--out", "run"]
        done = mohs_(*words)
        assert stub.heads[0]["x-api-key"] == "s3cret-value"
    assert done.code == 0
    assert "s3cret" not in done.out + done.err
    assert "bad request of ${MOHS_TEST_KEY}" in done.out
    assert [file for file in Path("run").rglob("*") if file.is_file() and b"s3cret" in file.read_bytes()] == []
