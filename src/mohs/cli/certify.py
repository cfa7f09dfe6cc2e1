"""mohs certify"""

from __future__ import annotations

import json as json_module
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mohs.cli import options

HELP = "Proofs that no input of a threat changes the class: the lower bound beside what attacks find."
EXAMPLE = "Example: `mohs certify model.pt2 --data test.npz --threat linf:2/255 --method crown`"


def command(
    model: options.Model,
    data: options.Data,
    threat: options.Threats,
    method: options.Method = "crown",
    seconds: options.Seconds = None,
    goal: options.Goal = "untargeted",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    outputs: options.Outputs = "logits",
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    trust_pickle: options.TrustPickle = False,
    time: Annotated[str | None, typer.Option(help="What can be proved in so long: 90s, 10m, 2h.", show_default=False)] = None,
    require: Annotated[list[str] | None, typer.Option(help="`linf:8/255 >= 0.45`, on what is proved.")] = None,
    confident: Annotated[list[str] | None, typer.Option(help="The same, on the lower 95% bound.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/certify-<time> without it.", show_default=False)] = None,
    json: options.Json = False,
) -> int:
    from mohs import auditing as job_of
    from mohs.cli.show import errors, verdict_line, watching
    from mohs.report import write_report
    from mohs.report.policy import check, parse_requirement
    from mohs.report.proofs import summary
    from mohs.report.tables import as_json
    from mohs.store import Run
    from mohs.store.verdict import verdict_of

    for line in (*(require or []), *(confident or [])):
        parse_requirement(line, threat)
    chosen: dict[str, Any] = {
        "profile": "certify",
        "certify": True,
        "method": options.method_of(method, seconds),
        "goal": goal,
        "limit": limit,
        "seed": seed,
        "bounds": options.bounds_of(bounds),
        "outputs": outputs,
        "device": device,
        "rows": rows,
        "trust_pickle": trust_pickle,
        "time": options.seconds_of(time),
        "require": require or [],
        "confident": confident or [],
    }
    given = {name: value for name, value in chosen.items() if value != job_of.Request.model_fields[name].default}
    work = job_of.make_job(model, data, threats=threat, **given)
    for finding in work.findings:
        errors.print(f"[yellow]{finding.severity}[/]: {finding.message}", highlight=False)
    folder = out or Path("runs") / f"certify-{datetime.now():%Y%m%d-%H%M%S-%f}"
    run = Run.create(folder, job_of.describe(work))
    with watching(folder) as watch:
        job_of.carry_out(run, work, watch)
    verdict = verdict_of(run)
    requirements = check(require or [], confident or [], verdict)
    report = write_report(run, folder / "report.html")
    if json:
        typer.echo(json_module.dumps(as_json(verdict, requirements), indent=1))
    else:
        console = Console()
        console.print(summary(verdict))
        for requirement in requirements:
            console.print(verdict_line(requirement))
        console.print(f"report: {report}", soft_wrap=True, highlight=False)
    return 0 if all(line.met for line in requirements) else 1
