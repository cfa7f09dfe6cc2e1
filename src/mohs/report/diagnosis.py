"""A diagnosis in a terminal and as a page, from its facts alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mohs.report import words
from mohs.report.page import environment, put
from mohs.report.svg import picture

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}
ALARMS = ("fail", "warn")


def sentence(facts: Mapping[str, Any]) -> str:
    """The diagnosis in one sentence."""
    counts = {grade: [s["name"] for s in facts["signs"] if s["grade"] == grade] for grade in COLOURS}
    looked = len(facts["signs"]) - len(counts["skipped"])
    for grade, verb, told in (("fail", "fail", "is not to be believed"), ("warn", "warn", "is to be believed with care")):
        names = counts[grade]
        if names:
            verb += "s" if len(names) == 1 else ""
            return (
                f"An evaluation of this model at {facts['threat']} {told}: {', '.join(names)} {verb}, "
                f"of {words.plural(looked, 'sign')} looked for."
            )
    return f"Nothing speaks against an evaluation of this model at {facts['threat']}: {words.plural(looked, 'sign')} looked for."


def table(facts: Mapping[str, Any]) -> RenderableType:
    """The sentence, a row a sign, then what to do and what the remedies did."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("sign", "grade", "evidence"):
        rows.add_column(head, overflow="fold")
    for sign in facts["signs"]:
        rows.add_row(sign["name"], Text(sign["grade"], style=COLOURS[sign["grade"]]), Text(sign["evidence"]))
    todo = [Text(f"{sign['name']}: {sign['todo']}") for sign in facts["signs"] if sign["todo"]]
    mended = [Text(f"remedy {remedy['name']}: {remedy['words']}: {remedy['said']}") for remedy in facts["remedies"]]
    standing = facts["standing"]
    doubted = "no attack by gradients applies" if standing is None else f"PGD leaves {standing:.0%} of them"
    seen = f"{facts['n']} examples that the model gets right; {doubted}"
    spent = f"{words.count(facts['forwards'])} forward and {words.count(facts['backwards'])} backward passes"
    parts: list[RenderableType] = [Text(sentence(facts), style="bold"), rows]
    if todo:
        parts += [Text("What to do", style="bold"), *todo]
    return Group(*parts, *mended, Text(f"{seen}; {spent} in {words.cost(facts['seconds'])}", style="dim"))


def render(facts: Mapping[str, Any]) -> str:
    """The page. Everything that comes from the facts is escaped on its way in."""
    signs = [{**sign, "picture": picture(sign["plot"]) if sign["plot"] else ""} for sign in facts["signs"]]
    order = {grade: place for place, grade in enumerate((*ALARMS, "pass", "skipped"))}
    signs.sort(key=lambda sign: order[sign["grade"]])
    return environment().get_template("diagnosis.html.j2").render(facts=facts, signs=signs, headline=sentence(facts))


def write_page(facts: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page as one file; RequestError where it cannot be written."""
    return put(render(facts), path)
