"""mohs clever"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mohs.cli import options

if TYPE_CHECKING:
    from mohs.certificates.clever import Estimates

HELP = "Estimate how near the nearest wrong input is, from gradients around each example (CLEVER). No certificate."
EXAMPLE = "Example: `mohs clever model.pt2 --data test.npz --norm l2 --limit 32`"


def command(
    model: options.Model,
    data: options.Data,
    norm: Annotated[str, typer.Option(help="Of the distance: `l2`, `linf` or `l1`.")] = "l2",
    goal: Annotated[
        str, typer.Option(help="`untargeted`, `targeted:3`, `targeted:least-likely`, `targeted:next`, `targeted:random`.")
    ] = ("untargeted"),
    radius: Annotated[
        float | None,
        typer.Option(help="Of the ball of samples, which caps the score: 5 in l2, 0.1 in linf, 40 in l1.", show_default=False),
    ] = None,
    batches: Annotated[int, typer.Option(help="Batches of samples, whose largest gradients are fitted; 500 in the paper.")] = 50,
    per_batch: Annotated[int, typer.Option(help="Samples in a batch; 1024 in the paper.")] = 128,
    top: Annotated[int | None, typer.Option(help="Try only so many of the likeliest classes.", show_default=False)] = None,
    attack: Annotated[bool, typer.Option(help="Look for the nearest wrong input by an attack too.")] = True,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[
        Path | None, typer.Option(help="A folder for clever.json and report.html; runs/clever-<time> without it.")
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs.certificates.clever import clever
    from mohs.cli.show import counting, fresh, tell

    folder = out or fresh("clever")
    with counting("estimated") as watch:
        found = clever(
            model,
            data,
            norm=norm,
            goal=goal,
            radius=radius,
            batches=batches,
            per_batch=per_batch,
            top=top,
            attack=attack,
            limit=limit,
            seed=seed,
            bounds=options.bounds_of(bounds),
            outputs=outputs,  # type: ignore[arg-type]  # `load_model` says which there are
            device=device,
            rows=rows,
            trust_pickle=trust_pickle,
            out=folder,
            watch=watch,
        )
    tell(found.findings)
    if json:
        typer.echo(json_module.dumps(found.facts(), indent=1))
    else:
        _show(found)
        typer.echo(f"report: {folder / 'report.html'}")
    return 0


def _show(found: Estimates) -> None:
    facts, console = found.facts(), Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("example", "label", "product of norms", "CLEVER", "by", "largest sample", "attack"):
        table.add_column(heading, justify="right")
    for row in facts["examples"]:
        table.add_row(str(row["id"]), str(row["y"]), *map(_cell, (row["product"], row["clever"])), row["fit"] or "wrong already",
                      *map(_cell, (row["sampled"], row["attack"])))  # fmt: skip
    console.print(table)
    if facts["no_product"]:
        console.print(f"no product of norms: {facts['no_product']}", markup=False, highlight=False)
    means = ", ".join(f"{name} {value:.4g}" for name, value in facts["summary"].items() if isinstance(value, float))
    console.print(
        f"{facts['norm']} distances, {facts['goal']}; over {facts['summary']['n']} examples: {means}\n"
        f"{facts['fallbacks']} of {facts['pairs']} fits fell back to the largest sample; {facts['seconds']:.1f} s\n"
        "CLEVER is an estimate, not a certificate: a nearer wrong input may exist. So is the largest sample; the product of "
        "norms bounds from below but for rounding, an attack from above.",
        markup=False,
        highlight=False,
    )


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"
