"""mohs smooth"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from mohs.cli import options

if TYPE_CHECKING:
    from mohs.certificates.smoothing import Smoothed

HELP = "Certify a model by its votes under noise (randomised smoothing): no change within a radius moves the smoothed class."
EXAMPLE = "Example: `mohs smooth model.pt2 --data test.npz --sigma 0.25 --radius 0.25,0.5 --samples 10000`"


def command(
    model: options.Model,
    data: options.Data,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise, in the units of the input.", show_default=False)],
    norm: Annotated[str, typer.Option(help="Of the certified ball: `l2`, `l1` or `linf`.")] = "l2",
    noise: Annotated[
        str | None,
        typer.Option(help="`gaussian`, `laplace` or `uniform`; without it, laplace for l1, else gaussian.", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option(help="Of an example, to estimate its radius.", min=1)] = 100_000,
    selection: Annotated[int, typer.Option(help="Samples that choose the class, apart from the others.")] = 100,
    alpha: Annotated[float, typer.Option(help="Probability of a false certificate, of an example.")] = 0.001,
    at_radius: Annotated[
        float | None, typer.Option(help="Ask of this radius alone, in as few samples as it takes.", show_default=False)
    ] = None,
    radius: Annotated[str | None, typer.Option(help="Where certified accuracy is told: 0.25,0.5.", show_default=False)] = None,
    denoiser: Annotated[
        str | None,
        typer.Option(help="A module put before the model: `package.module:factory`, a .pt2 file.", show_default=False),
    ] = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[
        Path | None, typer.Option(help="A folder for smoothing.json and report.html; runs/smooth-<time> without it.")
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs.certificates.smoothing import certify
    from mohs.cli.show import counting, fresh, tell
    from mohs.threat.grammar import number

    folder = out or fresh("smooth")
    with counting("certified") as watch:
        found = certify(
            model,
            data,
            sigma=sigma,
            norm=norm,
            noise=noise,
            samples=samples,
            selection=selection,
            alpha=alpha,
            at_radius=at_radius,
            radii=[number(part) for part in radius.split(",")] if radius else (),
            denoiser=denoiser,
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


def _show(found: Smoothed) -> None:
    facts, console = found.facts(), Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (f"{facts['norm']} radius", "certified accuracy", "95% interval"):
        table.add_column(heading, justify="right")
    for r in found.radii:
        score = found.accuracy(r)
        low, high = score.interval
        table.add_row(f"{r:g}", f"{score.low:.1%}", f"{low:.1%} to {high:.1%}")
    console.print(table)
    console.print(
        f"{facts['n']} examples under {facts['noise']} noise of sigma {facts['sigma']:g}: {found.wrong} of another class, "
        f"{found.abstained} without a certificate, {facts['open']} whose samples ran out\n"
        f"{facts['samples_mean']:,.0f} samples an example, {facts['seconds']:.1f} s. A certificate is of the smoothed classifier "
        f"and false with probability {facts['alpha']:g} at most ({facts['bound']})",
        highlight=False,
    )
