"""mohs demo"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mohs.cli import options
from mohs.errors import RunFailed
from mohs.store.verdict import Verdict

HELP = "Train two small networks on the embedded digits, one as usual and one on attacked images, and audit both."
EXAMPLE = "Example: `mohs demo`"


def command(
    out: Annotated[
        Path | None, typer.Option(help="Where the two runs go; runs/demo-<time> without it.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> int:
    import json as json_module

    from rich.console import Console

    from mohs.auditing import audit
    from mohs.cli.show import errors, fresh, watching
    from mohs.demo import load_demo
    from mohs.report import write_report
    from mohs.report.tables import as_json
    from mohs.report.terminal import summary

    folder = out or fresh("demo")
    results = {}
    for variant in ("standard", "robust"):
        started = time.perf_counter()
        load_demo(f"demo:{variant}")
        errors.print(f"demo:{variant} ready after {time.perf_counter() - started:.1f} s")
        with watching(folder / variant) as watch:
            threats = ["linf:0.2"]
            results[variant] = audit(f"demo:{variant}", "digits", threats=threats, out=folder / variant, watch=watch)
    reports = {name: write_report(result.run, result.run.folder / "report.html") for name, result in results.items()}
    if json:
        typer.echo(json_module.dumps({name: as_json(result.verdict) for name, result in results.items()}, indent=1))
    else:
        console = Console()
        for name, result in results.items():
            console.rule(f"[bold]{name} training")
            console.print(summary(result.verdict))
        console.rule()
        console.print(_lesson(results["standard"].verdict, results["robust"].verdict))
        for name, report in reports.items():
            console.print(f"report of {name}: {report}", soft_wrap=True, highlight=False)
    _check(results["standard"].verdict, results["robust"].verdict)
    return 0


def _lesson(standard: Verdict, robust: Verdict) -> str:
    one, two = standard.threats[0].score, robust.threats[0].score
    return (
        f"Accuracy is no longer sufficient: {standard.clean.low:.1%} and {robust.clean.low:.1%} on clean digits, "
        f"[bold]{one.low:.1%} and {two.low:.1%}[/] where an adversary may move every pixel by 0.2."
    )


def _check(standard: Verdict, robust: Verdict) -> None:
    """The lesson must hold, or the demo fails loudly."""
    gap = abs(standard.clean.low - robust.clean.low)
    one, two = standard.threats[0].score.high, robust.threats[0].score.low
    if gap > 0.03 or one > 0.05 or two < 0.55:
        raise RunFailed(
            f"the demo did not come out as it should: clean accuracies {gap:.1%} apart (at most 3%), robust accuracy of the "
            f"standard model {one:.1%} (at most 5%), of the robust one {two:.1%} (at least 55%); please report this with the runs"
        )
