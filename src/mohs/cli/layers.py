"""mohs layers"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mohs.cli import options

HELP = "Which layers does an attack move most? Layer sustainability analysis; the attack's own options are options here."
EXAMPLE = "Example: `mohs layers model.pt2 --data test.npz --threat linf:8/255 --steps 20 --out layers.html`"
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    model: options.Model,
    data: options.Data,
    threat: Annotated[str, typer.Option(help="`linf:8/255` and the like.")],
    attack: Annotated[str, typer.Option(help="A name from `mohs attacks`.")] = "pgd",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[Path | None, typer.Option(help="A page with the bars: FILE.html.", show_default=False)] = None,
    json: options.Json = False,
) -> int:
    from mohs import attacks
    from mohs.cli.show import tell
    from mohs.diagnosis.layers import sustainability
    from mohs.report.layers import table, write_page

    chosen = attacks.make({"attack": attack, **options.own(context.args)})
    options.check_page(out)
    found = sustainability(
        model,
        data,
        threat=threat,
        attack=chosen,
        limit=limit,
        seed=seed,
        bounds=options.bounds_of(bounds),
        outputs=outputs,
        device=device,
        rows=rows,
        trust_pickle=trust_pickle,
    )
    tell(found.findings)
    facts = found.facts()
    page = None if out is None else write_page(facts, out)
    if json:
        typer.echo(json_module.dumps({**facts, "out": str(page) if page else None}, indent=1))
        return 0
    Console().print(table(facts))
    if page:
        typer.echo(f"page: {page}")
    return 0
