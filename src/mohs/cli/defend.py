"""mohs defend"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mohs.cli import options
from mohs.errors import RequestError

if TYPE_CHECKING:
    from mohs.defending import Defended

HELP = (
    "Put defences before a model and measure what they cost and what they are worth; with --audit, against an adversary who "
    "does not know of them and one who does. Without MODEL, every defence mohs knows."
)
EXAMPLE = (
    "Example: `mohs defend model.pt2 --with jpeg:75 --with median:2 --data test.npz --audit --threat linf:8/255 --profile quick`"
)
Maybe = Annotated[str | None, typer.Argument(help="As of `mohs audit`. Without it, the defences are listed.", show_default=False)]


def command(
    model: Maybe = None,
    with_: options.With = None,
    data: Annotated[str | None, typer.Option("--data", help="As of `mohs audit`.", show_default=False)] = None,
    audit: Annotated[bool, typer.Option("--audit", help="Attack the model without, around and through them.")] = False,
    threat: Annotated[
        list[str] | None, typer.Option("--threat", help="`linf:8/255` and the like, for --audit.", show_default=False)
    ] = None,
    profile: Annotated[str, typer.Option(help="`quick`, `standard`, `deep`: `mohs attacks --profiles`.")] = "standard",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the runs go; runs/defend-<time> without it. The same command goes on.", show_default=False),
    ] = None,
    json: options.Json = False,
) -> int:
    if model is None:
        if with_ or data or audit or threat:
            raise RequestError("a model is to be named, to be defended: mohs defend MODEL --with jpeg:75 --data DATA")
        return _list(json)
    if data is None or not with_:
        raise RequestError("say what stands before the model and what it is measured on: --with jpeg:75 --data DATA")
    if audit != bool(threat):
        raise RequestError("--audit and --threat go together: what to audit against, such as --audit --threat linf:8/255")
    from mohs.cli.show import fresh, watching
    from mohs.defending import defend
    from mohs.report import write_report
    from mohs.request import Request

    chosen: dict[str, Any] = {"limit": limit, "seed": seed, "bounds": options.bounds_of(bounds), "outputs": outputs}
    chosen |= {"device": device, "rows": rows, "trust_pickle": trust_pickle, "profile": profile}
    given = {name: value for name, value in chosen.items() if value != Request.model_fields[name].default}
    folder = out or fresh("defend")
    with watching(folder) as watch:
        found = defend(model, data, defences=with_, threats=threat or [], out=folder, watch=watch, **given)
    reports = {name: str(write_report(r.run, r.run.folder / "report.html")) for name, r in found.results.items()}
    if json:
        typer.echo(json_module.dumps({**_facts(found), "reports": reports}, indent=1))
    else:
        _print(found, reports)
    return 0


def _facts(found: Defended) -> dict[str, Any]:
    return {
        "defences": list(found.defences),
        "n": found.n,
        "clean_accuracy": {"before": found.before, "after": found.after},
        "latency_factor": round(found.latency, 2),
        "robust_accuracy": found.robust_accuracy,
    }


def _print(found: Defended, reports: dict[str, str]) -> None:
    console = Console()
    before = "" if found.before is None else f"{found.before:.1%} without, "
    console.print(f"clean accuracy: {before}[bold]{found.after:.1%}[/] behind {escape(', '.join(found.defences))}; n = {found.n}")
    console.print(f"a pass takes {found.latency:.3g} times as long", highlight=False)
    heads = {
        "before": "without",
        "naive": "naive: attacked\nwithout, judged behind",
        "adaptive": "adaptive: attacked\nthrough (BPDA, EOT)",
        "worse": "worse of both,\nexample by example",
    }
    if found.results:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("robust accuracy at")
        shown = list(heads) if "naive" in found.results else ["adaptive"]
        for name in shown:
            table.add_column(heads[name], justify="right")
        for text, shares in found.robust_accuracy.items():
            table.add_row(escape(text), *(f"{shares[name]:.1%}" for name in shown))
        console.print(table)
        console.print(f"profile {escape(found.results['adaptive'].verdict.profile)}", highlight=False)
    for name, report in reports.items():
        console.print(f"report, {name}: {report}", soft_wrap=True, highlight=False)


def listed() -> list[dict[str, Any]]:
    """A row a defence."""
    from mohs.defend.table import TABLE, settings

    return [
        {
            "name": name,
            "settings": settings(name),
            "paper": row.paper,
            "differentiable": row.differentiable,
            "random": row.random,
            "cost": row.cost,
            "broken by": row.falls,
        }
        for name, row in TABLE.items()
    ]


def _list(json: bool) -> int:
    rows = listed()
    if json:
        typer.echo(json_module.dumps(rows, indent=1))
        return 0
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in rows[0]:
        table.add_column(head, overflow="fold", no_wrap=head == "name")
    for row in rows:
        taken = ", ".join(key if value is None else f"{key}={value}" for key, value in row["settings"].items())
        cells = {**row, "settings": taken, "differentiable": _word(row["differentiable"]), "random": _word(row["random"])}
        table.add_row(*(escape(str(cell)) for cell in cells.values()))
    Console().print(table)
    return 0


def _word(yes: bool) -> str:
    return "yes" if yes else "no"
