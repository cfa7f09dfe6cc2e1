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
    """Clean and robust accuracy, before and after."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("", "clean", "robust"):
        shown.add_column(head, justify="right" if head else "left")
    for name in ("before", "after"):
        if facts[name] is not None:
            shown.add_row(name, words.percent(facts[name]["clean_accuracy"]), words.percent(facts[name]["robust_accuracy"]))
    if facts["after"] is None:
        shown.add_row("held out", words.percent(facts["epochs"][facts["best_epoch"] - 1]["clean"]), "no threat given")
    return shown


def headline(facts: Facts) -> str:
    """What training came to, in a sentence."""
    before, after = facts["before"], facts["after"]
    if after is None:
        return f"Trained by {facts['recipe']}; no threat was given, and so robustness was not measured"
    now = words.percent(after["robust_accuracy"])
    went = "is" if before is None else f"went from {words.percent(before['robust_accuracy'])} to"
    return f"Robust accuracy at {facts['threat']} {went} {now}, under {facts['profile']}"


def render(facts: Facts) -> str:
    """The page. Everything that comes from the facts is escaped on its way in."""
    epochs = list(range(1, len(facts["epochs"]) + 1))

    def drawn(names: tuple[str, ...], up: str) -> Any:
        lines = {name: [float(row[name]) for row in facts["epochs"]] for name in names}
        return picture({"x": epochs, "lines": lines, "across": "epoch", "up": up, "bars": False})

    shares = ("clean", "robust") if facts["after"] is not None else ("clean",)
    return (
        environment()
        .get_template("training.html.j2")
        .render(
            facts=facts,
            headline=headline(facts),
            accuracy=drawn(shares, "held-out accuracy: " + ", ".join(shares)),
            loss=drawn(("loss",), "training loss"),
            rate=drawn(("rate",), "learning rate"),
        )
    )


def write_page(facts: Facts, path: str | Path) -> Path:
    """Write the page as one file; RequestError where it cannot be written."""
    return put(render(facts), path)
