"""Every command as a user types it: what it prints, what it leaves behind, and the exit code a script goes by."""

from __future__ import annotations

import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mohs.cli
from mohs import auditing, demo
from mohs.cli import COMMANDS
from mohs.cli.options import own
from mohs.data import load_digits
from mohs.errors import RequestError
from mohs.store import Run

QUICK = ["--data", "digits", "--threat", "linf:0.05", "--profile", "quick", "--limit", "16"]


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """Standard error without line breaks and colours."""
        return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", self.err))


Mohs = Callable[..., Done]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The embedded models, hardly trained: what they are worth is another test's. `demo:standard` is a network of noise."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "mohs").mkdir()
    for name, epochs in (("robust", 3), ("standard", 0)):
        if epochs:
            module = demo.train(robust=False, epochs=epochs)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                module = demo.DigitNet()
        save_file(module.state_dict(), folder / "mohs" / f"demo-{demo.VERSION}-{name}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    """`mohs WORDS` in an empty directory, in this process."""
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.setenv("COLUMNS", "300")

    def call(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["mohs", *map(str, words)])
        monkeypatch.setattr(mohs.cli.app, "registered_commands", [])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            mohs.cli.main()
        code = end.value.code
        assert isinstance(code, int)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same examples, `good` and `bad`, and one of others. Made once; commands that write take copies."""
    folder = tmp_path_factory.mktemp("runs")
    for name, model, seed in (("good", "demo", 0), ("bad", "demo:standard", 0), ("other", "demo", 1)):
        options = {"profile": "quick", "limit": 16, "seed": seed}
        auditing.audit(model, "digits", threats=["linf:0.05"], out=folder / name, **options)
    return folder


def nothing(folder: Path) -> bool:
    return list(folder.iterdir()) == []


# help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(mohs_: Mohs, name: str, tmp_path: Path):
    done = mohs_(name, "--help")
    assert done.code == 0
    assert re.search(rf"Example:\s+mohs {name}\b", done.out.replace("`", ""))
    assert "--json" in done.out
    assert nothing(tmp_path)


def test_help_lists_every_command(mohs_: Mohs):
    done = mohs_("--help")
    assert done.code == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", done.out)


def test_examples_of_the_help_name_options_that_exist(mohs_: Mohs):
    for name in COMMANDS:
        text = mohs_(name, "--help").out
        example = text[text.index("Example:") :]
        known = set(re.findall(r"--[a-z-]+", text[: text.index("Example:")]))
        own = {"attack": {"--steps"}, "layers": {"--steps"}, "study": {"--threat", "--queries"}}.get(name, set())
        assert set(re.findall(r"--[a-z-]+", example)) <= known | own, name


# audit


def test_audit_writes_a_run_and_prints_json_and_nothing_else(mohs_: Mohs, tmp_path: Path):
    done = mohs_("audit", "demo", *QUICK, "--json", "--out", "runs/one")
    assert done.code == 0
    told = done.json
    assert told["n"] == 16
    assert told["finished"] is True
    assert told["profile"].startswith("quick")
    (threat,) = told["threats"]
    assert threat["text"] == "linf:0.05"
    robust = threat["robust_accuracy"]
    assert robust["n"] == robust["robust"] + robust["undecided"] + threat["natural"] + threat["boundary"] == 16
    assert 0 <= robust["low"] <= told["clean_accuracy"]["low"] <= 1
    assert robust["interval95"][0] <= robust["low"] <= robust["interval95"][1]
    run = tmp_path / "runs" / "one"
    assert Run.open(run).complete
    assert (run / "report.html").stat().st_size > 1000
    assert not (run / "junit.xml").exists()  # nothing was required


def test_audit_in_words(mohs_: Mohs, tmp_path: Path):
    done = mohs_("audit", "demo", *QUICK, "--threat", "l2:0.2")
    assert done.code == 0
    for part in ("linf:0.05", "l2:0.2", "clean", "quick", "report.html"):
        assert part in done.out
    (run,) = (tmp_path / "runs").iterdir()  # a folder named after model and time
    assert run.name.startswith("demo-")


def test_a_policy_decides_the_exit_code_and_is_written_as_junit(mohs_: Mohs, tmp_path: Path):
    met = mohs_("audit", "demo", *QUICK, "--require", "linf:0.05 >= 0", "--require", "clean >= 10%", "--out", "met")
    assert met.code == 0
    assert met.out.count("met:") == 2
    assert "not met" not in met.out
    short = mohs_("audit", "demo", *QUICK, "--require", "linf:0.05 >= 0", "--require", "clean > 1.0", "--out", "short", "--json")
    assert short.code == 1
    assert [line["met"] for line in short.json["policy"]] == [True, False]
    suite = ET.parse(tmp_path / "short" / "junit.xml").getroot()
    assert len(list(suite.iter("testcase"))) == 2
    assert len(list(suite.iter("failure"))) == 1
    assert list(ET.parse(tmp_path / "met" / "junit.xml").getroot().iter("failure")) == []
    sure = mohs_("audit", "demo", *QUICK, "--confident", "linf:0.05 >= 0.999", "--out", "sure")
    assert sure.code == 1
    assert "not met: linf:0.05 >= 0.999 (95% confidence)" in sure.out


def test_a_policy_file(mohs_: Mohs, tmp_path: Path):
    (tmp_path / "policy.toml").write_text('require = ["linf:0.05 >= 0"]\nconfident = ["clean > 0.9999"]\n')
    done = mohs_("audit", "demo", *QUICK, "--policy", "policy.toml", "--out", "run", "--json")
    assert done.code == 1
    assert [(line["text"], line["met"]) for line in done.json["policy"]] == [
        ("linf:0.05 >= 0", True),
        ("clean > 0.9999 (95% confidence)", False),
    ]


def test_time_is_stamped(mohs_: Mohs):
    done = mohs_(
        "audit", "demo", "--data", "digits", "--threat", "linf:0.05", "--limit", "16", "--time", "1s", "--json", "--out", "t"
    )
    assert done.code == 0
    assert "at most 1 s" in done.json["profile"]
    assert done.json["threats"][0]["robust_accuracy"]["undecided"] > 0
    assert done.json["finished"] in (True, False)


@pytest.mark.parametrize("profile", ["standard", "quick"])
def test_a_dry_run_prints_the_cost_and_writes_nothing(mohs_: Mohs, tmp_path: Path, profile: str):
    words = ["audit", "demo", "--data", "digits", "--threat", "linf:0.05", "--profile", profile, "--limit", "16", "--dry-run"]
    done = mohs_(*words)
    assert done.code == 0
    for part in ("forward passes", "backward passes", "apgd-ce", "apgd-t", "MiB", "16 examples", "at most"):
        assert part in done.out
    if profile == "standard":
        assert f"{16 * 101:,}" in done.out
        assert f"{16 * 5000:,}" in done.out
    told = mohs_(*words, "--json").json
    assert told["plan"]["profile"]["name"] == profile
    cost = told["estimate"]
    assert cost["memory"] > 0
    assert cost["forward"] > 0
    assert all(stage["forwards"] > 0 and stage["seconds"] > 0 for stage in cost["stages"])
    assert nothing(tmp_path)


AUDIT = ["audit", "demo", "--data", "digits", "--limit", "16"]
ONE = ["universal", "demo", "--data", "digits", "--limit", "16"]
CURVE = ["curve", "demo", "--data", "digits", "--limit", "16"]
WRONG = [
    ([*AUDIT, "--threat", "lnif:0.1"], "did you mean 'linf'"),
    ([*AUDIT, "--threat", "linf:x"], "'x' is not a number"),
    ([*AUDIT, "--threat", "linf:8"], "outside the box"),
    ([*AUDIT, "--threat", "linf:0.1", "--profile", "quikc"], "did you mean 'quick'"),
    ([*AUDIT, "--threat", "linf:0.1", "--goal", "targetd:3"], "did you mean 'targeted'"),
    ([*AUDIT, "--threat", "linf:0.1", "--goal", "targeted:11"], "classes 0 to 9"),
    ([*AUDIT, "--threat", "linf:0.1", "--knowledge", "score"], "did you mean 'scores'"),
    ([*AUDIT, "--threat", "linf:0.1", "--require", "linf:0.2 >= 0.4"], "linf:0.1"),
    ([*AUDIT, "--threat", "linf:0.1", "--require", "many"], "does not read NAME >= NUMBER"),
    ([*AUDIT, "--threat", "linf:0.1", "--policy", "none.toml"], "none.toml cannot be read"),
    ([*AUDIT, "--threat", "linf:0.1", "--bounds", "1"], "--bounds should read low,high"),
    ([*AUDIT, "--threat", "linf:0.1", "--bounds", "1,0"], "1 is not below 0"),
    ([*AUDIT, "--threat", "linf:0.1", "--time", "soon"], "--time should read 90s"),
    ([*AUDIT, "--threat", "linf:0.1", "--outputs", "logit"], "logits"),
    ([*AUDIT, "--threat", "linf:0.1", "--rows", "0"], "rows"),
    ([*AUDIT, "--threat", "linf:0.1", "--speed", "3"], "speed"),
    ([*AUDIT, "--threat", "l0:3", "--profile", "standard"], "quick or deep"),
    ([*AUDIT, "--threat", "linf:0.1", "--method", "crwn"], "did you mean 'crown'"),
    ([*AUDIT, "--threat", "linf:0.1", "--method", "interval"], "give --certify"),
    ([*AUDIT, "--threat", "linf:0.1", "--seconds", "3"], "--seconds is for --method branch-and-bound"),
    (AUDIT, "threat"),
    (["audit", "demo", "--data", "digits", "--threat", "linf:0.1", "--limit", "100000"], "100000"),
    (["audit", "demo", "--data", "dgits", "--threat", "linf:0.1"], "did you mean 'digits'"),
    (["audit", "demo", "--data", "test.npz", "--threat", "linf:0.1"], "test.npz"),
    (["audit", "demo:robst", "--data", "digits", "--threat", "linf:0.1"], "did you mean 'demo:robust'"),
    (["audit", "model.pt2", "--data", "digits", "--threat", "linf:0.1"], "model.pt2"),
    (["audit", "nowhere.models:net", "--data", "digits", "--threat", "linf:0.1"], "nowhere"),
    (["audit", "what is this", "--data", "digits", "--threat", "linf:0.1"], "is no model that mohs knows"),
    (["audt", "demo"], "audit"),
    (["attack", "pgdd", "demo", "--data", "digits", "--threat", "linf:0.1", "--out", "x.safetensors"], "did you mean 'pgd'"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "linf:0.1", "--step", "5", "--out", "x.safetensors"], "'steps'"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "linf:0.1", "--steps", "five"], "steps should be int, not 'five'"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "linf:0.1", "--loss", "dlrr"], "did you mean 'dlr'"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "linf:0.1", "--steps"], "steps should be int, not 'true'"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "lnif:0.1"], "did you mean 'linf'"),
    (["attack", "pgd", "demo", "--data", "digits"], "give it one by --threat"),
    (["attack", "cw", "demo", "--data", "digits", "--objective", "f9"], "did you mean 'f"),
    (["attack", "cw", "demo", "--data", "digits", "--target", "3", "--goal", "topk:2"], "--target 3 is short for"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "linf:inf"], "has none; give it an epsilon"),
    (["attack", "deepfool", "demo", "--data", "digits", "--threat", "l1:3"], "moves in linf, l2"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "linf:0.1", "--outputs", "logit"], "logits"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "linf:0.1", "--out", "x.npz"], "should end in .safetensors"),
    (["attack", "pgd", "demo", "--data", "digits", "--threat", "linf:0.1", "--goal", "topk:10"], "1 <= k < 10"),
    ([*ONE, "--threat", "linf:0"], "a budget above 0"),
    ([*ONE, "--threat", "linf:inf"], "a budget above 0"),
    ([*ONE, "--threat", "linf:8"], "outside the box"),
    ([*ONE, "--threat", "linf:0.2", "--fooling-rate", "0"], "(0, 1]"),
    ([*ONE, "--threat", "linf:0.2", "--fooling-rate", "1.5"], "(0, 1]"),
    ([*ONE, "--threat", "linf:0.2", "--method", "upa"], "did you mean 'uap'"),
    ([*ONE, "--threat", "linf:0.2", "--epoch", "5"], "'epochs'"),
    ([*ONE, "--threat", "linf:0.2", "--out", "uap.npz"], "should end in .png"),
    ([*ONE, "--threat", "l0:5"], "makes changes in linf, l2, l1"),
    ([*ONE, "--threat", "linf:0.2", "--knowledge", "scores"], "unknown option of UniversalPGD"),
    ([*ONE, "--threat", "linf:0.2+knowledge:scores"], "needs gradient"),
    ([*ONE, "--threat", "linf:0.2", "--held-out", "1"], "between 0 and 1"),
    ([*ONE, "--threat", "linf:0.2", "--test", "none.npz"], "none.npz"),
    (["attack", "replay", "demo", "--data", "digits", "--threat", "linf:0.1"], "Replay needs a point"),
    (["attack", "replay", "demo", "--data", "digits", "--threat", "linf:0.1", "--point", "no.safetensors"], "does not exist"),
    ([*CURVE, "--norm", "lnif"], "did you mean 'linf'"),
    ([*CURVE, "--norm", "linf:0.1"], "over every epsilon"),
    ([*CURVE, "--norm", "l2,l2"], "twice"),
    ([*CURVE, "--norm", "l2", "--at", "linf:0.1"], "NORM:EPSILON"),
    ([*CURVE, "--norm", "l2", "--at", "l2:much"], "not a number"),
    ([*AUDIT, "--threat", "linf:0.1", "--surrogate", "demo:robst"], "did you mean 'demo:robust'"),
    ([*AUDIT, "--threat", "linf:0.1", "--surrogate", "demo:robust", "--knowledge", "scores"], "grants scores"),
    (["resume", "runs/none"], "not a run"),
    (["report", "runs/none"], "not a run"),
    (["compare", "runs/none", "runs/neither"], "not a run"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(value)[-45:] if isinstance(value, list) else "")
