"""How a command of the engine asks, begins and carries out its run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mohs.auditing import carry_out
from mohs.cli.show import watching
from mohs.jobs import describe
from mohs.request import Request
from mohs.store import Run

if TYPE_CHECKING:
    from mohs.jobs import Job


def given(chosen: dict[str, Any]) -> dict[str, Any]:
    """Those options that are not their defaults."""
    return {name: value for name, value in chosen.items() if value != Request.model_fields[name].default}


def carried_out(work: Job, folder: Path) -> Run:
    """The job's run, done, in a new folder."""
    run = Run.create(folder, describe(work))
    with watching(folder) as watch:
        carry_out(run, work, watch)
    return run
