"""What each part of a guard is worth on a case: python -m benchmarks.guards CASE LINF L2 IMAGES HONEST WINDOW

False alarms are of HONEST clean test images in random order; attacks are on IMAGES of them, Square at LINF, the walk
within L2. Every attack meets a detector that has seen nothing yet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from statistics import mean, median
from typing import Any

import torch

from benchmarks.cases import case
from mohs.models import as_model
from mohs.serve import Blacklight, Prada
from mohs.serve.measure import (
    Detector,
    Effect,
    Queries,
    effect,
    false_alarms,
    jacobian_queries,
    rounded,
    square_queries,
    walk_queries,
)

QUERIES = 500


def blacklight(window: int) -> Detector:
    light = Blacklight(window=window)
    return lambda x, _: light(x)


def summed(effects: list[Effect]) -> dict[str, Any]:
    found = [e.detected for e in effects if e.detected is not None]
    return {
        "detected": len(found),
        "median_queries_until_detection": median(found) if found else None,
        "succeeded": sum(e.success is not None for e in effects),
        "stopped_of_those": sum(e.stopped for e in effects if e.success is not None),
        "queries_flagged": mean(e.share for e in effects),
    }


def successes(attacks: list[Queries]) -> dict[str, Any]:
    won = [q.success for q in attacks if q.success is not None]
    return {"succeeded": len(won), "of": len(attacks), "median_queries_to_success": median(won) if won else None}


def main(name: str, linf: float, l2: float, images: int, honest: int, window: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    module, x, y = case(name, honest)
    model, labels = as_model(module, x), y.tolist()
    rows = range(images)
    attacks = {
        "square": [square_queries(model, x[i], labels[i], linf, queries=QUERIES, seed=i) for i in rows],
        "walk": [walk_queries(model, x[i], labels[i], l2, queries=QUERIES, seed=i) for i in rows],
    }
    extraction = jacobian_queries(model, x[:150])
    detectors: dict[str, Callable[[], Detector]] = {
        "blacklight, window 20": lambda: blacklight(20),
        f"blacklight, window {window}": lambda: blacklight(window),
        "prada": Prada,
    }
    found: dict[str, Any] = {"case": name, "linf": linf, "l2": l2, "honest": len(x), "queries_at_most": QUERIES}
    for who, make in detectors.items():
        found[who] = {"false_alarms": false_alarms(make(), x, labels)}
        found[who] |= {attack: summed([effect(make(), q) for q in each]) for attack, each in attacks.items()}
        found[who]["extraction"] = effect(make(), extraction)._asdict()
    found["no guard"] = {attack: successes(each) for attack, each in attacks.items()}
    for decimals in (2, 1):
        told = [square_queries(model, x[i], labels[i], linf, queries=QUERIES, seed=i, told=rounded(decimals)) for i in rows]
        found[f"probabilities rounded to {decimals} decimals"] = {"square": successes(told)}
    return found


if __name__ == "__main__":
    numbers = [float(word) for word in sys.argv[2:]]
    print(json.dumps(main(sys.argv[1], *numbers[:2], *map(int, numbers[2:]))))
