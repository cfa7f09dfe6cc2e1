"""mohs report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mohs.cli import options

HELP = "Write the report of a run again, as far as it got; nothing is computed anew."
EXAMPLE = "Example: `mohs report runs/demo-20260101-120000 --out report.html`"


def command(
    run: options.Folder,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; report.html in the run without it.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs.cli.show import finish
    from mohs.store import Run
    from mohs.store.verdict import verdict_of

    opened = Run.open(run)
    asked = {**opened.spec["request"]["defaulted"], **opened.spec["request"]["given"]}
    return finish(opened, verdict_of(opened), json, asked["require"], asked["confident"], out)
