"""Studies: settings in, findings out; a page that opens offline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from docs import studies

import mohs
from mohs.data import Examples
from mohs.errors import UnknownName
from mohs.models import TorchModel
from mohs.study import find
from mohs.study.base import Findings, Subject
from mohs.study.difficulty import ACCESS, GOALS, Cell, Difficulty, falls
from tests.conformance import near, world
from tests.test_cli import Mohs, command_line

SETTINGS = {"threat": "linf:0.03", "queries": 60, "pairs": 2}


def subject(**more: object) -> Subject:
    w = world()
    data = Examples(w.x, w.y, torch.arange(12), "twelve")
    return Subject(w.prepared.judge.model, data, options={"rows": 16}, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found() -> Findings:
    said: list[str] = []
    own = (TorchModel(near(world().module), classes=6),)
    findings = Difficulty(**SETTINGS).run(subject(surrogates=own, say=said.append))  # type: ignore[arg-type]
    assert len(said) == len(GOALS) * len(ACCESS)
    return findings


def cell(findings: Findings, goal: str, access: str) -> dict[str, object]:
    (one,) = (fact for fact in findings.facts if (fact["goal"], fact["access"]) == (goal, access))
    return one


def test_every_cell_is_measured_or_says_why_not(found: Findings) -> None:
    assert len(found.facts) == 16
    refused = [fact for fact in found.facts if fact["refused"]]
    assert [(fact["goal"], fact["access"]) for fact in refused] == [("confidence reduction", "label")]
    assert refused[0]["rate"] is None
    assert "labels alone" in str(refused[0]["refused"])
    assert any("labels alone" in note for note in found.notes)
    assert found.table.rows[0][3] == "not measured"
    assert found.figures[0].values[0][2] is None


def test_cells_are_those_of_the_audits(found: Findings) -> None:
    w = world()
    for access, options in (("gradient", {"profile": "quick"}), ("scores", {"profile": "probe", "queries": 60})):
        audited = mohs.audit(w.module, (w.x, w.y), threats=[f"linf:0.03+knowledge:{access}"], rows=16, **options)
        one = cell(found, "misclassification", access)
        assert one["attacked"] == 11
        assert one["broken"] == audited.verdict.threats[0].boundary > 0
        assert one["undecided"] == 0
        assert 1 <= float(str(one["median"])) <= 60
    assert cell(found, "misclassification", "transfer")["median"] == 1


def test_source_to_target_is_pursued_on_sources_alone(found: Findings) -> None:
    w = world()
    often = w.y.bincount(minlength=6).sort(descending=True).values[:2]
    one = cell(found, "source to target", "gradient")
    assert 0 < int(str(one["attacked"])) <= int(often.sum())


def test_no_surrogate_is_a_refusal_and_no_survival() -> None:
    findings = Difficulty(threat="linf:0.03", queries=20, pairs=1).run(subject())
    for goal in GOALS:
        one = cell(findings, goal, "transfer")
        assert one["rate"] is None
        assert "mohs substitute" in str(one["refused"])


def test_claims() -> None:
    def made(goal: str, broken: int, n: int = 100) -> Cell:
        return Cell(goal, "scores", n, 0, (5,) * broken)

    assert falls([[made("a", 90), made("b", 60), made("c", 10)]])[1] is True
    assert falls([[made("a", 600, 1000), made("b", 600, 1000)]])[1] is True  # no room for a rise of 10 points
    said, held = falls([[made("a", 90), made("b", 60), made("c", 60)]])
    assert held is None  # one step of two leaves room
    assert said == "2 of 2 steps do not rise; the intervals leave room for a rise of 18.9%"
    assert falls([[made("a", 4, 4), made("b", 0, 4)]])[1] is True
    assert falls([[made("a", 0, 4), made("b", 0, 4)]])[1] is None  # from four examples
    said, held = falls([[made("a", 20), made("b", 80)]])
    assert held is False
    assert "from a by scores (20.0%) to b by scores (80.0%)" in said
    assert falls([[made("a", 50), made("b", 52)]])[1] is None
    refused = Cell("b", "scores", refused="why")
    assert falls([[made("a", 20), refused]])[1] is None  # what was not measured says nothing
    assert falls([[made("a", 90), refused, made("c", 10)]])[1] is True
    doubtful = Cell("b", "scores", 100, 60, (5,) * 30)
    assert doubtful.rate == 0.3
    assert doubtful.interval[1] > 0.9


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    w = world()
    np.savez("test.npz", x=w.x[:6].numpy(), y=w.y[:6].numpy())
    return command_line(monkeypatch, capsys)


STUDY = ["study", "difficulty", "tests.conformance:frozen_module", "--data", "test.npz", "--threat", "linf:0.03"]


@pytest.mark.parametrize(("out", "told"), [("page", "should end in .html"), ("folder.html", "is a folder; name a page in it")])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(out: str, told: str, mohs_: Mohs) -> None:
    Path("folder.html").mkdir()
    done = mohs_(*STUDY, "--queries", 20, "--pairs", 1, "--out", out)
    assert done.code == 2
    assert told in done.err
    assert sorted(path.name for path in Path().iterdir()) == ["folder.html", "test.npz"]


def test_what_a_user_types(mohs_: Mohs) -> None:
    done = mohs_(*STUDY, "--queries", 20, "--pairs", 1, "--out", "page.html")
    assert done.code == 0
    assert "misclassification" in done.out
    assert "page: page.html" in done.out
    page = Path("page.html").read_text()
    assert "mohs study difficulty tests.conformance:frozen_module" in page
    assert "not measured, source to target by transfer: no surrogate was given" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    done = mohs_(*STUDY, "--queries", 20, "--pairs", 1, "--json")
    told = json.loads(done.out)
    assert len(told["facts"]) == 16
    assert Path(told["page"]).parent == Path("runs")


def test_what_comes_from_outside_is_escaped(found: Findings, tmp_path: Path) -> None:
    from mohs.report.study import write_page

    about = {"title": "<i>", "name": "n", "model": "<script>x</script>", "data": "d", "n": 1, "settings": {"a": "<b>"}}
    about |= {"command": "<c>", "mohs": "0", "created": "2026-01-01"}
    page = write_page(found.plain(), about, tmp_path / "page.html").read_text()
    for text in ("<script>x", "<b>b", "<c>", "<i>"):
        assert text not in page


def test_requests_that_are_wrong_write_nothing(mohs_: Mohs) -> None:
    before = sorted(Path().iterdir())
    for words, said in (
        (["study", "dificulty", *STUDY[2:]], "did you mean 'difficulty'"),
        ([*STUDY[:-1], "linf:inf"], "needs a budget"),
        ([*STUDY[:-1], "linf:0.1+knowledge:label"], "sets the access itself"),
        ([*STUDY, "--querys", "5"], "did you mean 'queries'"),
        ([*STUDY, "--queries", "many"], "should be int"),
        ([*STUDY, "--pairs", "0"], "pairs should be a whole number, 1 or more, not 0"),
        ([*STUDY, "--queries", "0"], "queries should be a whole number, 1 or more, not 0"),
        ([*STUDY, "--queries", "-3"], "queries should be a whole number, 1 or more, not -3"),
        ([*STUDY, "--confidence", "2"], "a probability between 0 and 1, such as 0.5; not 2"),
    ):
        done = mohs_(*words)
        assert done.code == 2
        assert said in done.said
    assert sorted(Path().iterdir()) == before
    with pytest.raises(UnknownName):
        find("nothing")


def test_pages_say_what_was_kept() -> None:
    """`python -m docs.studies` writes them."""
    docs = studies.FOLDER.parent
    assert f"{studies.index()}\n<!-- /measured -->" in (docs / "study.md").read_text()
    pages = [name for name in studies.FIGURES if (studies.FOLDER / f"{name}.md").exists()]
    assert pages
    for name in pages:
        text = (studies.FOLDER / f"{name}.md").read_text()
        assert f"<!-- measured -->\n{studies.measured(name)}\n<!-- /measured -->" in text
        assert text.startswith(f"# {name.capitalize()}\n**Claimed.**")
        for picture in (studies.FOLDER / name).glob("*.png"):
            assert f"({name}/{picture.name})" in text
