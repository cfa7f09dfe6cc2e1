"""Label-only attacks of mohs on one case: prints distances, queries and seconds.

.venv/bin/python -m benchmarks.ours_labels WHO CASE QUERIES N

`fixed` is what is compared with the peers, chosen in advance: GeoDA for a start, and QEBA from there. The judge's confirmations
are queries, those of the settled points at the end too; their float64 passes are time beyond the model's, and told apart.
"""

from __future__ import annotations

import json
import math
import sys
import time

import torch

import mohs
from benchmarks.cases import case
from benchmarks.peer_labels import Timed, facts
from mohs.attacks import QEBA, GeoDA, find
from mohs.attacks.base import Attack
from mohs.oracle import Oracle
from mohs.threat import L2, Knowledge, Untargeted


def attacks(who: str, queries: int) -> list[Attack]:
    if who != "fixed":
        return [find(who)(queries=queries - 2)]  # type: ignore[call-arg]
    return [GeoDA(queries=500), QEBA(queries=queries - 504, reduction=2.0)]


def main(who: str, name: str, queries: str, n: str) -> None:
    model, x, y = case(name, int(n))
    counted = Timed(model.eval())
    prepared = mohs.prepare(mohs.models.as_model(counted, x), x, accelerate=False)
    exact = prepared.judge.exact.module  # the float64 copy counts by itself
    counted.forwards, counted.seconds, exact.forwards, exact.seconds = 0, 0.0, 0, 0.0
    started = time.process_time()
    threat = L2(math.inf, knowledge=Knowledge.LABEL)
    oracle = Oracle.begin(prepared, threat, Untargeted(), x, y, ids=torch.arange(len(x)), stop=False)
    oracle.settle_origin()
    for attack in attacks(who, int(queries)):
        out = attack.on(oracle)
    seconds = time.process_time() - started
    found = facts(counted, model, x, y, out.adversarial, seconds)
    exactly = {"float64_passes": exact.forwards / len(x), "float64_seconds": round(exact.seconds, 2)}
    print(json.dumps({**found, **exactly, "counted_by_the_ledger": float(out.queries.double().mean())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
