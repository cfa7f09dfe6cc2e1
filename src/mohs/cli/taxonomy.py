"""mohs taxonomy"""

from __future__ import annotations

import json as json_module

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from mohs.cli import options

HELP = "The classes of NIST AI 100-2 and MITRE ATLAS, with what mohs has of each, and what it has not."
EXAMPLE = "Example: `mohs taxonomy --json`"


def command(json: options.Json = False) -> int:
    from mohs import taxonomy

    found = taxonomy.covering()
    if json:
        both = {"nist_ai_100_2": taxonomy.NIST, "mitre_atlas": taxonomy.ATLAS}
        told = {
            title: [{"id": code, "name": name, "mohs": found[code]} for code, name in table.items()]
            for title, table in both.items()
        }
        typer.echo(json_module.dumps(told, indent=1))
        return 0
    console = Console()
    nist = Tree(Text("NIST AI 100-2 E2025", style="bold"))
    for parent in taxonomy.PARENTS:
        branch = nist.add(_line(parent, taxonomy.NIST[parent], found[parent], leaf=False))
        for code, name in taxonomy.NIST.items():
            if code != parent and code.startswith(parent):
                branch.add(_line(code, name, found[code]))
    atlas = Tree(Text("MITRE ATLAS 5", style="bold"))
    for title, letter in (("Techniques", "T"), ("Mitigations", "M")):
        branch = atlas.add(title)
        for code, name in taxonomy.ATLAS.items():
            if code.startswith(f"AML.{letter}"):
                branch.add(_line(code, name, found[code]))
    console.print(nist)
    console.print(atlas)
    return 0


def _line(code: str, name: str, has: list[str], *, leaf: bool = True) -> Text:
    if not has:
        return Text.assemble((f"{code} {name}", "" if not leaf else "dim"), (": not covered" if leaf else "", "yellow"))
    return Text.assemble((f"{code} {name}", "bold" if not leaf else ""), f": {len(has)} ({', '.join(has)})")
