"""docs/defences: a page a defence, in step with the table, the docstrings and what was measured."""

from __future__ import annotations

import json
import re

import pytest
from docs import defences
from docs.defences import CASES, FOLDER, KINDS, NONE, index, measured, page, stale

from mohs.attacks.about import about
from mohs.defend import Defence
from mohs.defend.table import TABLE, factory


@pytest.mark.parametrize("name", TABLE)
def test_the_page_is_what_the_defence_says(name: str) -> None:
    assert name not in stale(), f"not measured with its present settings: python -m docs.defences {name}"
    assert about(factory(name)).when, f"{name} does not say when to use it: add a paragraph `When to use: ...` to its docstring"
    assert (FOLDER / f"{name}.md").read_text() == page(name, measured()), "write it anew: python -m docs.defences"


def test_the_index_lists_every_page_and_no_other() -> None:
    text = (FOLDER / "README.md").read_text()
    assert text == index(), "write it anew: python -m docs.defences"
    assert re.findall(r"^\| \[[^\]]+\]\(([a-z0-9-]+)\.md\)", text, re.MULTILINE) == list(TABLE)
    assert sorted(path.stem for path in FOLDER.glob("*.md")) == sorted([*TABLE, "README"])
    assert list(measured()) == [NONE, *(name for name in TABLE if name in measured())]


@pytest.mark.parametrize("name", [name for name in measured() if name != NONE])
def test_what_was_measured_is_whole_and_no_better_than_its_worst(name: str) -> None:
    found = measured()[name]
    assert list(found["threats"]) == list(KINDS)
    for shares in found["threats"].values():
        assert 0 <= shares["worse"] <= min(shares["naive"], shares["adaptive"])
        assert sum(shares["by"].values()) <= found["n"] * (1 - shares["adaptive"]) + 0.01  # shares have four digits


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("defense-gan", "kwta")])
def test_a_defence_is_what_the_table_declares(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defences, "EPOCHS", 1)
    made = defences.subject(name)
    assert isinstance(made, Defence)
    assert (made.differentiable, made.random) == (TABLE[name].differentiable, TABLE[name].random)


def test_a_run_measures_every_kind_of_threat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "bits", defences.Case("bits:3", attack=defences.PGD(steps=2), n=6))
    found = json.loads(json.dumps(defences.run("bits")))
    assert found.keys() == measured()["bits"].keys()
    assert found["threats"].keys() == set(KINDS)
    for shares in found["threats"].values():
        assert shares.keys() == {"adaptive", "naive", "worse", "by"}
        assert shares["worse"] <= min(shares["naive"], shares["adaptive"])


def test_what_was_not_measured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: found for name, found in measured().items() if name != "jpeg"}
    monkeypatch.setattr("docs.defences.measured", lambda: known)
    assert "Not measured yet" in page("jpeg", known)
    assert "| [jpeg](jpeg.md) | no | no | not measured |" in index()


def test_a_changed_setting_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "jpeg", defences.Case("jpeg:50"))
    assert "jpeg" in stale()
