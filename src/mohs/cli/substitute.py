"""mohs substitute"""

from __future__ import annotations

import dataclasses
import hashlib
import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mohs.cli import options
from mohs.cli.probe import rate_of

HELP = "A network trained on a model's answers, to attack in its place: `mohs audit MODEL --surrogate substitute.pt2`."
EXAMPLE = "Example: `mohs substitute model.pt2 --data seed.npz --queries 6400 --out substitute.pt2`"


def command(
    model: Annotated[str, typer.Argument(help="A model as of `mohs audit`; an address with --describe.", show_default=False)],
    data: options.Data,
    out: Annotated[Path, typer.Option(help="The .pt2 that is written.", show_default=False)],
    queries: Annotated[int, typer.Option(help="Rows that the model is asked about, in all.", min=1)] = 6400,
    rounds: Annotated[int, typer.Option(help="Of augmentation, each of which doubles the inputs.", min=0)] = 6,
    lambda_: Annotated[float, typer.Option("--lambda", help="The step of augmentation, in parts of the range.")] = 0.1,
    architecture: Annotated[
        str | None, typer.Option(help="`package.module:factory`; by the input's shape without it.", show_default=False)
    ] = None,
    knowledge: Annotated[str, typer.Option(help="What it is trained on: `label` or `scores`.")] = "label",
    epochs: Annotated[int, typer.Option(help="Of training, a round.", min=1)] = 10,
    describe: Annotated[
        Path | None, typer.Option(help="The TOML file of an endpoint: see docs/probe.md.", show_default=False)
    ] = None,
    total: options.Total = None,
    spend: options.Spend = None,
    rate: options.Rate = None,
    i_am_authorised: options.Authorised = False,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    trust_pickle: options.TrustPickle = False,
    json: options.Json = False,
) -> int:
    from mohs.substituting import saved_as, substitute

    saved_as(out)
    chosen: dict[str, Any] = {
        "limit": limit,
        "seed": seed,
        "bounds": options.bounds_of(bounds),
        "outputs": outputs,
        "device": device,
        "trust_pickle": trust_pickle,
    }
    kept = None
    if describe is not None:
        chosen |= {"describe": describe, "total": total, "spend": spend, "rate": rate_of(rate)}
        chosen |= {"i_am_authorised": i_am_authorised}
        kept = _answers(out, model, describe)
    found = substitute(
        model,
        data,
        queries=queries,
        rounds=rounds,
        lambda_=lambda_,
        architecture=architecture,
        knowledge=knowledge,
        epochs=epochs,
        answers=kept,
        **chosen,
    )
    found.save(out)
    if json:
        facts = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "module"}
        typer.echo(json_module.dumps({**facts, "out": str(out)}, indent=1))
        return 0
    from mohs.report.words import count, percent

    sent = f", {count(int(found.account['sent']))} sent" if found.account else ""
    silent = f", {count(found.unanswered)} of them without an answer" if found.unanswered else ""
    rows = {
        "queries": f"{count(found.queries)} asked{sent}{silent}",
        "trained on": " → ".join(map(count, found.sizes)),
        "agreement": f"{percent(found.agreement)} on {count(found.held_out)} examples held out; "
        f"{percent(found.chance)} by the most frequent class",
        "written": str(out),
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    Console().print(table)
    return 0


def _answers(out: Path, url: str, describe: Path) -> Path | None:
    """Beside the substitute, by what is asked: the same words typed again ask nothing twice."""
    if not describe.is_file():
        return None  # which the description's reader says in better words
    name = hashlib.sha256(url.encode() + describe.read_bytes()).hexdigest()[:12]
    return out.with_suffix(f".{name}.sqlite")
