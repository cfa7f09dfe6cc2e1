"""`mohs defend`, and `--with` on an audit: run folders, round trip, resume, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mohs import auditing
from mohs.cli.defend import _print
from mohs.data import load_digits
from mohs.defend import BitDepth, Thermometer, defended
from mohs.defend.table import TABLE
from mohs.defending import defend
from mohs.errors import RequestError, RunError
from mohs.models import TorchModel, as_model
from mohs.store import Run
from tests.small import network
from tests.test_cli import Mohs, cache, mohs_, nothing

__all__ = ["cache", "mohs_"]
QUICK = ["--data", "digits", "--limit", "16"]


def cut_short(folder: Path) -> Path:
    """A run as one that was killed before its last unit; returns the record that it lacks."""
    events = folder / "events.jsonl"
    events.write_text("".join(line for line in events.read_text().splitlines(True) if '"complete"' not in line))
    last = sorted((folder / "records").iterdir())[-1]
    last.unlink()
    return last


def test_defend_without_a_model_lists_the_table(mohs_: Mohs) -> None:
    rows = mohs_("defend", "--json").json
    assert [row["name"] for row in rows] == list(TABLE)
    assert all(row["paper"] and row["cost"] and row["broken by"] for row in rows)
    assert all(name in mohs_("defend").out for name in TABLE)


def test_defend_measures_and_audits_and_goes_on(mohs_: Mohs, tmp_path: Path) -> None:
    words = ["defend", "demo", "--with", "bits:3", *QUICK, "--audit", "--threat", "linf:0.1", "--profile", "quick"]
    told = mohs_(*words, "--out", "d", "--json").json
    assert told["defences"] == ["bits:3"]
    assert set(told["robust_accuracy"]["linf:0.1"]) == {"before", "naive", "adaptive", "worse"}
    assert told["latency_factor"] > 0
    for name in ("before", "naive", "adaptive"):
        run = Run.open(tmp_path / "d" / name)
        assert run.complete
        assert (run.folder / "report.html").exists()
    lost = cut_short(tmp_path / "d" / "adaptive")
    again = mohs_(*words, "--out", "d", "--json")
    assert again.json["robust_accuracy"] == told["robust_accuracy"]
    assert lost.exists()
    assert "of another request" in mohs_(*words[:3], "bits:2", *words[4:], "--out", "d").said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["defend", "demo", *QUICK], "say what stands before"),
        (["defend", "demo", "--with", "jpg:3", *QUICK], "did you mean 'jpeg'"),
        (["defend", "demo", "--with", "jpeg:99", *QUICK], "from 1 to 95"),
        (["defend", "demo", "--with", "bits:3", *QUICK, "--audit"], "go together"),
        (["defend", "--with", "bits:3"], "a model is to be named"),
        (["audit", "demo", "--with", "resize:8", *QUICK, "--threat", "linf:0.1"], "needs its size"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_written(mohs_: Mohs, tmp_path: Path, words: list[str], message: str) -> None:
    done = mohs_(*words)
    assert done.code == 2
    assert message in done.said
    assert nothing(tmp_path)


def test_an_audit_through_defences_is_that_of_the_model_made_by_hand(tmp_path: Path) -> None:
    x, y = (part[:16] for part in load_digits("test"))
    options = {"threats": ["linf:0.05"], "profile": "quick"}
    named = auditing.audit(network(), (x, y), defences=["bits:2"], out=tmp_path / "run", **options)
    by_hand = auditing.audit(BitDepth(as_model(network(), x), bits=2), (x, y), **options)
    for column in ("id", "stage", "status", "margin", "forwards"):
        assert named.run.records()[column] == by_hand.run.records()[column]
    assert "--with bits:2" in named.run.spec["request"]["command"]
    assert named.run.spec["request"]["given"]["defences"] == ["bits:2"]
    assert named.run.spec["model"]["name"].startswith("bit depth 2 before")
    lost = cut_short(tmp_path / "run")
    again = auditing.resume(tmp_path / "run", model=network(), data=(x, y))
    assert lost.exists()
    assert again.run.records()["margin"] == by_hand.run.records()["margin"]


def test_a_model_of_the_code_alone_has_no_before() -> None:
    x, y = (part[:16] for part in load_digits("test"))
    net = network(channels=4)
    found = defend(net, (x, y), defences=["thermometer:4"], threats=["linf:0.1"], profile="quick")
    assert found.before is None
    assert set(found.robust_accuracy["linf:0.1"]) == {"adaptive", "worse"}
    behind = Thermometer(TorchModel(net, classes=10), levels=4)
    assert torch.equal(defended(as_model(net, torch.zeros(2, 4, 8, 8)), ["thermometer:4"]).logits(x), behind.logits(x))
    assert json.dumps(found.robust_accuracy)


def test_the_worse_of_two_adversaries_is_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = (part[:16] for part in load_digits("test"))
    found = defend(network(), (x, y), defences=["bits:2"], threats=["linf:0.1"], profile="quick")
    (naive,), (adaptive,) = (found.results[name].verdict.threats for name in ("naive", "adaptive"))
    naive.status[:], adaptive.status[:] = ["robust", "broken"] * 8, ["broken", *["robust"] * 15]
    assert found.robust_accuracy["linf:0.1"]["worse"] == 7 / 16
    _print(found, {})
    assert "worse of both" in (said := capsys.readouterr().out)
    assert "43.8%" in said


def test_defend_refuses_what_is_not_its_request(tmp_path: Path) -> None:
    x, y = (part[:16] for part in load_digits("test"))
    with pytest.raises(RequestError, match="is to be named"):
        defend(network(), (x, y), defences=[])
    defend(network(), (x, y), defences=["bits:2"], threats=["linf:0.1"], profile="quick", out=tmp_path / "d")
    with pytest.raises(RunError, match="another request"):
        defend(network(), (x, y), defences=["bits:3"], threats=["linf:0.1"], profile="quick", out=tmp_path / "d")
