"""Nothing is proved and attacked at once: python -m benchmarks.contradictions [CASE ...], results in results/contradictions.json

Of every case, at an eighth, a half and the whole of its budget: what intervals and CROWN prove, what `quick` breaks of all
examples, proved ones too, and the least margin that APGD finds, which no bound may exceed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import mohs
from benchmarks.cases import case
from benchmarks.diagnosis import HONEST
from mohs.attacks import APGD
from mohs.losses import logit_difference
from mohs.threat import Linf, parse_threat

OUT = Path(__file__).parent / "results" / "contradictions.json"
SHARES = (0.125, 0.5, 1.0)
FEW = {"cifar_resnet20": 1, "cifar_resnet32": 1, "cifar_resnet4b_adv": 12, "mnist_fmn_cnn": 6}  # whose bounds are slow
EXAMPLES = 64
ROUNDING = 1e-4  # of margins in float32


def found(name: str) -> list[dict[str, Any]]:
    module, x, y = case(name, FEW.get(name, EXAMPLES), correct=False)
    prepared, rows = mohs.prepare(mohs.models.as_model(module, x), x), []
    for share in SHARES:
        threat, started = Linf(share * parse_threat(HONEST[name]).epsilon), time.process_time()
        least = -APGD(steps=50, loss=logit_difference)(prepared, x, y, threat=threat, stop=False).margin
        attacked = mohs.audit(module, (x, y), threats=[threat], profile="quick").verdict.threats[0]
        broken = torch.from_numpy((attacked.status == "broken")[attacked.ids.argsort(kind="stable")])
        row: dict[str, Any] = {"epsilon": threat.epsilon, "examples": len(x), "broken": int(broken.sum())}
        for method in ("interval", "crown"):
            proof = mohs.certify(module, (x, y), threat=threat, method=method)
            row[method] = {
                "proved": int(proof.proved.sum()),
                "proved_and_broken": int((proof.proved & broken).sum()),
                "bounds_above_a_margin_found": int((proof.bounds > least + ROUNDING).sum()),
            }
        rows.append({**row, "processor_seconds": round(time.process_time() - started, 1)})
    return rows


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in names or HONEST:
        kept[name] = found(name)
        print(name, kept[name], flush=True)
        OUT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
