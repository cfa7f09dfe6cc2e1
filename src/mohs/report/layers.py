"""The layers that an attack moves, in a terminal and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mohs.report import words
from mohs.report.page import environment, put

BAR = 24  # characters of the longest


def table(facts: dict[str, Any]) -> RenderableType:
    """A row a layer, in the order of the computation. facts: as `Sustainability.facts` gives them."""
    longest = max((layer["error"] for layer in facts["layers"]), default=0) or 1.0
    shown = Table(box=None, pad_edge=False, header_style="bold", caption=escape(_stamp(facts)), caption_justify="left")
    shown.add_column("layer", overflow="fold")
    shown.add_column("features", justify="right")
    shown.add_column("relative error", justify="right")
    shown.add_column("of random changes", justify="right")
    shown.add_column("")
    for layer in facts["layers"]:
        style = "bold red" if layer["vulnerable"] else None
        bar = "█" * max(1, round(BAR * layer["error"] / longest))
        cells = [layer["name"], words.count(layer["features"]), f"{layer['error']:.4f}", f"{layer['random']:.4f}", bar]
        shown.add_row(*map(escape, cells), style=style)
    return Group(shown, Text(f"most vulnerable: {', '.join(facts['most_vulnerable'])}"))


def write_page(facts: dict[str, Any], path: str | Path) -> Path:
    """The same as one HTML file with bars; RequestError where it cannot be written."""
    return put(render(facts), path)


def render(facts: dict[str, Any]) -> str:
    """The page; whatever comes from the model's names is escaped."""
    longest = max((max(layer["error"], layer["random"]) for layer in facts["layers"]), default=0) or 1.0
    attack = words.stage_options([facts["attack"]])[0]
    return environment().get_template("layers.html.j2").render(facts=facts, longest=longest, attack=attack)


def _stamp(facts: dict[str, Any]) -> str:
    broken = words.percent(facts["broken"] / facts["n"])
    return f"{facts['attack']['attack']} at {facts['threat']}, n = {facts['n']} classified rightly, of which {broken} broken"
