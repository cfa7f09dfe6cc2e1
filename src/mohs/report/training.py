"""A training in a terminal and as a page, from its facts alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from mohs.report import words
from mohs.report.page import environment, put
from mohs.report.svg import picture

Facts = Mapping[str, Any]


def table(facts: Facts) -> Table:
    """Clean, robust and proved accuracy, before and after."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    heads = ("clean", "robust", "proved") if proves(facts) else ("clean", "robust")
    for head in ("", *heads):
        shown.add_column(head, justify="right" if head else "left")
    for name in ("before", "after"):
        if facts[name] is not None:
            shown.add_row(name, *(words.percent(facts[name][f"{head}_accuracy"]) for head in heads))
    if facts["after"] is None:
        shown.add_row("held out", words.percent(facts["epochs"][facts["best_epoch"] - 1]["clean"]), "no threat given")
    return shown


def proves(facts: Facts) -> bool:
    """Whether the recipe aims at proofs."""
    return facts["after"] is not None and "proved_accuracy" in facts["after"]


def headline(facts: Facts) -> str:
    """What training came to, in a sentence."""
    before, after = facts["before"], facts["after"]
    if after is None:
        return f"Trained by {facts['recipe']}; no threat was given, and so robustness was not measured"
    now = words.percent(after["robust_accuracy"])
    went = "is" if before is None else f"went from {words.percent(before['robust_accuracy'])} to"
    proved = f"; intervals prove {words.percent(after['proved_accuracy'])}" if proves(facts) else ""
    return f"Robust accuracy at {facts['threat']} {went} {now}, under {facts['profile']}{proved}"


def render(facts: Facts) -> str:
    """The page. Everything that comes from the facts is escaped on its way in."""
    epochs = list(range(1, len(facts["epochs"]) + 1))

    def drawn(names: tuple[str, ...], up: str) -> Any:
        lines = {name: [float(row[name]) for row in facts["epochs"]] for name in names}
        return picture({"x": epochs, "lines": lines, "across": "epoch", "up": up, "bars": False})

    shares = ("clean",) if facts["after"] is None else ("clean", "robust", "proved") if proves(facts) else ("clean", "robust")
    return (
        environment()
        .get_template("training.html.j2")
        .render(
            facts=facts,
            proves=proves(facts),
            headline=headline(facts),
            accuracy=drawn(shares, "held-out accuracy: " + ", ".join(shares)),
            loss=drawn(("loss",), "training loss"),
            rate=drawn(("rate",), "learning rate"),
        )
    )


def write_page(facts: Facts, path: str | Path) -> Path:
    """Write the page as one file; RequestError where it cannot be written."""
    return put(render(facts), path)
