"""The plan of an audit, printed by --dry-run."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mohs.jobs import Job


def show_plan(job: Job, as_json: bool) -> None:
    """Stages with their passes, memory and time at most."""
    from mohs.engine.estimate import estimate

    plan, cost = job.plan, estimate(job.plan, job.prepared, job.data.x[:64])
    if as_json:
        typer.echo(json.dumps({"plan": plan.model_dump(), "estimate": dataclasses.asdict(cost)}, indent=1))
        return
    table = Table("threat", "stage", "forward passes", "backward passes", "at most", box=None, header_style="bold")
    for stage in cost.stages:
        known = [f"{stage.forwards:,}", f"{stage.backwards:,}", f"{stage.seconds:.0f} s"]
        table.add_row(stage.threat, stage.stage, *(known if stage.forwards else ["not known beforehand", "", ""]))
    for threat in plan.threats:
        for skipped in threat.stages:
            if skipped.inapplicable:
                table.add_row(threat.text, skipped.name, f"inapplicable: {skipped.inapplicable}", "", "")
    out = Console()
    out.print(table)
    out.print(
        f"{plan.n} examples in cohorts of {plan.cohort}, micro-batches of {plan.rows} padded to multiples of {plan.quantum}, "
        f"processes: {plan.processes}, threads in each: {plan.threads}; "
        f"profile {plan.profile['name']} {plan.profile['version']}",
        highlight=False,
    )
    out.print(
        f"at most {cost.seconds:.0f} s, as if nothing were broken; about {cost.memory / 2**20:.0f} MiB besides model and data"
    )
