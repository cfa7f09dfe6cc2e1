"""Every attack explains itself: a doctest that runs, when to use it, a page with a picture. What is missing is named with
the command that mends it."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch
from docs.pages import FOLDER, SHOWN, index, measured, page, run, stale
from PIL import Image

from mohs import demo
from mohs.attacks import TABLE, find
from mohs.attacks.about import about
from mohs.data import load_digits
from mohs.models import Prepared

NAMES = sorted(TABLE)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_an_example_that_runs(name: str) -> None:
    kind = find(name)
    said = about(kind)
    assert said.example, f"{kind.__name__} has no doctest: add `>>> ...` to its docstring, on demo.example or demo.linear_example"
    assert re.search(rf"attacks\.{kind.__name__}\(", said.example), f"the doctest of {kind.__name__} does not use it"
    found = doctest.DocTestFinder(recurse=False).find(kind, kind.__name__, globs={})
    told: list[str] = []
    result = doctest.DocTestRunner().run(found[0], out=told.append)
    assert (result.failed, result.attempted > 1) == (0, True), "".join(told)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_what_it_does_and_when_to_use_it(name: str) -> None:
    kind = find(name)
    said = about(kind)
    assert said.method, f"{kind.__name__} has no docstring of its own"
    assert said.when, f"{kind.__name__} does not say when to use it: add a paragraph `When to use: ...` to its docstring"
    assert len(re.findall(r"[.?!](?:\s|$)", said.when)) <= 5, f"two or three sentences on when to use {kind.__name__} are enough"
    others = [other for other in re.findall(r"`([a-z0-9-]+)`", said.when) if "-" in other and other not in TABLE]
    assert others == [], f"{kind.__name__} sends its reader to attacks there are not"


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_what_the_attack_says(name: str) -> None:
    assert name not in stale(), f"not measured with its present defaults: python -m docs.pages {name}"
    written = FOLDER / f"{name}.md"
    assert written.exists(), "write it: python -m docs.pages"
    text = page(name, measured()[name])
    assert written.read_text() == text, "write it anew: python -m docs.pages"
    assert "https://" in text, f"no link to the paper of {name}: give its class an arXiv id"
    picture = FOLDER / f"{name}.png"
    assert picture.exists(), f"draw it: python -m docs.pages {name}"
    assert picture.stat().st_size < 20_000
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors() or []) > 2, f"nothing to be seen in the picture of {name}"


def test_the_index_lists_every_page_and_no_other() -> None:
    text = (FOLDER / "README.md").read_text()
    assert text == index(), "write it anew: python -m docs.pages"
    assert sorted(re.findall(r"\]\(([a-z0-9-]+)\.md\)", text)) == NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.png")) == NAMES
    assert sorted(measured()) == NAMES


def test_a_changed_default_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    was = measured()
    was["ddn"]["settings"]["steps"] = 7
    monkeypatch.setattr("docs.pages.measured", lambda: was)
    assert stale() == ["ddn"]


def test_a_run_measures_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("docs.pages.FOLDER", tmp_path)
    found = run("deepfool")
    assert found.keys() == measured()["deepfool"].keys()
    assert found["settings"] == find("deepfool")().spec()
    assert found["broken"] == found["examples"] == 16
    assert found["forwards"] > found["backwards"] / 10 > 0
    assert all(before != after for before, after in found["labels"])
    with Image.open(tmp_path / "deepfool.png") as image:
        assert image.size == (4 * 80 + 3 * 6, 3 * 80 + 2 * 6)


def test_a_set_without_a_budget_to_be_shown_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SHOWN, "linf")
    with pytest.raises(SystemExit, match=r"fgsm moves in linf, and .* add a line to SHOWN"):
        run("fgsm")


# the models that the examples are shown on


def test_the_linear_example_is_as_far_from_its_boundary_as_is_said() -> None:
    model, x, y = demo.linear_example()
    assert model(x).argmax(1).tolist() == y.tolist() == [0]
    ways = {"l2": (0.16, 0.12), "linf": (1 / 7, 1 / 7), "l1": (0.25, 0.0), "l0": (0.25, 0.0)}
    for norm, (first, second) in ways.items():
        step = torch.tensor([[[first, second], [0.0, 0.0]]])
        size = {"l2": step.norm(), "linf": step.abs().max(), "l1": step.abs().sum(), "l0": (step > 0).sum()}[norm]
        assert float(size) == pytest.approx({"l2": 1 / 5, "linf": 1 / 7, "l1": 1 / 4, "l0": 1}[norm])
        assert model(x + 0.999 * step).argmax(1).item() == 0
        assert model(x + 1.001 * step).argmax(1).item() == 1


def test_the_digits_of_an_example_are_classified_rightly() -> None:
    model, x, y = demo.example(20)
    assert x.shape == (20, 1, 8, 8)
    assert torch.equal(model(x).argmax(1), y)
    held, _ = load_digits("test")
    assert all(any(torch.equal(image, other) for other in held[:40]) for image in x)


def test_the_victim_of_a_transfer_is_not_its_guide() -> None:
    prepared, x, y = demo.transfer_example(10)
    assert isinstance(prepared, Prepared)
    assert torch.equal(prepared.judge.model.logits(x).argmax(1), y)
    assert prepared.surrogate is not None
    assert not torch.allclose(prepared.judge.model.logits(x), prepared.surrogate.model.logits(x), atol=1.0)
