"""mohs diagnose"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mohs.cli import options

HELP = "Is an evaluation of this model to be believed? Looks for the signs of masked gradients and failed attacks."
EXAMPLE = "Example: `mohs diagnose model.pt2 --data test.npz --threat linf:8/255 --fix --out diagnosis.html`"


def command(
    model: options.Model,
    data: options.Data,
    threat: Annotated[str, typer.Option(help="`linf:8/255` or `l2:0.5`.", show_default=False)],
    sign: Annotated[
        list[str] | None, typer.Option(help="Look for this sign alone, by its name. As often as wanted.", show_default=False)
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Run the remedies: accuracy before and after each.")] = False,
    surrogate: Annotated[
        str | None,
        typer.Option(help="Another MODEL, such as the one without its defence: do attacks on it transfer?", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="Examples that the model gets right, drawn from the data.")] = 64,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    trust_pickle: options.TrustPickle = False,
    out: Annotated[Path | None, typer.Option(help="Write a page that opens offline: a .html file.", show_default=False)] = None,
    json: options.Json = False,
) -> int:
    from mohs.cli.show import errors
    from mohs.diagnosis import Grade, diagnose
    from mohs.report.diagnosis import table

    options.check_page(out)
    chosen = {"bounds": options.bounds_of(bounds), "outputs": outputs, "device": device, "trust_pickle": trust_pickle}
    with errors.status("diagnosing") as status:
        found = diagnose(
            model,
            data,
            threat=threat,
            signs=sign,
            fix=fix,
            surrogate=surrogate,
            limit=limit,
            seed=seed,
            watch=lambda name: status.update(f"diagnosing: {name}"),
            **chosen,
        )
    facts = found.facts()
    page = None if out is None else found.report(out)
    if json:
        typer.echo(json_module.dumps(facts, indent=1))
    else:
        console = Console()
        console.print(table(facts))
        if page is not None:
            console.print(f"page: {page}", soft_wrap=True, highlight=False)
    return 1 if found.grade == Grade.FAIL else 0
