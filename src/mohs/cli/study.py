"""mohs study"""

from __future__ import annotations

import json as json_module
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mohs.cli import options

HELP = "A question about a model that takes more than one attack: `difficulty`. The study's own options are options here."
EXAMPLE = (
    "Example: `mohs study difficulty model.pt2 --data test.npz --threat linf:8/255 --queries 1000 --surrogate substitute.pt2`"
)
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="`difficulty`: what an adversary wants against what they see.", show_default=False)],
    model: options.Model,
    data: options.Data,
    surrogate: Annotated[
        list[str] | None, typer.Option(help="A model of the adversary's own. As often as wanted.", show_default=False)
    ] = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    out: Annotated[
        Path | None, typer.Option(help="The HTML page; runs/study-<name>-<time>.html without it.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs import study as table
    from mohs.auditing import load, load_surrogate, make_request
    from mohs.cli.show import errors
    from mohs.data import load_data
    from mohs.models.contract import check_contract
    from mohs.report.study import summary, write_page
    from mohs.study.base import Subject

    kind = table.find(name)
    made = kind.from_spec(dict(options.own(context.args)))
    said: dict[str, Any] = {"bounds": options.bounds_of(bounds), "outputs": outputs, "device": device, "rows": rows, "seed": seed}
    examples = load_data(data, limit=limit, seed=seed)
    request = make_request(model, data, [], {**said, "trust_pickle": trust_pickle})
    subject = load(model, examples.x, request)
    for finding in check_contract(subject, examples.x, examples.y):
        errors.print(f"[yellow]{finding.severity}[/]: {finding.message}", highlight=False)
    own = tuple(load_surrogate(text, examples.x, request) for text in surrogate or [])
    with errors.status(name) as status:
        found = made.run(Subject(subject, examples, own, said, status.update)).plain()
    now = datetime.now(UTC)
    about = {
        "name": name,
        "title": (kind.__doc__ or name).splitlines()[0],
        "model": subject.name,
        "data": examples.name,
        "n": len(examples),
        "settings": made.spec(),
        "command": _command(name, model, data, made.spec(), surrogate or [], said | {"limit": limit}),
        "mohs": metadata.version("mohs"),
        "created": now.isoformat(timespec="seconds"),
    }
    page = write_page(found, about, out or Path("runs") / f"study-{name}-{now:%Y%m%d-%H%M%S-%f}.html")
    if json:
        typer.echo(json_module.dumps({**about, **found, "page": str(page)}, indent=1))
        return 0
    console = Console()
    console.print(summary(found))
    console.print(f"page: {page}", soft_wrap=True, highlight=False)
    return 0


def _command(name: str, model: str, data: str, spec: dict[str, object], surrogates: list[str], said: dict[str, Any]) -> str:
    import shlex

    words = ["mohs", "study", name, model, "--data", data]
    words += [word for text in surrogates for word in ("--surrogate", text)]
    for option, value in {**spec, **said}.items():
        if value is not None:
            words += [f"--{option.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)
