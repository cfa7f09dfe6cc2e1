"""mohs curve"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mohs.cli import options
from mohs.errors import RequestError

HELP = "Robust accuracy against every epsilon: the least change found of every example, from one pass a norm."
EXAMPLE = "Example: `mohs curve model.pt2 --data test.npz --norm linf,l2,l1,l0 --at linf:8/255`"


def command(
    model: options.Model,
    data: options.Data,
    norm: Annotated[
        str, typer.Option(help="`linf`, `l2`, `l1`, `l0`, `l0px`, parted by commas, with `+mask:mutable.npy` and the like.")
    ] = "linf,l2,l1,l0",
    at: Annotated[
        list[str] | None, typer.Option(help="Print robust accuracy here too: `linf:8/255`. As often as wanted.")
    ] = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/curve-<time> without it.", show_default=False)] = None,
    json: options.Json = False,
) -> int:
    from mohs.cli.show import fresh, watching
    from mohs.curving import curve, unbounded
    from mohs.report import write_report
    from mohs.report.curves import as_json, summary

    norms = [name.strip() for name in norm.split(",")]
    unbounded(norms)
    asked = [_place(text, norms) for text in at or []]
    folder = out or fresh("curve")
    chosen = {"limit": limit, "seed": seed, "bounds": options.bounds_of(bounds), "outputs": outputs, "device": device}
    with watching(folder) as watch:
        found = curve(model, data, norms=norms, out=folder, watch=watch, rows=rows, trust_pickle=trust_pickle, **chosen)
    report = write_report(found.result.run, folder / "report.html")
    verdict = found.result.verdict
    if json:
        typer.echo(json_module.dumps(as_json(verdict, norms, [(name, epsilon) for _, name, epsilon in asked]), indent=1))
    else:
        console = Console()
        console.print(summary(verdict, norms, asked))
        console.print(f"report: {report}", soft_wrap=True, highlight=False)
    return 0


def _place(text: str, norms: list[str]) -> tuple[str, str, float]:
    """`linf:8/255` as (text, norm, epsilon)."""
    from mohs.threat.grammar import number

    name, _, budget = text.rpartition(":")
    if name not in norms:
        raise RequestError(f"--at should read NORM:EPSILON with a norm of --norm, such as {norms[0]}:0.1; not {text!r}")
    return text, name, number(budget)
