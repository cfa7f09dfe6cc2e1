"""mohs compare"""

from __future__ import annotations

import json as json_module

import typer
from rich.console import Console
from rich.table import Table

from mohs.cli import options

HELP = "Two runs of the same examples and profile: what was lost, what was won, and whether that is more than chance."
EXAMPLE = "Example: `mohs compare runs/last-release runs/candidate`  (exit code 1 on a significant fall)"


def command(before: options.Folder, after: options.Folder, json: options.Json = False) -> int:
    from mohs.store import Run
    from mohs.store.compare import compare

    found = compare(Run.open(before), Run.open(after))
    if json:
        rows = [
            {
                "threat": c.text,
                "n": c.n,
                "before": c.before,
                "after": c.after,
                "lost": c.lost.tolist(),
                "won": c.won.tolist(),
                "p": c.p,
                "fell": c.fell,
            }
            for c in found
        ]
        typer.echo(json_module.dumps(rows, indent=1))
    else:
        table = Table("threat", "n", "before", "after", "lost", "won", "McNemar p", "", box=None)
        for c in found:
            said = "[red]a significant fall[/]" if c.fell else "no significant fall"
            counts = (str(len(c.lost)), str(len(c.won)), f"{c.p:.3g}")
            table.add_row(c.text, str(c.n), f"{c.before:.1%}", f"{c.after:.1%}", *counts, said)
        Console().print(table)
    return 1 if any(c.fell for c in found) else 0
