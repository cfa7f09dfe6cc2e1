"""How much certificates prove on the real cases, and in how much processor time.

python -m benchmarks.certify NAME METHOD [FIRST LAST]: examples FIRST to LAST of a row of WORK. What is proved is merged into
results/certify.json, so that long rows can be measured in parts.
"""

from __future__ import annotations

import json
import sys
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.cases import folder, zoo
from benchmarks.run import RESULTS
from mohs import certificates
from mohs.aim import Aim
from mohs.certificates.graph import network_of
from mohs.models import as_model
from mohs.threat import parse_threat

FILE = RESULTS / "certify.json"


class Work(NamedTuple):
    """known: what is to be held against, in words."""

    case: str
    threat: str
    examples: str
    known: str


WORK = {
    "mnist_kw_0.1": Work("mnist_kw_0.1", "linf:0.1", "test", "certified error: authors 5.8%, CROWN 5.26%, last slopes 4.83%"),
    "resnet4b_1": Work("cifar_resnet4b_adv", "linf:1/255", "lossless", "CROWN 23.28% of the full test set"),
    "resnet4b_2": Work("cifar_resnet4b_adv", "linf:2/255", "lossless", "CROWN 0.24% of the full test set"),
    "conv_small": Work("mnist_eran_conv_small", "linf:0.12", "first100", "plain CROWN 17, last slopes 21 of 100"),
    "6_100": Work("mnist_eran_6_100", "linf:0.026", "first100", "plain CROWN 22, last slopes 23 of 100"),
    "cnn_a": Work("cifar_cnn_a_adv", "linf:2/255", "sdp200", "plain CROWN 35.5%, beta-CROWN 44.0%"),
    "mnist_cnn_a": Work("mnist_cnn_a_adv", "linf:0.3", "sdp200", "plain CROWN about 2%, beta-CROWN 70.5%"),
}


def examples(work: Work) -> tuple[nn.Module, Tensor, Tensor]:
    cases = zoo()
    model, dataset = cases.load(work.case)
    if work.examples in ("lossless", "sdp200"):
        x, y, index = cases.data(dataset, lossless=True) if dataset == "cifar10" else (*cases.data(dataset), torch.arange(10_000))
        if work.examples == "sdp200":
            truth = json.loads((folder() / "ground_truth.json").read_text())
            wanted = truth["sdp200"] if isinstance(truth["sdp200"], list) else truth["sdp200"][dataset]
            keep = torch.isin(index, torch.tensor(wanted))
            x, y = x[keep], y[keep]
        return model, x, y
    x, y = cases.data(dataset)
    return (model, x[:100], y[:100]) if work.examples == "first100" else (model, x, y)


def main(name: str, method: str, first: str = "0", last: str = "") -> None:
    torch.set_num_threads(1)
    work = WORK[name]
    model, x, y = examples(work)
    start, end = int(first), int(last or len(x))
    part_x, part_y = x[start:end], y[start:end]
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in part_x.split(500)]) == part_y
    wrapped = as_model(model, x[:2])
    threat = parse_threat(work.threat).facing(wrapped)
    network = network_of(wrapped, x[:2])
    proved, spent = torch.zeros(len(part_y), dtype=torch.bool), 0.0
    for step in ("crown", "alpha-crown") if method == "alpha-crown" else (method,):  # the second on what the first leaves open
        left = (right & ~proved).nonzero()[:, 0]
        began = time.process_time()
        proved[left] = certificates.make(step).prove(network, threat, part_x[left], Aim(part_y[left])).least > 0
        spent += time.process_time() - began
        record(name, step, work, start, right, proved, len(x), spent)


def record(name: str, method: str, work: Work, start: int, right: Tensor, proved: Tensor, total: int, seconds: float) -> None:
    n = len(right)
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    row = found.setdefault(name, {}).setdefault(method, {"threat": work.threat, "of": total, "known": work.known, "parts": {}})
    row["parts"][f"{start}-{start + n}"] = {
        "n": n,
        "clean": int(right.sum()),
        "process_seconds": round(seconds, 1),
        "proved": [start + int(i) for i in proved.nonzero()[:, 0]],
    }
    parts = row["parts"].values()
    row["n"], row["clean"] = sum(part["n"] for part in parts), sum(part["clean"] for part in parts)
    row["proved"] = sum(len(part["proved"]) for part in parts)
    row["proved_share"] = row["proved"] / row["n"]
    row["process_seconds"] = round(sum(part["process_seconds"] for part in parts), 1)
    FILE.write_text(json.dumps(found, indent=None, separators=(",", ":")).replace('"parts"', '\n"parts"') + "\n")
    print(method, {key: value for key, value in row.items() if key != "parts"})


if __name__ == "__main__":
    main(*sys.argv[1:])
