"""mohs runs"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mohs.cli import options
from mohs.errors import RunError

HELP = "List the runs in a folder, newest last, with their verdicts."
EXAMPLE = "Example: `mohs runs runs/`"


def command(
    folder: Annotated[Path, typer.Argument(help="Where runs lie.")] = Path("runs"),
    json: options.Json = False,
) -> int:
    from mohs.store import Run
    from mohs.store.verdict import verdict_of

    found = sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    rows: list[dict[str, object]] = []
    table = Table("run", "model", "data", "n", "profile", "clean", "robust accuracy", "state", box=None)
    for path in found:
        try:
            verdict = verdict_of(Run.open(path.parent))
        except RunError as error:
            table.add_row(str(path.parent), "", "", "", "", "", "", str(error))
            rows.append({"run": str(path.parent), "error": str(error)})
            continue
        spec, state = verdict.run.spec, "complete" if verdict.finished else "resumable"
        robust = {threat.text: threat.score.low for threat in verdict.threats}
        text = ", ".join(f"{k} {v:.1%}" for k, v in robust.items())
        clean, n = verdict.clean, str(spec["plan"]["n"])
        table.add_row(
            str(path.parent),
            spec["model"]["name"],
            spec["data"]["name"],
            n,
            verdict.profile,
            f"{clean.low:.1%}",
            text,
            state,
        )
        rows.append({"run": str(path.parent), "profile": verdict.profile, "clean": clean.low, "robust": robust, "state": state})
    if json:
        typer.echo(json_module.dumps(rows, indent=1))
    elif rows:
        Console().print(table)
    else:
        typer.echo(f"no runs in {folder}/; `mohs audit demo --data digits --threat linf:0.1` makes one")
    return 0
