"""mohs recipes"""

from __future__ import annotations

import json as json_module
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from mohs.cli import options

HELP = "Every recipe that `mohs train` knows: the paper, what a step costs, and what it is for."
EXAMPLE = "Example: `mohs recipes`"


def command(json: options.Json = False) -> int:
    rows = listed()
    if json:
        typer.echo(json_module.dumps(rows, indent=1))
        return 0
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("name", "cost", "paper", "for"):
        table.add_column(head, overflow="fold", no_wrap=head == "name")
    for row in rows:
        table.add_row(row["name"], row["cost"], row["paper"], row["for"])
    console = Console()
    console.print(table)
    console.print("a step costs F (forward), Bx (backward to the input), Bw (backward to the weights); standard training is F+Bw")
    return 0


def listed() -> list[dict[str, Any]]:
    """A row a recipe, then a row a modifier, whose names follow a plus."""
    from mohs.train import MODIFIERS, RECIPES, find

    rows = []
    for name in (*RECIPES, *MODIFIERS):
        cls = find(name)
        shown = name if name in RECIPES else f"+{name}"
        rows.append({"name": shown, "cost": cls.cost, "paper": cls.paper, "for": cls.purpose, "options": cls().spec()})
    return rows
