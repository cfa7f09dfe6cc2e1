"""A run by the classes of the public taxonomies: which attacks and findings belong to which, and what they broke."""

from __future__ import annotations

from typing import Any

from mohs.report.tables import broken_by
from mohs.store.verdict import Verdict
from mohs.taxonomy import ATLAS, NIST, Place, of_attack, of_finding


def groups(verdict: Verdict) -> list[dict[str, Any]]:
    """A group a class, attacks before findings: nist, ir8269, atlas, names, and the cases that its stages were the first to
    break, None of findings. A stage of attacks of several classes counts under that of its first."""
    spec = verdict.run.spec
    names: dict[Place | None, list[str]] = {}
    broken: dict[Place | None, int] = {}
    for threat, plan in zip(verdict.threats, spec["plan"]["threats"], strict=True):
        first = broken_by(threat)
        for stage in plan["stages"]:
            if stage["inapplicable"] is not None:
                continue
            places = [of_attack(str(attack.get("attack"))) for attack in stage["attacks"]]
            for place, attack in zip(places, stage["attacks"], strict=True):
                names.setdefault(place, []).append(str(attack.get("attack")))
                broken.setdefault(place, 0)
            if places:
                broken[places[0]] += first.get(stage["name"], 0)
    found = [{**_words(place), "names": list(dict.fromkeys(names[place])), "broken": broken[place]} for place in names]
    told: dict[Place, list[str]] = {}
    for finding in spec.get("findings") or []:
        told.setdefault(of_finding(finding["code"]), []).append(f"finding {finding['code']}")
    return [*found, *({**_words(place), "names": list(dict.fromkeys(codes)), "broken": None} for place, codes in told.items())]


def _words(place: Place | None) -> dict[str, Any]:
    if place is None:
        return {"nist": ["not classified"], "ir8269": "", "atlas": []}
    nist, atlas = ([f"{code} {table[code]}" for code in codes] for codes, table in ((place.nist, NIST), (place.atlas, ATLAS)))
    return {"nist": nist, "ir8269": place.ir8269, "atlas": atlas}
