"""A training in a terminal and as a page, from its facts alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from mohs.report import words
from mohs.report.page import environment, put
from mohs.report.svg import picture

Facts = Mapping[str, Any]


def table(facts: Facts) -> Table:
    """Clean, robust and proved accuracy, before and after."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("", *(shares(facts["after"]) if facts["after"] else ("clean", "robust"))):
        shown.add_column(escape(head), justify="right" if head else "left")
    for name in ("before", "after"):
        if facts[name] is not None:
            shown.add_row(name, *map(words.percent, shares(facts[name]).values()))
    if facts["after"] is None:
        shown.add_row("held out", words.percent(facts["epochs"][facts["best_epoch"] - 1]["clean"]), "no threat given")
    return shown


def shares(scored: Facts) -> dict[str, float]:
    """Of the examples of an audit, by what they withstand: where the threats are several, each and all of them."""
    several = scored["by_threat"] if len(scored["by_threat"]) > 1 else {}
    proved = {"proved": scored["proved_accuracy"]} if "proved_accuracy" in scored else {}
    last = "all at once" if several else "robust"
    return {"clean": scored["clean_accuracy"], **several, last: scored["robust_accuracy"], **proved}


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
    several = after["by_threat"] if len(after["by_threat"]) > 1 else ()
    at = f"{' and '.join(several)} at once" if several else facts["threat"]
    return f"Robust accuracy at {at} {went} {now}, under {facts['profile']}{proved}"


def render(facts: Facts) -> str:
    """The page. Everything that comes from the facts is escaped on its way in."""
    epochs = list(range(1, len(facts["epochs"]) + 1))

    def drawn(names: tuple[str, ...], up: str) -> Any:
        values = {name: [float(row[name]) for row in facts["epochs"]] for name in names}
        return picture({"x": epochs, "lines": values, "across": "epoch", "up": up, "bars": False})

    lines = ("clean",) if facts["after"] is None else ("clean", "robust", "proved") if proves(facts) else ("clean", "robust")
    return (
        environment()
        .get_template("training.html.j2")
        .render(
            facts=facts,
            proves=proves(facts),
            shares=shares,
            headline=headline(facts),
            accuracy=drawn(lines, "held-out accuracy: " + ", ".join(lines)),
            loss=drawn(("loss",), "training loss"),
            rate=drawn(("rate",), "learning rate"),
        )
    )


def write_page(facts: Facts, path: str | Path) -> Path:
    """Write the page as one file; RequestError where it cannot be written."""
    return put(render(facts), path)
