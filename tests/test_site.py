"""The documentation site: figures beneath the course's commands, every page of attacks and defences, nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs import site

from mohs import attacks, taxonomy
from mohs.course import chapters
from mohs.defend.table import TABLE as DEFENCES

ROOT = Path(__file__).parents[1]


def names(entries: list[object]) -> list[str]:
    """The pages of a navigation, in order."""
    found = []
    for entry in entries:
        assert isinstance(entry, dict)
        ((name, there),) = entry.items()
        found += names(there) if isinstance(there, list) else [name]
    return found


def test_every_attack_and_defence_is_in_the_navigation() -> None:
    for folder, table in (("attacks", attacks.TABLE), ("defences", DEFENCES)):
        listed = site.listed((ROOT / "docs" / folder / "README.md").read_text(), folder)
        assert sorted(names(listed)) == sorted(table)
    assert site.listed("## one\n\n| [a](a.md) | x |\n", "f") == [{"one": [{"a": "f/a.md"}]}]


def test_figures_stand_beneath_their_commands_and_are_escaped() -> None:
    text = "# T\n\n```sh\nmohs a\n```\n\n```toml\nx = 1\n```\n\n```sh\nmohs b\n```\nend\n"
    blocks = [
        {"code": "mohs a\n", "printed": "<b>1</b>\n", "failed": "", "files": ["01-t/p.png", "01-t/<r>.html"]},
        {"code": "mohs b\n", "printed": "", "failed": "", "files": []},
    ]
    page = site.with_figures(text, blocks)
    assert page.index("mohs a") < page.index("&lt;b&gt;1") < page.index('<img src="01-t/p.png"') < page.index("x = 1")
    assert "<b>" not in page
    assert '<iframe src="01-t/&lt;r&gt;.html"' in page
    blocks[1]["code"] = "mohs c\n"
    with pytest.raises(SystemExit, match="run it again"):
        site.with_figures(text, blocks)


def test_a_course_that_was_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "COURSE", ROOT / "nowhere")
    with pytest.raises(SystemExit, match="run the course first"):
        site.shown("01-motivation")


def test_what_lies_outside_of_the_documentation_is_no_link() -> None:
    text = "[a](../src/a.py) [b](b.md#c) [d](https://e.org) ![f](../f.png)"
    assert site.without_outside(text, "") == "`a` [b](b.md#c) [d](https://e.org) ![f](../f.png)"
    assert site.without_outside("[a](../../src/a.py) [b](../b.md)", "attacks") == "`a` [b](../b.md)"


def test_the_taxonomy_has_every_class() -> None:
    page = site.classes()
    for code in (*taxonomy.NIST, *taxonomy.ATLAS):
        assert code in page
    assert "| NISTAML.022 Evasion | fgsm, " in page


def test_the_site_is_built_and_asks_nothing_of_another_machine(tmp_path: Path) -> None:
    """With one line beneath every command in place of what the course prints."""
    pytest.importorskip("material", reason="mkdocs-material is missing: make docs installs it")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", symlinks=False)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for one in chapters():
        codes = re.findall(r"^```sh\n(.*?)^```\n", one.text, re.MULTILINE | re.DOTALL)
        folder = tmp_path / "build" / "course" / one.folder
        folder.mkdir(parents=True)
        (folder / "shown.json").write_text(
            json.dumps([{"code": code, "printed": "printed", "failed": "", "files": []} for code in codes])
        )
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(attacks.TABLE) + len(DEFENCES) + len(chapters())
    for page in pages:
        asked = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="?(?:https?:)?(//[^">\s]+)', page.read_text())
        assert asked == [], page
