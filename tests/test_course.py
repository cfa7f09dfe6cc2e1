"""The course: chapters whose commands run, pages that open offline, a timeline from the tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from mohs import attacks
from mohs.cli import COMMANDS
from mohs.course import Chapter, chapters, commands, entries
from mohs.report.course import Shown, body, timeline
from tests.test_cli import Mohs, cache, command_line

__all__ = ["cache"]  # the embedded models, hardly trained
ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


def small(monkeypatch: pytest.MonkeyPatch, folder: Path, *texts: str) -> None:
    """A course of these chapters."""
    for number, text in enumerate(texts, 1):
        (folder / f"{number:02}-part{number}.md").write_text(text)
    monkeypatch.setattr("mohs.course.reading.FOLDER", folder)


def test_chapters_are_in_order_and_on_the_site() -> None:
    every = chapters()
    assert [one.number for one in every] == list(range(1, len(every) + 1))
    assert (every[0].name, every[-1].name) == ("motivation", "conclusion")
    listed = re.findall(r"course/([\w-]+)\.md", (ROOT / "mkdocs.yml").read_text())
    assert listed == [one.folder for one in every]
    for page in re.findall(r"[:-] ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE):
        assert (ROOT / "docs" / page).is_file() or page == "taxonomy.md", page


def test_every_command_of_the_course_exists(mohs_: Mohs) -> None:
    known: dict[str, str] = {}
    for one in chapters():
        blocks = [code for info, code in BLOCK.findall(one.text) if info == "sh"]
        assert blocks, f"{one.name} shows nothing"
        for words in (words for code in blocks for words in commands(code)):
            name = words[0]
            assert name in COMMANDS, words
            if name not in known:
                known[name] = mohs_(name, "--help").out
            own = "own options are options here" in " ".join(known[name].split())
            for option in (word for word in words if word.startswith("--") and not own):
                assert option in known[name] or option == "--help", f"{one.name}: {option} of mohs {name}"


def test_a_chapter_runs_as_it_stands(mohs_: Mohs) -> None:
    done = mohs_("course", "--chapter", "formulation", "--out", "site", "--json")
    assert done.code == 0, done.said
    assert json.loads(done.out) == {"index": "site/index.html", "chapters": ["02-formulation"], "failed": []}
    page = Path("site/02-formulation.html").read_text()
    assert 'src="02-formulation/curve/report.html"' in page
    assert Path("site/02-formulation/curve/report.html").is_file()
    assert "robust" in page
    for text in (page, Path("site/index.html").read_text()):
        assert "https://" not in text
        assert "http://" not in text.replace("http://127.0.0.1", "")
        for link in re.findall(r'(?:href|src)="([^"]+\.html)"', text):
            assert (Path("site") / link).is_file() or re.match(r"\d\d-[\w-]+\.html", link)


LEAST = {  # what a chapter's commands are cut down to
    "--limit": "32",
    "--steps": "5",
    "--points": "5",
    "--per-batch": "8",
    "--seconds": "1",
    "--widths": "4,8",
    **dict.fromkeys(["--epochs", "--rounds", "--depths", "--pairs"], "1"),
    **dict.fromkeys(["--search-steps", "--directions", "--batches"], "3"),
    "--examples": "30",
    **dict.fromkeys(["--queries", "--samples"], "60"),
}


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded data as 100 to test on and 300 to train on."""
    from sklearn.datasets import load_digits

    every = load_digits()
    few = SimpleNamespace(images=every.images[:400], target=every.target[:400])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: few)
    monkeypatch.setattr("mohs.data.digits.TEST", 100)


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("chapter", chapters(), ids=lambda one: one.name)
def test_every_command_runs_in_small(
    mohs_: Mohs, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, chapter: Chapter
) -> None:
    text = re.sub(r"(--[\w-]+) (\d[\d,]*)(?=\s)", lambda found: f"{found[1]} {LEAST.get(found[1], found[2])}", chapter.text)
    text = text.replace("substitute demo:standard", "substitute demo")  # which is a network of noise here
    small(monkeypatch, tmp_path_factory.mktemp("chapters"), text)
    done = mohs_("course", "--out", "site")
    assert done.code == 0, done.said


