"""`mohs diagnose` on models that hide nothing, where every alarm is a false one, and on models that do, around four networks.

python -m benchmarks.diagnosis honest|masked [NAME ...]: adds to results/diagnosis.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tests import masked
from torch import Tensor, nn

from benchmarks.cases import case, zoo
from mohs import demo, diagnose
from mohs.data import load_digits

OUT = Path(__file__).parent / "results" / "diagnosis.json"
HONEST = {
    "cifar_resnet20": "linf:8/255",
    "cifar_resnet32": "linf:8/255",
    "cifar_cnn_a_adv": "linf:2/255",
    "cifar_resnet4b_adv": "linf:2/255",
    "cifar_kw_small_8px_c0": "linf:8/255",
    "cifar_oval_wide": "linf:2/255",
    "cifar_marabou_small": "linf:2/255",
    "mnist_fmn_cnn": "linf:0.1",
    "mnist_cnn_a_adv": "linf:0.3",
    "mnist_kw_0.1": "linf:0.1",
    "mnist_kw_small_0.3_c0": "linf:0.3",
    "mnist_eran_conv_small": "linf:0.12",
    "mnist_eran_6_100": "linf:0.026",
}
BASES = {"demo": "linf:0.2", "demo:standard": "linf:0.1", "mnist_eran_conv_small": "linf:0.12", "cifar_cnn_a_adv": "linf:2/255"}
MASKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bit depth": lambda network: masked.Before(network, masked.Bits()),
    "JPEG": lambda network: masked.Before(network, masked.Jpeg()),
    "random resize": lambda network: masked.Before(network, masked.Resize()),
    "inference noise": lambda network: masked.Before(network, masked.Noise(0.1)),
    "logits x 1000": lambda network: masked.Times(network, 1000),
    "distilled, T = 100 (logits x 100)": lambda network: masked.Times(network, 100),
    "kWTA, 20%": lambda network: masked.with_relus_replaced(network, lambda: masked.Winners(0.2)),
    "active dropout": lambda network: masked.Before(network, masked.Dropout()),
}


def data_of(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with 400 examples, right and wrong."""
    if name.startswith("demo"):
        return demo.load_demo(name), *load_digits("test")
    return case(name, 400, correct=False)


def found(module: nn.Module, x: Tensor, y: Tensor, threat: str) -> dict[str, Any]:
    started = time.process_time()
    result = diagnose(module.eval(), (x, y), threat=threat)
    return {
        "threat": threat,
        "grade": str(result.grade),
        "clean_accuracy": result.clean,
        "standing": result.standing,
        "fails": [f.sign.name for f in result.found if f.grade == "fail"],
        "warns": [f.sign.name for f in result.found if f.grade == "warn"],
        "numbers": {f.sign.name: f.evidence.number for f in result.found},
        "processor_seconds": round(time.process_time() - started, 1),
        "passes": [result.forwards, result.backwards],
    }


def honest(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names or ["demo", "demo:standard", *zoo().names()]:
        yield name, found(*data_of(name), {**BASES, **HONEST}[name])


def hidden(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for base in names or BASES:
        network, x, y = data_of(base)
        for name, mask in MASKS.items():
            yield f"{name} on {base}", found(mask(network), x, y, BASES[base])


def main() -> None:
    kind, *names = sys.argv[1:]
    torch.set_num_threads(1)
    for name, facts in {"honest": honest, "masked": hidden}[kind](names):
        kept = json.loads(OUT.read_text()) if OUT.exists() else {}
        kept.setdefault(kind, {})[name] = facts
        OUT.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{name}: {facts['grade']} {facts['fails']} {facts['warns']} {facts['processor_seconds']} s", flush=True)


if __name__ == "__main__":
    main()
