"""mohs universal"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from mohs.cli import options

HELP = (
    "One change that fools the model on most inputs, made from some examples and judged on others. "
    "The method's own options are options here: --epochs 10."
)
EXAMPLE = (
    "Example: `mohs universal model.pt2 --data train.npz --test test.npz --threat linf:10/255 --fooling-rate 0.8 --out uap.png`"
)
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    model: options.Model,
    data: options.Data,
    threat: Annotated[
        str,
        typer.Option(
            help="`linf:10/255` and the like, or `patch:5x5+turn:22.5deg`.",
            show_default=False,
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(
            help="`gradient` (batches), `uap` (over DeepFool), `singular` (vectors of a layer's Jacobian), `patch`; what fits.",
            show_default=False,
        ),
    ] = None,
    fooling_rate: Annotated[
        float, typer.Option(help="Of the examples it is made from: no better change is looked for from there on.")
    ] = 0.8,
    test: Annotated[
        str | None, typer.Option(help="Data to judge the change on; a part of --data without it.", show_default=False)
    ] = None,
    held_out: Annotated[float, typer.Option(help="The part of --data that is judged on, without --test.")] = 0.25,
    goal: options.Goal = "untargeted",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .png of the change, magnified; the change itself lies beside it as .safetensors, for `mohs attack replay`.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs.cli.show import tell
    from mohs.crafting import universal

    found = universal(
        model,
        data,
        threat=threat,
        method=method,
        fooling_rate=fooling_rate,
        goal=goal,
        test=test,
        held_out=held_out,
        limit=limit,
        seed=seed,
        settings=dict(options.own(context.args)),
        out=out,
        bounds=options.bounds_of(bounds),
        outputs=outputs,
        device=device,
        rows=rows,
        trust_pickle=trust_pickle,
    )
    tell(found.findings)
    files = [] if out is None else sorted({out, out.with_suffix(".safetensors")})
    if json:
        typer.echo(json_module.dumps({**found.facts(), "out": [str(path) for path in files]}, indent=1))
        return 0
    typer.echo(str(found))
    if not found.reached:
        typer.echo(f"the fooling rate of {fooling_rate:.1%} was not reached on the examples it was made from")
    typer.echo(f"{found.forwards} forward and {found.backwards} backward passes, {found.seconds:.1f} s")
    for path in files:
        typer.echo(f"written: {path}")
    return 0