def test_a_command_that_fails_is_told_and_the_rest_goes_on(
    mohs_: Mohs, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = "# One\n\n```sh\nmohs attacks nothing-like-it\nmohs attacks fgsm\n```\n"
    small(monkeypatch, tmp_path_factory.mktemp("chapters"), text, "# Two\n\n```text\nmohs never run\n```\n")
    done = mohs_("course", "--out", "site")
    assert done.code == 3
    assert "mohs attacks nothing-like-it" in done.said
    page = Path("site/01-part1.html").read_text()
    assert "nothing-like-it" in page.split('class="notice"')[1]
    assert "Goodfellow" in page
    assert Path("site/02-part2.html").exists()


def test_files_of_a_chapter_are_written_and_servers_end(
    mohs_: Mohs, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = '# One\n\n```toml title="own.toml"\na = 1\n```\n\n```sh\nmohs serve nothing-like-it --port 8098 &\n```\n'
    small(monkeypatch, tmp_path_factory.mktemp("chapters"), text)
    done = mohs_("course", "--out", "site")
    assert done.code == 3
    assert "ended: mohs:" in done.said
    assert Path("site/01-part1/own.toml").read_text() == "a = 1\n"


def test_what_is_shown_is_escaped() -> None:
    shown = Shown("<b>out</b>", "<i>why</i>", ("a/<x>.html", "a/p.png"))
    page = body("# T <script>\n\n```sh\nmohs x\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", lambda info, code: shown)
    for text in ("<b>", "<i>", "<x>", "<script>"):
        assert text not in page
    assert "<table>" in page
    assert '<img src="a/p.png"' in page


def test_commands_are_read_as_a_shell_reads_them() -> None:
    code = "# no\nmohs audit demo --goal 'source-target:3->5' \\\n  --limit 3  # few\nls\nmohs serve demo &\n"
    found = [["audit", "demo", "--goal", "source-target:3->5", "--limit", "3"], ["serve", "demo", "&"]]
    assert list(commands(code)) == found


def test_the_timeline_is_that_of_the_tables(mohs_: Mohs) -> None:
    every = entries()
    years = {entry.name: entry.year for entry in every}
    assert (years["lbfgs"], years["fgsm"], years["pgd"], years["trades"], years["nre"]) == (2014, 2015, 2018, 2019, 2019)
    assert [entry.year for entry in every] == sorted(entry.year for entry in every)
    left = {name for name in attacks.TABLE if name not in years}
    assert all(attacks.find(name).paper.startswith(("our own", "bisection", "a made point")) for name in left), left
    done = mohs_("course", "--timeline", "timeline.svg")
    assert done.code == 0
    drawn = ElementTree.parse("timeline.svg")
    texts = ["".join(text.itertext()) for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert any(text.startswith("lbfgs") for text in texts)
    assert timeline(every) == Path("timeline.svg").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chapter", "motivaton"], "did you mean 'motivation'"),
        (["--out", "taken"], "holds no course"),
        (["--timeline", "taken/file"], "--timeline should end in .svg, not 'file'"),
        (["--pipeline", "taken/file"], "--pipeline should end in .svg, not 'file'"),
        (["--timeline", "first.svg", "--pipeline", "taken/file"], "--pipeline should end in .svg"),
        (["--timeline", "folder.svg"], "--timeline: folder.svg is a folder"),
    ],
)
def test_requests_that_are_wrong_write_nothing(mohs_: Mohs, words: list[str], said: str) -> None:
    Path("taken").mkdir()
    Path("taken/file").write_text("mine")
    Path("folder.svg").mkdir()
    done = mohs_("course", *words)
    assert done.code == 2
    assert said in done.said
    assert sorted(path.as_posix() for path in Path().rglob("*")) == ["folder.svg", "taken", "taken/file"]
    assert Path("taken/file").read_text() == "mine"
