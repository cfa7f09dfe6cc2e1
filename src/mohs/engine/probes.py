"""The battery behind `mohs probe`: one attack, the best that the table has for what an endpoint gives, within a budget of
queries an example."""

from __future__ import annotations

import math
from dataclasses import fields

from mohs import attacks
from mohs.attacks.base import Attack
from mohs.engine.profiles import PROFILES, Profile, Step
from mohs.engine.transfers import transferred
from mohs.errors import RequestError
from mohs.models import Model
from mohs.threat import Knowledge, Threat

NAME = "probe"
FEWEST = 10  # queries with which anything can be looked for
AVERAGED = 4  # answers of an endpoint that is not deterministic, in place of one

# What to take first where it serves; then whatever else in the table counts its queries. By scores in linf Parsimonious, from
# coarse blocks, takes 0.7 of the queries that Square takes (cifar_cnn_a_adv, 8/255: the benchmark `square`). By labels, RayS
# needs the fewest in linf and HopSkipJump goes furthest in l2.
FIRST: dict[tuple[Knowledge, str], tuple[str, ...]] = {
    (Knowledge.SCORES, "linf"): ("parsimonious", "square"),
    (Knowledge.SCORES, "l2"): ("square",),
    (Knowledge.SCORES, "l1"): ("square",),
    (Knowledge.SCORES, "l0"): ("sparse-rs",),
    (Knowledge.LABEL, "linf"): ("rays", "hop-skip-jump"),
    (Knowledge.LABEL, "l2"): ("hop-skip-jump", "surfree"),
}
SETTINGS: dict[str, dict[str, object]] = {
    "square": {"p": 0.8, "rescale_schedule": True},
    "parsimonious": {"start": 0.5},
}


def probing(queries: int, *, aided: bool = False) -> Profile:
    """The profile of a budget: an example costs `queries` at most, the clean one and the last word on it included. aided: the
    adversary has surrogates to start on, and to stay with where the threat lets nothing be asked."""
    if queries < FEWEST:
        raise RequestError(f"--queries {queries} is too few to look for anything; give at least {FEWEST}")

    def compose(threat: Threat, model: Model) -> list[Step]:
        if threat.knowledge == Knowledge.TRANSFER and aided:
            return transferred(PROFILES["standard"]).compose(threat, model)
        name, why = choose(threat, model, aided=aided)
        attack = attacks.make({"attack": name, spender(name) or "": queries - 2, **SETTINGS.get(name, {})})
        return [Step(name, (attack,), note=why)]

    words = f"one attack by queries alone, the best for what the endpoint gives, of at most {queries} queries an example"
    return Profile(NAME, "1", words, compose, draws=AVERAGED)


def choose(threat: Threat, model: Model, *, aided: bool = False) -> tuple[str, str]:
    """The attack of a probe by its name in the table, and why; RequestError where there is none."""
    known = min(threat.knowledge, model.gives)
    if aided:
        name = "hybrid" if known >= Knowledge.SCORES else "hybrid-label"
        if threat.name not in attacks.find(name).sets:
            raise RequestError(f"attacks that start on surrogates move in linf and l2, and not in {threat.name}: leave them out")
        return name, f"chosen for {threat.name}: the adversary has surrogates to start on, and sees {_SEES[known]}"
    first = FIRST.get((known, threat.name), ())
    for name in (*first, *(name for name in attacks.table() if name not in first)):
        if name in attacks.table() and spender(name) is not None and _serves(attacks.find(name), threat, known):
            return name, f"chosen for {threat.name}: the adversary sees {_SEES[known]}, and `{name}` asks for no more"
    raise RequestError(
        f"no attack in the table moves in {threat.name} by {_SEES[known]} alone within a budget of queries; "
        "`mohs attacks` lists which sets and which knowledge each attack has"
    )


_SEES = {
    Knowledge.TRANSFER: "nothing",
    Knowledge.LABEL: "labels",
    Knowledge.SCORES: "scores",
    Knowledge.GRADIENT: "gradients",
}


def spender(name: str) -> str | None:
    """The field by which an attack is given its queries; None of one that does not count them."""
    names = {field.name for field in fields(attacks.find(name))}
    return "queries" if "queries" in names else "k" if name == "worst-of-k" else None


def _serves(kind: type[Attack], threat: Threat, known: Knowledge) -> bool:
    wanted = not kind.aided and (kind.minimal or threat.epsilon < math.inf)
    return wanted and Knowledge.TRANSFER < kind.knowledge <= known and threat.name in kind.sets
