"""What `mohs probe --explore` prints."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mohs.report.words import count, percent

SHOWN = 6  # classes named


def show_exploration(url: str, data: str, given: dict[str, Any], as_json: bool) -> int:
    """Explore, and print a short table or JSON."""
    from mohs.exploring import explore

    options = {name: value for name, value in given.items() if name not in ("profile", "goal", "rows", "require", "confident")}
    found = explore(url, data, **options)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=1))
        return 0
    table = Table(show_header=False, box=None)
    named = [f"{name} {times}" for name, times in found.classes.items()]
    rounded = f"rounded to {found.decimals} decimals" if found.decimals is not None else "not rounded"
    learnt = f"{percent(found.agreement)} agreement" if found.agreement is not None else "too few answers to train one"
    if found.agreement is not None and found.chance is not None:
        learnt += f" on {found.held_out} answers held out; {percent(found.chance)} by the most frequent class"
    rows = {
        "gives": f"{found.gives}, {rounded}" if found.gives == "scores" else found.gives,
        "queries": f"{count(int(found.account['sent']))} sent, {count(found.answered)} inputs answered",
        "classes seen": f"{len(found.classes)}: {', '.join(named[:SHOWN])}{', …' if len(named) > SHOWN else ''}",
        "equal bytes": "equal answers" if found.deterministic else "different answers",
        "latency": f"{1000 * found.latency[0]:.1f} ms median, {1000 * found.latency[1]:.1f} ms 95th percentile",
        "substitute": learnt,
    }
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    console = Console()
    console.print(table)
    for message in found.findings:
        console.print(f"warning: {message}", style="yellow", markup=False)
    return 0