def test_a_wrong_request_is_exit_2_says_what_was_meant_and_writes_nothing(
    mohs_: Mohs, tmp_path: Path, words: list[str], said: str
):
    done = mohs_(*words)
    assert done.code == 2, done.err
    assert said in re.sub(r"[│\s]+", " ", done.said)
    assert done.out == ""
    assert nothing(tmp_path)


def test_wrong_data_writes_nothing(mohs_: Mohs, tmp_path: Path):
    x, y = load_digits("test")
    np.savez(tmp_path / "far.npz", x=(x[:8] * 16).numpy(), y=y[:8].numpy())
    np.savez(tmp_path / "labels.npz", x=x[:8].numpy(), y=(y[:8] + 20).numpy())
    for file, said in (("far.npz", "outside the bounds [0, 1]"), ("labels.npz", "10 classes")):
        done = mohs_("audit", "demo", "--data", file, "--threat", "linf:0.1")
        assert done.code == 2
        assert said in re.sub(r"[│\s]+", " ", done.said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.npz", "labels.npz"]


def test_a_folder_that_is_taken_is_left_alone(mohs_: Mohs, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    done = mohs_("audit", "demo", *QUICK, "--out", "mine")
    assert done.code == 2
    assert "not empty" in done.said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


# stopping and going on


def test_a_run_that_is_stopped_is_resumed_by_the_line_it_printed(
    mohs_: Mohs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Path
):
    execute = auditing.execute

    def stopping(*args):
        for number, progress in enumerate(execute(*args)):
            yield progress
            if number == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(auditing, "execute", stopping)
    words = ["audit", "demo", *QUICK, "--require", "clean > 0.9999", "--out", "stopped"]
    done = mohs_(*words)
    assert done.code == 3
    assert "mohs resume stopped" in done.said
    assert not Run.open(tmp_path / "stopped").complete
    monkeypatch.setattr(auditing, "execute", execute)
    listed = mohs_("runs", ".", "--json")
    assert [row["state"] for row in listed.json] == ["resumable"]

    line = re.search(r"mohs (resume \S+)", done.said)
    assert line is not None
    done = mohs_(*line[1].split(), "--json")
    assert done.code == 1  # by the policy the run was begun with
    assert done.json["finished"] is True
    assert contents(tmp_path / "stopped") == contents(runs / "good")
    assert mohs_("resume", "stopped", "--json").json == done.json  # nothing is left to do


def contents(folder: Path) -> list[dict[str, object]]:
    table = Run.open(folder).records().drop_columns(["seconds"])
    return table.sort_by([("stage", "ascending"), ("id", "ascending")]).to_pylist()


def test_a_run_in_other_hands_and_a_run_that_fails(mohs_: Mohs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Path):
    from mohs.store import faults

    def full(point: str, path: Path) -> None:
        if path.suffix == ".parquet":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(faults, "_hooks", [full])
    done = mohs_("audit", "demo", *QUICK, "--out", "full")
    assert done.code == 3
    assert "No space left on device" in done.said
    assert "resume" in done.said
    monkeypatch.setattr(faults, "_hooks", [])
    with Run.open(tmp_path / "full").locked():
        done = mohs_("resume", "full")
    assert done.code == 2
    assert "another process" in done.said
    assert mohs_("resume", "full").code == 0
    assert contents(tmp_path / "full") == contents(runs / "good")


def test_what_nobody_foresaw_is_exit_3_and_one_line(mohs_: Mohs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by zero\nand more")

    monkeypatch.setattr("mohs.engine.work.Worker._clean", fail)
    monkeypatch.delenv("MOHS_TRACEBACK", raising=False)
    done = mohs_("audit", "demo", *QUICK, "--out", "failed")
    assert done.code == 3
    assert "mohs: ZeroDivisionError: by zero; a fault of mohs, or of code that it was given: MOHS_TRACEBACK=1" in done.said
    assert "Traceback" not in done.said
    monkeypatch.setenv("MOHS_TRACEBACK", "1")
    done = mohs_("resume", "failed")
    assert done.code == 3
    assert "Traceback" in done.said
    assert "in fail" in done.said


# readers


def test_runs_are_listed(mohs_: Mohs, runs: Path):
    done = mohs_("runs", runs, "--json")
    assert done.code == 0
    assert sorted(Path(row["run"]).name for row in done.json) == ["bad", "good", "other"]
    assert {row["state"] for row in done.json} == {"complete"}
    assert all("linf:0.05" in row["robust"] for row in done.json)
    said = mohs_("runs", runs)
    assert said.code == 0
    for part in ("good", "digits", "quick", "linf:0.05", "complete"):
        assert part in said.out


def test_a_run_of_another_schema_is_listed_as_such(mohs_: Mohs, runs: Path, tmp_path: Path):
    shutil.copytree(runs / "good", tmp_path / "all" / "old")
    spec = tmp_path / "all" / "old" / "run.json"
    spec.write_text(spec.read_text().replace('"schema": 1', '"schema": 7'))
    assert "schema 7" in mohs_("runs", "all", "--json").json[0]["error"]
    assert "schema 7" in mohs_("runs", "all").out
    assert mohs_("resume", "all/old").code == 2


def test_no_runs_say_how_to_make_one(mohs_: Mohs, tmp_path: Path):
    done = mohs_("runs")
    assert done.code == 0
    assert "mohs audit demo" in done.out
    assert mohs_("runs", "--json").json == []
    assert nothing(tmp_path)


def test_report_writes_again_where_it_is_told(mohs_: Mohs, runs: Path, tmp_path: Path):
    shutil.copytree(runs / "good", tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    done = mohs_("report", "run", "--out", "elsewhere.html")
    assert done.code == 0
    assert "elsewhere.html" in done.out
    text = (tmp_path / "elsewhere.html").read_text()
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert "linf:0.05" in text
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    told = mohs_("report", "run", "--json")
    assert told.json["threats"][0]["text"] == "linf:0.05"
    assert (tmp_path / "run" / "report.html").exists()


def test_compare_of_a_run_with_itself_and_with_a_worse_one(mohs_: Mohs, runs: Path):
    same = mohs_("compare", runs / "good", runs / "good", "--json")
    assert same.code == 0
    assert same.json[0]["p"] == 1.0
    assert same.json[0]["lost"] == same.json[0]["won"] == []

    worse = mohs_("compare", runs / "good", runs / "bad", "--json")
    assert worse.code == 1
    (threat,) = worse.json
    assert threat["fell"] is True
    assert threat["p"] < 0.05
    assert len(threat["lost"]) - len(threat["won"]) == round((threat["before"] - threat["after"]) * 16)
    assert "a significant fall" in mohs_("compare", runs / "good", runs / "bad").out

    better = mohs_("compare", runs / "bad", runs / "good")
    assert better.code == 0
    assert "no significant fall" in better.out


def test_compare_refuses_other_data_and_other_profiles(mohs_: Mohs, runs: Path, tmp_path: Path):
    done = mohs_("compare", runs / "good", runs / "other")
    assert done.code == 2
    assert "differ in data" in done.said
    shutil.copytree(runs / "good", tmp_path / "deep")
    spec = tmp_path / "deep" / "run.json"
    told = json.loads(spec.read_text())
    told["plan"]["profile"]["name"] = "deep"
    spec.write_text(json.dumps(told))
    done = mohs_("compare", runs / "good", "deep")
    assert done.code == 2
    assert "differ in profile" in done.said


# attacks


def test_attacks_are_listed_with_papers_and_costs(mohs_: Mohs):
    from mohs import attacks

    rows = mohs_("attacks", "--json").json
    assert [row["name"] for row in rows] == sorted(attacks.table())
    assert all(row["paper"] and row["needs"] and row["sets"] for row in rows)
    said = mohs_("attacks")
    assert said.code == 0
    for part in ("pgd", "square", "scores", "nearest"):
        assert part in said.out


@pytest.mark.parametrize("words", [(), ("--goals",), ("--profiles",), ("apgd",), ("wasserstein-frank-wolfe",)])
def test_what_is_said_of_attacks_fits_a_terminal(mohs_: Mohs, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]):
    """In 80 columns, nothing cut off; but for code, which is given as it is."""
    monkeypatch.setenv("COLUMNS", "80")
    said = mohs_("attacks", *words)
    assert said.code == 0
    assert "…" not in said.out
    assert max(len(line.rstrip()) for line in said.out.partition("Example")[0].splitlines()) <= 80


def test_one_attack_is_told_in_full(mohs_: Mohs):
    said = mohs_("attacks", "ddn")
    assert said.code == 0
    for part in (
        "https://arxiv.org/abs/1811.09600",
        "When to use: ",
        "--steps",
        "0.05",
        "cross_entropy",
        ">>> from mohs",
        "goal topk",
    ):
        assert part in said.out
    told = mohs_("attacks", "ddn", "--json").json
    assert told["name"] == "ddn"
    assert told["options"]["gamma"] == 0.05
    assert told["goals"]["targeted"] == "yes"
    assert told["method"]
    assert told["when to use"]
    assert told["example"].startswith(">>> ")


def test_an_attack_there_is_not_and_two_lists_at_once(mohs_: Mohs):
    wrong = mohs_("attacks", "pgdd")
    assert wrong.code == 2
    assert "did you mean 'pgd'" in wrong.said
    both = mohs_("attacks", "pgd", "--goals")
    assert both.code == 2
    assert "give one of them" in both.said


def test_profiles_are_listed(mohs_: Mohs):
    done = mohs_("attacks", "--profiles")
    assert done.code == 0
    for part in ("quick 2", "standard 1", "deep 3", "square (5000 queries)", "apgd-t (100 steps x 9 targets)"):
        assert part in done.out
    rows = mohs_("attacks", "--profiles", "--json").json
    assert {row["profile"] for row in rows} == {"quick 2", "standard 1", "deep 3", "scores 1"}
    transformed = {"spatial", "semantic", "flow", "recolor", "wasserstein", "perceptual", "patch", "manifold"}
    assert {row["threat"] for row in rows} == {"linf", "l2", "l1", "l0", *transformed}


@pytest.mark.parametrize(("threat", "p", "epsilon"), [("linf:0.1", torch.inf, 0.1), ("l2:0.8", 2, 0.8)])
def test_one_attack_keeps_what_it_made(mohs_: Mohs, tmp_path: Path, threat: str, p: float, epsilon: float):
    words = ["attack", "pgd", "demo", "--data", "digits", "--threat", threat, "--limit", "32"]
    done = mohs_(*words, "--steps", "5", "--step-size", "0.5", "--out", "made/adv.safetensors", "--json")
    assert done.code == 0
    told, kept = done.json, load_file(tmp_path / "made" / "adv.safetensors")
    assert set(kept) == {"x", "y", "ids", "adversarial", "broken", "distance", "label"}
    module, (every, labels) = demo.load_demo(), load_digits("test")
    assert torch.equal(kept["x"], every[kept["ids"]])
    assert torch.equal(kept["y"], labels[kept["ids"]])
    broken, x, adversarial = kept["broken"], kept["x"], kept["adversarial"]
    distance = torch.linalg.vector_norm((adversarial.double() - x.double()).flatten(1), ord=p, dim=1)
    with torch.no_grad():
        clean, found = module(x).argmax(1), module(adversarial).argmax(1)
    assert 0 < int(broken.sum()) < 32
    assert (found != kept["y"])[broken].all()
    assert (broken | (clean == kept["y"])).all()  # a clean error is broken
    assert (distance <= epsilon * (1 + 1e-6) + 2e-7).all()
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    assert torch.equal(kept["label"][broken], found[broken])
    assert torch.allclose(kept["distance"][broken], distance[broken])
    assert told["broken"] == int(broken.sum())
    assert told["standing"] == 32 - told["broken"]
    survivors = 32 - told["broken"]
    assert told["forwards"] >= 5 * survivors
    assert told["forwards"] <= 5 * int((clean == kept["y"]).sum())
    more = mohs_(*words, "--steps", "5", "--every-step", "--json").json
    assert more["forwards"] >= told["forwards"]
    said = mohs_(*words, "--steps", "5")
    assert "broken, accuracy left" in said.out


def test_options_of_an_attack_or_recipe_are_read_in_every_spelling():
    words = ["--beta=6", "--step-size", "-0.5", "--decoupled", "--others", "l2:0.5;l1:12", "--every-step", "--name=a=b"]
    given = {"beta": "6", "step_size": "-0.5", "decoupled": "true", "others": "l2:0.5;l1:12", "every_step": "true"}
    assert own(words) == {**given, "name": "a=b"}
    assert own([]) == {}
    for words in (["6"], ["--beta", "6", "7"], ["-b", "6"], ["--"], ["--=6"]):
        with pytest.raises(RequestError, match="--name value or --name=value"):
            own(words)


def test_an_objective_a_confidence_and_a_target_by_their_names(mohs_: Mohs, tmp_path: Path):
    words = ["--objective", "f6", "--confidence", "1", "--target", "3", "--search-steps", "3", "--initial-const", "10"]
    out = tmp_path / "adv.safetensors"
    done = mohs_("attack", "cw", "demo", "--data", "digits", "--limit", "8", *words, "--steps", "40", "--out", out, "--json")
    assert done.json["threat"] == "l2:inf"
    assert done.json["goal"] == "targeted:3"
    assert done.json["broken"] > 0
    kept = load_file(out)
    logits = demo.load_demo()(kept["adversarial"])[kept["broken"]].detach()
    assert bool((logits[:, 3] - logits.index_fill(1, torch.tensor([3]), -torch.inf).amax(1) > 1).all())


def test_an_attack_of_other_options_and_goals(mohs_: Mohs):
    words = ["attack", "apgd-t", "demo", "--data", "digits", "--threat", "linf:0.05", "--limit", "8", "--steps", "4", "--json"]
    assert mohs_(*words, "--targets", "2").json["forwards"] <= 8 * 2 * 5
    assert mohs_(*words, "--goal", "targeted:3").json["goal"] == "targeted:3"
    blind = mohs_("attack", "pgd", "demo", "--data", "digits", "--threat", "linf:0.05", "--knowledge", "scores", "--limit", "8")
    assert blind.code == 2
    assert "PGD needs gradient" in blind.said
    near = mohs_("attack", "deepfool", "demo", "--data", "digits", "--threat", "l2:inf", "--limit", "8", "--json").json
    assert near["broken"] == 8
    assert near["median_distance"] > 0


# one change for all


def test_a_universal_change_is_made_judged_and_replayed(mohs_: Mohs, tmp_path: Path):
    words = ["universal", "demo", "--data", "digits:train", "--test", "digits", "--limit", "256", "--threat", "linf:0.3"]
    done = mohs_(*words, "--epochs", "4", "--out", "made/uap.png", "--json")
    assert done.code == 0
    told = done.json
    assert told["settings"]["epochs"] == 4
    assert told["made_from"] == 256
    assert told["fooling_rate"]["n"] == len(load_digits("test")[1])
    assert told["fooling_rate"]["interval95"][0] <= told["fooling_rate"]["low"] <= told["fooling_rate"]["interval95"][1]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["uap.png", "uap.safetensors"]
    assert (tmp_path / "made" / "uap.png").read_bytes().startswith(b"\x89PNG")
    point = load_file(tmp_path / "made" / "uap.safetensors")["point"]
    assert 0 < float(point.abs().max()) <= 0.3 * (1 + 1e-6)
    module, (x, y) = demo.load_demo(), load_digits("test")
    with torch.no_grad():
        before, after = module(x).argmax(1), module((x + point).clamp(0, 1)).argmax(1)
    assert abs(told["fooling_rate"]["low"] - float((before != after).double().mean())) < 0.005
    assert abs(told["accuracy"]["low"] - float((after == y).double().mean())) < 0.005

    replay = ["attack", "replay", "demo", "--data", "digits", "--point", "made/uap.safetensors", "--threat"]
    again = mohs_(*replay, "linf:0.3", "--json").json  # of the label: a clean error is broken
    assert abs(again["broken"] / again["n"] - float(((after != y) | (before != y)).double().mean())) < 0.005
    less = mohs_(*replay, "linf:0.05", "--json").json
    assert less["broken"] < again["broken"]
    blind = mohs_(*replay, "linf:0.3", "--knowledge", "transfer", "--json").json
    assert blind["forwards"] == blind["backwards"] == 0
    save_file({"point": point[:, :4].contiguous()}, tmp_path / "half.safetensors")
    wrong = mohs_("attack", "replay", "demo", "--data", "digits", "--point", "half.safetensors", "--threat", "linf:0.3")
    assert wrong.code == 2
    assert "shape [1, 4, 8]" in wrong.said

    said = mohs_(*words, "--epochs", "1", "--fooling-rate", "1")
    for part in ("fooling rate", "held-out", "accuracy", "without", "was not reached", "passes"):
        assert part in said.out


@pytest.mark.parametrize("method", ["uap", "singular"])
def test_other_ways_to_a_universal_change(mohs_: Mohs, method: str):
    words = ["universal", "demo", "--data", "digits", "--limit", "48", "--threat", "l2:2", "--method", method, "--json"]
    told = mohs_(*words).json
    assert told["made_from"] == 36
    assert told["fooling_rate"]["n"] == 12
    assert told["forwards"] > 0


# curves


def test_a_curve_is_a_run_with_a_table(mohs_: Mohs, tmp_path: Path):
    words = ["curve", "demo", "--data", "digits", "--limit", "12", "--norm", "linf,l2", "--at", "linf:0.05", "--at", "l2:0.3"]
    done = mohs_(*words, "--out", "c", "--json")
    assert done.code == 0
    told = done.json
    assert set(told["norms"]) == {"linf", "l2"}
    assert len(told["norms"]["l2"]["distances"]) == 12
    assert [row["norm"] for row in told["robust_accuracy"]] == ["linf", "l2"]
    for row in told["robust_accuracy"]:
        far = told["norms"][row["norm"]]["distances"]
        assert row["low"] == sum(d is None or d > row["epsilon"] * (1 + 1e-6) + 2e-7 for d in far) / 12
    assert Run.open(tmp_path / "c").complete
    assert (tmp_path / "c" / "report.html").stat().st_size > 1000
    said = mohs_("resume", "c")  # there is nothing left to do
    assert said.code == 0
    table = mohs_(*words)
    assert table.code == 0
    for part in ("linf", "l2", "50% broken within", "robust accuracy at linf:0.05", "report.html"):
        assert part in table.out


SMOOTHED = ("certify", "demo", "--data", "digits", "--threat", "l2:0.1", "--method", "smoothing")


def test_smoothing_is_a_table_a_page_and_json(mohs_: Mohs, tmp_path: Path):
    words = (*SMOOTHED, "--limit", 6, "--sigma", 0.2, "--samples", 300, "--threat", "l2:0.05")
    done = mohs_(*words, "--out", "out", "--require", "l2:0.1 >= 0", "--require", "l2:0.05 > 1%")
    assert done.code == 0
    assert "met: l2:0.05 > 1%" in done.out
    assert mohs_(*words, "--require", "l2:0.1 >= 101%").code == 2
    assert mohs_(*words, "--require", "l2:0.1 > 99%").code == 1
    assert "certified accuracy" in done.out
    assert "of the smoothed classifier" in done.out
    again = mohs_(*words, "--json").json
    kept = json.loads((tmp_path / "out/smoothing.json").read_text())
    assert [row["radius"] for row in again["certified_accuracy"]] == [0.1, 0.05]
    assert again["examples"] == kept["examples"]
    assert (tmp_path / "out/report.html").is_file()


def test_clever_is_a_table_a_page_and_json(mohs_: Mohs, tmp_path: Path):
    words = ("clever", "demo", "--data", "digits", "--limit", 3, "--batches", 3, "--per-batch", 16)
    done = mohs_(*words, "--out", "out")
    assert done.code == 0
    assert "exists and is not empty" in mohs_(*words, "--out", "out").said
    assert "an estimate, not a certificate" in done.out
    found = mohs_(*words, "--json", "--no-attack").json
    assert [row["attack"] for row in found["examples"]] == [None] * 3
    assert all(row["product"] <= row["clever"] for row in found["examples"])
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*SMOOTHED, "--sigma", 0), "certifies nothing"),
        (SMOOTHED, "smoothing needs --sigma"),
        ((*SMOOTHED, "--sigma", 0.2, "--samples", 5), "at least"),
        ((*SMOOTHED, "--sigma", 0.2, "--threat", "l0:2"), "one norm at a time"),
        ((*SMOOTHED, "--sigma", 0.2, "--threat", "l2:0.1+quantise:8bit"), "whole balls"),
        ((*SMOOTHED, "--sigma", 0.2, "--at-radius", 0.2), "--at-radius asks of one radius alone"),
        ((*SMOOTHED, "--sigma", 0.2, "--goal", "targeted:3"), "leave --goal"),
        (("certify", "demo", "--data", "digits", "--threat", "l2:0.1", "--sigma", 0.2), "--sigma is for --method smoothing"),
        (("clever", "demo", "--data", "digits", "--norm", "l0"), "has no norm 'l0'"),
    ],
)
def test_a_bound_that_cannot_be_had_is_exit_2_and_writes_nothing(
    mohs_: Mohs, tmp_path: Path, words: tuple[object, ...], said: str
):
    done = mohs_(*words)
    assert done.code == 2
    assert said in done.said
    assert nothing(tmp_path)


