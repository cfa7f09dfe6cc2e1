"""The timeline of attacks and defences, from mohs's own tables: the year stands in the paper that each names."""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS = ("attack", "training", "detector")


@dataclass(frozen=True)
class Entry:
    """A method that mohs has. kind: of `KINDS`."""

    year: int
    kind: str
    name: str
    paper: str


def entries() -> list[Entry]:
    """By year, then kind, then name; what names no paper of others is left out."""
    from mohs import attacks, detectors, train

    named = [("attack", name, attacks.find(name).paper) for name in attacks.TABLE]
    named += [("training", name, train.find(name).paper) for name in (*train.RECIPES, *train.MODIFIERS)]
    named += [("detector", name, detectors.find(name).paper) for name in detectors.METHODS]
    found = [
        Entry(int(year[0]), kind, name, paper)
        for kind, name, paper in named
        if not paper.startswith("our own") and (year := re.search(r"(?:19|20)\d\d", paper))
    ]
    return sorted(found, key=lambda entry: (entry.year, KINDS.index(entry.kind), entry.name))
