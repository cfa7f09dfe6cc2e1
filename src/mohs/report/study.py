"""The findings of a study, from plain data: in a terminal, and as one HTML page that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mohs.report.page import environment, plotly, put

VERDICTS = {True: "held", False: "did not hold", None: "undecided"}
COLOURS = {True: "green", False: "red", None: "yellow"}


def summary(found: dict[str, Any]) -> RenderableType:
    """The table, then the claims, then what limits them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in found["table"]["columns"]:
        table.add_column(escape(name), overflow="fold", min_width=12)
    for row in found["table"]["rows"]:
        table.add_row(*map(escape, row))
    claims = [
        Text.assemble((VERDICTS[line["held"]], COLOURS[line["held"]]), f": {line['claim']} ({line['measured']})")
        for line in found["claims"]
    ]
    return Group(table, *claims, *(Text(note, style="yellow") for note in found["notes"]))


def write_page(found: dict[str, Any], about: dict[str, Any], path: str | Path) -> Path:
    """Write the page of findings. about: title, name, model, data, n, settings, command, mohs, created."""
    drawn = any(figure["kind"] != "grid" for figure in found["figures"])
    template = environment().get_template("study.html.j2")
    page = template.render(found=found, about=about, verdicts=VERDICTS, plotly=plotly() if drawn else "")
    return put(page, path)
