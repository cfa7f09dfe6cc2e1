"""What a run shows while it goes, and when it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mohs.report.policy import Requirement, check
from mohs.store import Run
from mohs.store.verdict import Verdict

if TYPE_CHECKING:
    from mohs.auditing import Watcher
    from mohs.engine.execute import Progress as Seen
    from mohs.models.contract import Finding

errors = Console(stderr=True)


def fresh(name: str) -> Path:
    """A folder under runs that no other command has."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def tell(findings: Iterable[Finding], of: str = "") -> None:
    """What was noticed about a model, on standard error."""
    for finding in findings:
        errors.print(f"[yellow]{of}{finding.severity}[/]: {escape(finding.message)}", highlight=False)


@contextmanager
def watching(run_folder: object, *, resumable: bool = True) -> Iterator[Watcher]:
    """Live progress on standard error; says when stopped how to resume, where that can be done."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[standing]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=not errors.is_terminal, disable=not errors.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def watch(seen: Seen) -> None:
            name = f"{seen.threat} {seen.stage}".strip()
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=seen.total, standing="")
            share = f"{seen.standing / max(1, seen.n):.1%} standing"
            bars.update(tasks[name], completed=seen.done, standing=share)

        try:
            yield watch
        except KeyboardInterrupt:
            if resumable:
                errors.print(f"[yellow]stopped; what is done is kept. Go on with:[/] mohs resume {run_folder}")
            raise


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Live progress of examples on standard error: call it with how many are done, of how many."""
    columns = (TextColumn(f"[bold]{what}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, n: bars.update(task, completed=done, total=n)


def finish(
    run: Run,
    verdict: Verdict,
    as_json: bool,
    require: list[str],
    confident: list[str],
    out: Path | None = None,
    *,
    summary: Callable[[Verdict], RenderableType] | None = None,
) -> int:
    """Print the verdict, by a summary other than an audit's where one is given, settle the policy, name the report; the exit
    code."""
    from mohs.report import terminal, write_report
    from mohs.report.junit import junit_xml
    from mohs.report.tables import as_json as to_json

    requirements = check(require, confident, verdict.scores)
    report = write_report(run, out or run.folder / "report.html")
    if requirements:
        (run.folder / "junit.xml").write_text(junit_xml(verdict, requirements))
    if as_json:
        typer.echo(json.dumps(to_json(verdict, requirements), indent=1))
    else:
        console = Console()
        console.print((summary or terminal.summary)(verdict))
        for line in requirements:
            console.print(verdict_line(line))
        console.print(f"report: {report}", soft_wrap=True, highlight=False)
    return 0 if all(line.met for line in requirements) else 1


def verdict_line(requirement: Requirement) -> str:
    """A line of a policy, and whether it is met."""
    said = "[green]met[/]" if requirement.met else "[red]not met[/]"
    return f"{said}: {requirement.text} (measured {requirement.value:.4g})"
