"""mohs attacks"""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mohs.cli import options
from mohs.errors import RequestError

HELP = (
    "Every attack mohs knows, or all about one of them; with --profiles the batteries an audit runs, with --goals which attack "
    "serves which goal."
)
GOALS = ("untargeted", "targeted:3", "source-target:0->3", "confidence:0.5", "topk:2")
EXAMPLE = "Example: `mohs attacks apgd`"
Rows = list[dict[str, Any]]


def command(
    name: Annotated[
        str | None, typer.Argument(help="One attack; `foolbox:Class`, `art:Class`, `torchattacks:Class` too.", show_default=False)
    ] = None,
    profiles: Annotated[bool, typer.Option("--profiles", help="List the profiles and what they are made of.")] = False,
    goals: Annotated[bool, typer.Option("--goals", help="List which attack serves which goal, and why not.")] = False,
    json: options.Json = False,
) -> int:
    if profiles + goals + (name is not None) > 1:
        raise RequestError("an attack's name, --profiles and --goals each ask for another list: give one of them")
    console = Console()
    if name is not None:
        told: Any = described(name)
    else:
        told = _profiles() if profiles else goals_served() if goals else listed()
    if json:
        typer.echo(json_module.dumps(told, indent=1))
        return 0
    if name is not None:
        for part in _page(told):
            console.print(part, soft_wrap=isinstance(part, str), markup=False, highlight=False)
        return 0
    shown = told if profiles or goals else [_short(row) for row in told]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in shown[0]:
        table.add_column(head, overflow="fold", no_wrap=head == "name", justify="right" if head.endswith("ward") else "left")
    for row in shown:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    return 0


def listed() -> Rows:
    """A row an attack; the passes are those of an example that survives, against ten classes."""
    from mohs import attacks

    return [_facts(name) for name in sorted(attacks.table())]


def _facts(name: str) -> dict[str, Any]:
    from mohs import attacks

    kind = attacks.find(name)
    forwards, backwards = kind().passes(10)
    return {
        "name": name,
        "paper": kind.paper,
        "needs": str(kind.knowledge),
        "sets": " ".join(kind.sets),
        "looks for": "the nearest success" if kind.minimal else "a success in budget",
        "passes (10 classes)": f"{forwards} forward, {backwards} backward" if forwards + backwards else "not known beforehand",
    }


def _short(row: dict[str, Any]) -> dict[str, str]:
    """What of a row fits into 80 columns; `mohs attacks NAME` has the rest."""
    forwards, backwards = (part.split()[0] for part in row["passes (10 classes)"].split(", "))
    return {
        "name": row["name"],
        "needs": row["needs"],
        "finds": "nearest" if row["looks for"].startswith("the nearest") else "in budget",
        "forward": forwards,
        "backward": backwards,
        "sets": row["sets"],
    }


def described(name: str) -> dict[str, Any]:
    """All about one attack: its row, its docstring in parts, its options with their defaults, the goals it serves."""
    from mohs import attacks
    from mohs.attacks.about import about

    kind = attacks.find(name)
    said = about(kind)
    return {
        **_facts(name),
        "method": list(said.method),
        "when to use": said.when,
        "options": kind().spec(),
        "goals": goals_of(name),
        "example": said.example,
    }


def _page(one: dict[str, Any]) -> Iterator[Any]:
    yield Text(one["name"], style="bold")
    yield Text(one["paper"].replace("arXiv:", "https://arxiv.org/abs/"))
    for text in one["method"]:
        yield Padding(Text(text), (1, 0, 0, 0))
    if one["when to use"]:
        yield Padding(Text.assemble(("When to use: ", "bold"), one["when to use"]), (1, 0, 0, 0))
    facts = Table.grid(padding=(0, 2))
    for key in ("needs", "sets", "looks for", "passes (10 classes)"):
        facts.add_row(Text(key, style="bold"), one[key])
    for goal, answer in one["goals"].items():
        facts.add_row(Text(f"goal {goal}", style="bold"), answer)
    yield Padding(facts, (1, 0, 1, 0))
    yield Text(f"Options of `mohs attack {one['name']}`, with their defaults", style="bold")
    choices = Table.grid(padding=(0, 2))
    for option, default in one["options"].items():
        choices.add_row(f"  --{option.replace('_', '-')}", str(default))
    yield choices
    if one["example"]:
        yield Text("\nExample", style="bold")
        yield one["example"]


def _profiles() -> Rows:
    from mohs.engine.profiles import PROFILES, outline

    return [
        {"profile": f"{profile.name} {profile.version}", "threat": norm, "stages": stages, "what": profile.words}
        for profile in PROFILES.values()
        for norm, stages in outline(profile).items()
    ]


def goals_served() -> Rows:
    """Of each attack, whether it serves each goal against a model of ten classes: yes, or the reason of its refusal."""
    from mohs import attacks

    return [{"name": name, **goals_of(name)} for name in sorted(attacks.table())]


def goals_of(name: str) -> dict[str, str]:
    from mohs import attacks
    from mohs.engine.profiles import EVERY, TenClasses
    from mohs.errors import Refused
    from mohs.threat import parse_goal

    kind = attacks.find(name)
    threat = next(threat for threat in EVERY if threat.name in kind.sets)

    def answer(goal: str) -> str:
        try:
            kind().check(threat.minimal() if kind.minimal else threat, parse_goal(goal), TenClasses())
        except Refused as reason:
            return f"no: {reason}"
        except RequestError:
            return "yes, given what it must be given"
        return "yes"

    return {goal.partition(":")[0]: answer(goal) for goal in GOALS}
