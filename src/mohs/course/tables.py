"""What the course draws from mohs's own tables: attacks and defences by year, which stands in the paper that each names; what
attacks which part of a system."""

from __future__ import annotations

import re
from dataclasses import dataclass

KINDS = ("attack", "defence", "training", "detector", "certificate")


@dataclass(frozen=True)
class Entry:
    """A method that mohs has. kind: of `KINDS`."""

    year: int
    kind: str
    name: str
    paper: str


def entries() -> list[Entry]:
    """By year, then kind, then name; what names no paper of others is left out."""
    from mohs import attacks, certificates, detectors, train
    from mohs.attacks.universal import craft
    from mohs.defend import table as defences

    named = [("attack", name, attacks.find(name).paper) for name in attacks.TABLE]
    named += [("attack", f"universal {name}", craft.find(name).paper) for name in craft.TABLE]
    named += [("defence", name, row.paper) for name, row in defences.TABLE.items()]
    named += [("training", name, train.find(name).paper) for name in (*train.RECIPES, *train.MODIFIERS)]
    named += [("detector", name, detectors.find(name).paper) for name in detectors.METHODS]
    named += [("certificate", name, kind.paper) for name, kind in certificates.METHODS.items()]
    found = [
        Entry(int(year[0]), kind, name, paper)
        for kind, name, paper in named
        if not paper.startswith("our own") and (year := re.search(r"(?:19|20)\d\d", paper))
    ]
    return sorted(found, key=lambda entry: (entry.year, KINDS.index(entry.kind), entry.name))


def parts() -> dict[str, list[tuple[str, int]]]:
    """The parts of a system -> the attacks on each, and how many mohs has of them."""
    from mohs import taxonomy

    has = taxonomy.covering()
    return {part: [(taxonomy.NIST[code], len(has[code])) for code in codes] for part, codes in taxonomy.PIPELINE.items()}
