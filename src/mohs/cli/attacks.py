"""mohs attacks"""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mohs.cli import options

HELP = "Every attack mohs knows, or with --profiles the batteries an audit runs, or with --goals which attack serves which goal."
GOALS = ("untargeted", "targeted:3", "source-target:0->3", "confidence:0.5", "topk:2")
EXAMPLE = "Example: `mohs attacks --profiles`"


def command(
    profiles: Annotated[bool, typer.Option("--profiles", help="List the profiles and what they are made of.")] = False,
    goals: Annotated[bool, typer.Option("--goals", help="List which attack serves which goal, and why not.")] = False,
    json: options.Json = False,
) -> int:
    rows = _profiles() if profiles else goals_served() if goals else _attacks()
    if json:
        typer.echo(json_module.dumps(rows, indent=1))
        return 0
    table = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    return 0


def _attacks() -> list[dict[str, object]]:
    from mohs import attacks

    rows: list[dict[str, object]] = []
    for name in sorted(attacks.table()):
        kind = attacks.find(name)
        forwards, backwards = kind().passes(10)
        rows.append(
            {
                "name": name,
                "paper": kind.paper,
                "needs": str(kind.knowledge),
                "sets": " ".join(kind.sets),
                "looks for": "the nearest success" if kind.minimal else "a success in budget",
                "passes (10 classes)": f"{forwards} forward, {backwards} backward",
            }
        )
    return rows


def _profiles() -> list[dict[str, object]]:
    from mohs.engine.profiles import PROFILES, outline

    rows: list[dict[str, object]] = []
    for profile in PROFILES.values():
        for norm, stages in outline(profile).items():
            rows.append(
                {
                    "profile": f"{profile.name} {profile.version}",
                    "threat": norm,
                    "stages": stages,
                    "what": profile.words,
                }
            )
    return rows


def goals_served() -> list[dict[str, object]]:
    """Of each attack, whether it serves each goal against a model of ten classes: yes, or the reason of its refusal."""
    from mohs import attacks
    from mohs.engine.profiles import EVERY, TenClasses
    from mohs.errors import Refused, RequestError
    from mohs.threat import parse_goal

    def answer(name: str, goal: str) -> str:
        kind = attacks.find(name)
        threat = next(threat for threat in EVERY if threat.name in kind.sets)
        try:
            kind().check(threat.minimal() if kind.minimal else threat, parse_goal(goal), TenClasses())
        except Refused as reason:
            return f"no: {reason}"
        except RequestError:
            return "yes, given what it must be given"
        return "yes"

    return [{"name": name, **{goal.partition(":")[0]: answer(name, goal) for goal in GOALS}} for name in sorted(attacks.table())]
