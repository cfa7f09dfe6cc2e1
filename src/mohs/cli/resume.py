"""mohs resume"""

from __future__ import annotations

from mohs.cli import options

HELP = "Go on with a run that was stopped, killed or ran out of disk: nothing committed is done again."
EXAMPLE = "Example: `mohs resume runs/demo-20260101-120000`"


def command(run: options.Folder, json: options.Json = False) -> int:
    from mohs.auditing import resume
    from mohs.cli.show import finish, watching

    with watching(run) as watch:
        result = resume(run, watch=watch)
    asked = {**result.run.spec["request"]["defaulted"], **result.run.spec["request"]["given"]}
    return finish(result.run, result.verdict, json, asked["require"], asked["confident"])
