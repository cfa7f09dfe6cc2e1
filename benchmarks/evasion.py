"""What a guard is worth against attacks that know of it: python -m benchmarks.evasion CASE LINF L2 IMAGES QUERIES WINDOW

Attacks on IMAGES clean test images, each against a detector that has seen nothing yet and refuses: as they are, under the
least noise that passes, and from five accounts. The noise is found on 40 other images and a detector of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import case
from benchmarks.guards import blacklight
from mohs.attacks import HopSkipJump, RayS, Square
from mohs.attacks.base import Attack
from mohs.ledger import Status
from mohs.models import Guide, Judge, Model, Prepared, as_model
from mohs.models.blinding import Blinding, Trial, trials
from mohs.oracle import Oracle
from mohs.serve import Prada
from mohs.serve.measure import Detector, Watched
from mohs.threat import Untargeted, parse_threat

OTHERS, ACCOUNTS = 40, 5
Maker = Callable[[], Detector]


def run(model: Model, make: Maker, x: Tensor, y: Tensor, attack: Attack, threat: str, **evasion: Any) -> dict[str, Any]:
    """Every image by itself."""
    won: list[int] = []
    asked = refused = cut = 0
    for i in range(len(x)):
        watched = Watched(model, make, evasion.get("accounts", 1))
        prepared = Prepared(Judge(watched, 128, 1), Guide(watched, 128, 1), blinding=evasion.get("blinding"))
        oracle = Oracle.begin(prepared, parse_threat(threat), Untargeted(), x[i : i + 1], y[i : i + 1], ids=torch.tensor([i]))
        out = attack.on(oracle)
        won += out.queries_to_success[out.broken].tolist()
        cut += out.status[0] == Status.UNDECIDED
        asked, refused = asked + watched.asked, refused + watched.refused
    succeeded = {"succeeded": len(won), "of": len(x), "median_queries_to_success": median(won) if won else None}
    return {**succeeded, "asked": asked, "refused": refused, "undecided": cut}


def adapted(model: Model, make: Maker, x: Tensor) -> tuple[Blinding, list[Any]]:
    watched = Watched(model, make)
    watched.logits(x)
    tried: list[Trial] = list(trials(watched.logits, x, model.bounds))
    return tried[-1].blinding, [(t.blinding.size, t.blinding.share, t.refused, t.kept) for t in tried]


def main(name: str, linf: float, l2: float, images: int, queries: int, window: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    module, x, y = case(name, images + OTHERS)
    model = as_model(module, x)
    attacks: dict[str, tuple[Attack, str]] = {
        "square": (Square(queries=queries, p=0.8, rescale_schedule=True), f"linf:{linf}+knowledge:scores"),
        "rays": (RayS(queries=queries), f"linf:{linf}+knowledge:label"),
        "hop-skip-jump": (HopSkipJump(queries=queries, probes=25), f"l2:{l2}+knowledge:label"),
    }
    makers: dict[str, Maker] = {
        "no guard": lambda: lambda x, label: False,
        "blacklight, window 20": lambda: blacklight(20),
        f"blacklight, window {window}": lambda: blacklight(window),
        "prada": Prada,
    }
    found: dict[str, Any] = {"case": name, "linf": linf, "l2": l2, "queries_at_most": queries, "accounts": ACCOUNTS}
    for who, make in makers.items():
        blinding, tried = adapted(model, make, x[images:])
        found[who] = {"trials: size, share, refused and kept of 6": tried if who != "no guard" else []}
        for what, (attack, threat) in attacks.items():
            aimed = (model, make, x[:images], y[:images], attack, threat)
            ways = {"plain": run(*aimed)}
            if who != "no guard":
                ways["blinded"] = run(*aimed, blinding=blinding)
            if who == "prada":
                ways[f"{ACCOUNTS} accounts"] = run(*aimed, accounts=ACCOUNTS)
            found[who][what] = ways
            print(who, what, ways, file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    numbers = [float(word) for word in sys.argv[2:]]
    print(json.dumps(main(sys.argv[1], *numbers[:2], *map(int, numbers[2:]))))
