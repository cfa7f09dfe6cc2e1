"""mohs probe"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from mohs.cli import options
from mohs.errors import RequestError

HELP = "How much can an adversary do to a model behind an HTTP endpoint, by asking it? Never twice, nor beyond a budget."
EXAMPLE = (
    "Example: `mohs probe http://127.0.0.1:8080/predict --describe endpoint.toml --data test.npz --threat linf:8/255 "
    "--queries 5000 --rate 50/s`"
)


def command(
    url: Annotated[str, typer.Argument(help="The endpoint's address.", show_default=False)],
    describe: Annotated[str, typer.Option(help="The TOML file that says how it is asked: see docs/probe.md.")],
    data: options.Data,
    threat: Annotated[list[str] | None, typer.Option(help="`linf:8/255`, `l2:0.5` and the like.", show_default=False)] = None,
    queries: Annotated[int, typer.Option(help="That an example may cost; of --explore, in all.", min=1)] = 5000,
    total: options.Total = None,
    spend: options.Spend = None,
    rate: options.Rate = None,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            help="A model of your own, such as `mohs substitute` makes, to start on; all there is with `+knowledge:transfer`.",
            show_default=False,
        ),
    ] = None,
    explore: Annotated[bool, typer.Option("--explore", help="No attack: what an adversary learns in --queries queries.")] = False,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Evade a guard: queries under the least noise that it lets pass, found by trial.")
    ] = False,
    i_am_authorised: options.Authorised = False,
    goal: options.Goal = "untargeted",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    rows: options.Rows = 128,
    require: Annotated[
        list[str] | None, typer.Option(help="`linf:8/255 >= 0.45`, on the estimate with undecided as broken.")
    ] = None,
    confident: Annotated[list[str] | None, typer.Option(help="The same, on the lower 95% bound.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/probe-<time> without it.", show_default=False)] = None,
    json: options.Json = False,
) -> int:
    from mohs.cli.running import carried_out, given
    from mohs.cli.show import errors, finish, fresh, tell
    from mohs.engine.probes import NAME
    from mohs.jobs import make_job
    from mohs.models.http import load_endpoint
    from mohs.probing import against
    from mohs.report.policy import parse_requirement
    from mohs.store.verdict import verdict_of

    chosen: dict[str, Any] = {
        "profile": NAME,
        "describe": describe,
        "queries": queries,
        "total": total,
        "spend": spend,
        "rate": rate_of(rate),
        "i_am_authorised": i_am_authorised,
        "adapt": adapt,
        "goal": goal,
        "limit": limit,
        "seed": seed,
        "bounds": options.bounds_of(bounds),
        "rows": rows,
        "require": require or [],
        "confident": confident or [],
    }
    if explore and adapt:
        raise RequestError("--adapt evades a guard in an attack, and --explore makes none: leave one out")
    if explore:
        from mohs.cli.explore import show_exploration

        return show_exploration(url, data, {"queries": queries, **given(chosen)}, json)
    texts = against(load_endpoint(describe, url), threat or [])
    for line in (*(require or []), *(confident or [])):
        parse_requirement(line, texts)
    work = make_job(url, data, threats=texts, surrogates=surrogate or [], **given(chosen))
    tell(work.findings)
    for planned in work.plan.threats:
        errors.print(f"{planned.text}: {planned.stages[0].note}", highlight=False, markup=False, soft_wrap=True)
    folder = out or fresh("probe")
    run = carried_out(work, folder)
    return finish(run, verdict_of(run), json, require or [], confident or [])


def rate_of(text: str | None) -> float | None:
    """`50/s`, `600/m` as queries a second."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?", text.strip())
    if not found or float(found[1]) == 0:
        raise RequestError(f"--rate should read 50/s, 600/m or 1000/h; not {text!r}")
    return float(found[1]) / {None: 1, "s": 1, "m": 60, "h": 3600}[found[2]]
