"""How many examples branch and bound proves of what alpha-CROWN leaves open, and in how much processor time.

python -m benchmarks.branching NAME SECONDS: a row of benchmarks.certify.WORK, one example after the other, in one thread. What
certify.json says was proved is not tried, nor what APGD breaks. Every example is a line of results/branching.jsonl: a stopped row
goes on. In the end APGD-T tries what was proved.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks import certify
from benchmarks.certify import WORK, examples
from benchmarks.run import RESULTS
from mohs import attacks, certificates
from mohs.aim import Aim
from mohs.certificates.graph import network_of
from mohs.models import TorchModel, as_model
from mohs.threat import Threat, parse_threat

FILE = RESULTS / "branching.jsonl"


def main(name: str, seconds: str, first: str = "", last: str = "") -> None:
    torch.set_num_threads(1)
    work = WORK[name]
    model, x, y = examples(work)
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x.split(500)]) == y
    wrapped = as_model(model, x[:2])
    assert isinstance(wrapped, TorchModel)
    threat = parse_threat(work.threat).facing(wrapped)
    network, method = network_of(wrapped, x[:2]), certificates.make(f"branch-and-bound seconds={seconds}")
    before, done = known(name), {line["example"]: line for line in lines() if (line["row"], line["seconds"]) == (name, seconds)}
    left = torch.tensor([i for i in right.nonzero()[:, 0].tolist() if i not in before])
    broken = attacks.make({"attack": "apgd"})(wrapped, x[left], y[left], threat=threat).broken
    standing = left[~broken].tolist()
    print(
        f"{len(x)} examples, {int(right.sum())} right, {len(before)} proved before, APGD breaks {int(broken.sum())} of the others"
    )
    for i in standing[int(first or 0) : int(last or len(standing))]:
        if i in done:
            continue
        began = time.process_time()
        proof = method.prove(network, threat, x[i : i + 1], Aim(y[i : i + 1]))
        spent, least = time.process_time() - began, float(proof.least)
        status = "proved" if least > 0 else "broken" if confirmed(wrapped, threat, proof.point, x[i : i + 1], y[i]) else "open"
        done[i] = {
            "row": name,
            "seconds": seconds,
            "example": i,
            "status": status,
            "bound": least,
            "process_seconds": round(spent, 2),
        }
        with FILE.open("a") as file:
            file.write(json.dumps(done[i]) + "\n")
    proved = [i for i, line in done.items() if line["status"] == "proved"]
    if proved:
        assert not attacks.make({"attack": "apgd-t"})(wrapped, x[proved], y[proved], threat=threat).broken.any()
    count = {status: sum(line["status"] == status for line in done.values()) for status in ("proved", "broken", "open")}
    total = len(before) + count["proved"]
    print(
        f"{name}, {seconds} s: {count} of {len(standing)} that stand; with those before {total} of {len(x)} proved, "
        f"{total / len(x):.2%}; {sum(line['process_seconds'] for line in done.values()):.0f} s"
    )


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def known(name: str) -> set[int]:
    """What a relaxation proved."""
    methods = json.loads(certify.FILE.read_text())[name].values()
    return {i for method in methods for part in method["parts"].values() for i in part["proved"]}


def confirmed(model: TorchModel, threat: Threat, point: Tensor, x: Tensor, y: Tensor) -> bool:
    """Whether a point of the set is told wrong, in float32 and in float64."""
    if not bool(point.isfinite().all()) or not bool(threat.contains(point, x).all()):
        return False
    with torch.no_grad():
        single, double = model.logits(point), model.double().logits(point.double())
    return bool((single.argmax(1) != y).all() and (double.argmax(1) != y).all())


if __name__ == "__main__":
    main(*sys.argv[1:])
