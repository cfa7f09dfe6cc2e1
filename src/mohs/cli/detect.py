"""mohs detect"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mohs.cli import options

HELP = (
    "What a detector of attacked inputs is worth: fits it, and attacks the model behind it, ignoring it and both at once. "
    "The detector's own options are options here: --k 20."
)
EXAMPLE = (
    "Example: `mohs detect model.pt2 --with mahalanobis --fit train.npz --data test.npz --threat linf:8/255 --false-alarms 0.05`"
)
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    model: options.Model,
    data: options.Data,
    threat: options.Threats,
    with_: Annotated[str, typer.Option("--with", help="`mahalanobis`, `lid`, `squeezing`, `nre`, `magnet`.", show_default=False)],
    fit: Annotated[
        str | None,
        typer.Option(help="Clean data to fit on and to set the threshold on, other than --data.", show_default=False),
    ] = None,
    false_alarms: Annotated[float, typer.Option(help="The share of clean inputs that may be rejected.")] = 0.05,
    profile: Annotated[str, typer.Option(help="Of both audits: `quick`, `standard`, `deep`.")] = "quick",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/detect-<time> without it.", show_default=False)] = None,
    json: options.Json = False,
) -> int:
    from mohs.cli.show import fresh, watching
    from mohs.detecting import detect
    from mohs.report import write_report
    from mohs.report.detection import summary

    folder = out or fresh("detect")
    with watching(folder, resumable=False) as watch:
        found = detect(
            model,
            data,
            method=with_,
            fit=fit,
            threats=threat,
            false_alarms=false_alarms,
            profile=profile,
            settings=dict(options.own(context.args)),
            out=folder,
            watch=watch,
            limit=limit,
            seed=seed,
            bounds=options.bounds_of(bounds),
            outputs=outputs,
            device=device,
            rows=rows,
            trust_pickle=trust_pickle,
        )
    report = write_report(found.result.run, folder / "report.html")
    if json:
        typer.echo(json_module.dumps(found.facts, indent=1))
        return 0
    console = Console()
    console.print(summary(found.facts))
    console.print(f"report: {report}", soft_wrap=True, highlight=False)
    return 0
