"""The minimal-norm attacks of mohs on one case: prints their distances and passes.

.venv/bin/python -m benchmarks.ours_minimal CASE NORM PASSES N

`fixed` is what is compared with the peers, a chain a norm; the others are single attacks.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

import torch

import mohs
from benchmarks.cases import case
from benchmarks.peer_minimal import distances
from mohs.attacks import ALMA, DDN, EAD, FABT, FMN, PDPGD, BrendelBethge, Pointwise, SigmaZero, SuperDeepFool
from mohs.attacks.base import Attack
from mohs.oracle import Oracle
from mohs.threat import L0, L1, L2, Linf, Untargeted

NORMS = {"linf": Linf, "l2": L2, "l1": L1, "l0": L0}


def fixed(norm: str, passes: int) -> list[Attack]:
    """What mohs sends into the comparison: a chain a norm, each attack of which improves on what was found before it.

    FAB-T finds ways where gradients at the input are flat, FMN is the nearer elsewhere. A step of FAB-T is three passes a
    target; a few passes go to the first and the last point of each attack."""

    def fab(share: float, targets: int) -> Attack:
        return FABT(steps=max(1, int(share * passes / (3 * targets))), targets=targets)

    def fmn(share: float, **settings: float | bool) -> Attack:
        return FMN(steps=max(1, int(share * passes / 2 - 2)), **settings)  # type: ignore[arg-type]

    match norm:
        case "linf":
            return [fab(0.6, 2), fmn(0.38, warm=True, step_size=0.1, gamma=0.01)]
        case "l2":
            return [fmn(0.55), fab(0.3, 3), fmn(0.15, warm=True, step_size=0.1, gamma=0.01)]
        case "l1" if passes > 200:
            return [PDPGD(steps=int(0.3 * passes)), fab(0.2, 2), fmn(0.2, warm=True, step_size=0.3, gamma=0.02)]
        case "l0":
            few, last = passes <= 200, 20 + passes // 50  # a threshold that begins high leaves fewer entries to so few steps
            return [SigmaZero(steps=(passes - last) // 2, tau=0.5 if few else 0.3), Pointwise(queries=last - 2)]
    return [FMN(steps=passes // 2)]


def attacks(norm: str, passes: int) -> dict[str, Callable[[], list[Attack]]]:
    """Our attacks of a norm, within so many passes."""
    steps = passes // 2
    made: dict[str, Callable[[], list[Attack]]] = {
        "fixed": lambda: fixed(norm, passes),
        "fmn": lambda: [FMN(steps=steps)],
        "pdpgd": lambda: [PDPGD(steps=steps)],
    }
    if passes <= 200:  # beyond, a run takes minutes
        made["brendel-bethge"] = lambda: [BrendelBethge(steps=max(1, steps - 20))]
    if norm != "l0":
        made["fab-t"] = lambda: [FABT(steps=max(1, (passes - 4) // 12), targets=4)]
    if norm in ("l2", "l1"):
        made["alma"] = lambda: [ALMA(steps=steps, alpha=0.5 if norm == "l1" else 0.9)]
    if norm == "l2":
        made |= {"ddn": lambda: [DDN(steps=steps)], "superdeepfool": lambda: [SuperDeepFool()]}
    if norm == "l1":
        made["ead"] = lambda: [EAD(search_steps=5, steps=max(1, steps // 5))]
    if norm == "l0":
        made["sigma-zero"] = lambda: [SigmaZero(steps=steps)]
    return made


def main(name: str, norm: str, passes: str, n: str) -> None:
    model, x, y = case(name, int(n))
    prepared = mohs.prepare(mohs.models.as_model(model, x), x)
    found = {}
    for who, make in attacks(norm, int(passes)).items():
        started = time.process_time()
        oracle = Oracle.begin(prepared, NORMS[norm](math.inf), Untargeted(), x, y, ids=torch.arange(len(x)), stop=False)
        oracle.settle_origin()
        for attack in make():
            out = attack.on(oracle)
        found[who] = {
            "distances": [round(d, 6) for d in distances(norm, model, x, out.adversarial, y)],
            "passes": float((out.queries + out.backwards).double().mean()),
            "processor_seconds": round(time.process_time() - started, 2),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