def test_attacks_on_surrogates_are_judged_once_an_example(mohs_: Mohs, tmp_path: Path):
    words = ["audit", "demo", "--data", "digits", "--limit", "16", "--threat", "linf:0.3", "--profile", "quick", "--out", "t"]
    done = mohs_(*words, "--surrogate", "demo:standard", "--surrogate", "demo", "--json")
    assert done.code == 0
    (threat,) = done.json["threats"]
    assert threat["text"] == "linf:0.3+knowledge:transfer"
    assert [stage["name"] for stage in threat["stages"]] == ["transfer"]
    assert done.json["profile"].startswith("quick-transfer")
    assert threat["boundary"] > 0  # demo is one of its own surrogates
    run = Run.open(tmp_path / "t")
    assert [other["name"] for other in run.spec["surrogates"]] == ["demo:standard", "demo"]
    assert "--surrogate demo:standard --surrogate demo" in run.spec["request"]["command"]
    assert mohs_("resume", "t").code == 0


# detect

DETECT = ["detect", "demo", "--data", "digits", "--fit", "digits:train", "--threat", "linf:0.2", "--with", "squeezing"]


def test_detect_writes_both_runs_and_a_page(mohs_: Mohs, tmp_path: Path):
    done = mohs_(*DETECT, "--limit", "24", "--bits", "3", "--json", "--out", "one")
    assert done.code == 0
    assert done.json["detector"]["settings"] == {"bits": 3, "window": 2}
    (threat,) = done.json["threats"]
    assert threat["joint"]["low"] <= threat["adaptive"]["low"]
    assert Run.open(tmp_path / "one").complete
    assert Run.open(tmp_path / "one" / "ignoring").complete
    assert "The detector" in (tmp_path / "one" / "report.html").read_text()
    shown = mohs_("report", "one", "--out", "again.html")
    assert shown.code == 0
    assert "The detector" in (tmp_path / "again.html").read_text()


def test_detect_in_words(mohs_: Mohs):
    done = mohs_(*DETECT, "--limit", "24")
    assert done.code == 0
    for word in ("AUROC", "detector ignored", "both attacked", "Xu, Evans, Qi", "rejected"):
        assert word in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["detect", "demo", "--data", "digits", "--threat", "linf:0.2", "--with", "lid"], "give --fit train.npz"),
        ([*DETECT, "--with", "squeezer"], "squeezing"),
        ([*DETECT, "--bits", "x"], "bits should be int"),
        ([*DETECT, "--levels", "3"], "option of Squeezing"),
        ([*DETECT, "--fit", "digits"], "are those"),
        ([*DETECT, "--false-alarms", "2"], "between 0 and 1"),
    ],
)
def test_detect_refuses_what_cannot_be(mohs_: Mohs, tmp_path: Path, words: list[str], told: str):
    done = mohs_(*words)
    assert done.code == 2
    assert told in done.said
    assert nothing(tmp_path)
