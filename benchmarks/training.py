"""Training, measured, one JSON line each:

python -m benchmarks.training cost | epochs RECIPE | digits RECIPE SEED | proved DATA RECIPE SEED | cifar SEED | kills N
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import mohs
from benchmarks.cases import folder, zoo
from mohs.demo import DigitNet
from mohs.hardening import harden
from mohs.models.cpu import threads
from mohs.networks import build
from mohs.threat import Linf
from mohs.train import parse
from mohs.train.loop import Task, fit
from mohs.train.training import Training

# recipe: settings beside those that all share; epochs so that two minutes of one core suffice
DIGITS: dict[str, dict[str, Any]] = {
    "standard": {"epochs": 60},
    "pgd": {"epochs": 80, "steps": 7},
    "trades": {"epochs": 70, "steps": 7},
    "mart": {"epochs": 70, "steps": 7},
    "pgd+awp": {"epochs": 70, "steps": 7},
    "fast": {"epochs": 90, "batch": 32, "optimizer": "sgd", "rate": 0.05},
    "free": {"epochs": 320, "replays": 4},
    "alp": {"epochs": 60, "steps": 7},
    "distillation": {"epochs": 60},
    "gaussian": {"epochs": 60},
}
SHARED = {"batch": 64, "optimizer": "adamw", "rate": 3e-3, "keep": "last"}


def digits(recipe: str, seed: int) -> dict[str, Any]:
    """A recipe on the embedded digits at linf:0.2: clean, `standard` on the 450 held-out ones, and under what is transferred
    to it from the embedded standard network."""
    with tempfile.TemporaryDirectory() as out, threads(1):
        torch.manual_seed(seed)
        started = time.process_time()
        settings = {**SHARED, **DIGITS[recipe], "seed": seed, "recipe": recipe, "threat": "linf:0.2", "test": "digits"}
        found = harden(DigitNet(), "digits:train", out=Path(out) / "run", **settings)
        spent = time.process_time() - started
        audit = mohs.audit(found.network, "digits", threats=["linf:0.2"], profile="standard")
        carried = mohs.audit(found.network, "digits", threats=["linf:0.2"], profile="quick", surrogates=["demo:standard"])
    (transfer,) = carried.robust_accuracy.values()
    return {
        "recipe": recipe,
        "seed": seed,
        "settings": settings,
        "processor_seconds": spent,
        "clean": audit.clean_accuracy,
        "standard": audit.robust_accuracy["linf:0.2"],
        "quick": found.after.robust_accuracy["linf:0.2"] if found.after else None,
        "transfer": transfer,
        "notes": [row["note"] for row in found.history if row["note"].startswith("broke")],
    }


def cifar(seed: int, epochs: int = 72) -> dict[str, Any]:
    """Fast on the Wong-Kolter network at 2/255, one thread: the last weights under `standard` on sdp200, clean on the 10,000
    JPEG copies."""
    cases = zoo()
    x, y = cases.data("cifar10", "train")
    with tempfile.TemporaryDirectory() as out, threads(1):
        started, wall = time.process_time(), time.perf_counter()
        settings = {
            "epochs": epochs,
            "batch": 128,
            "rate": 0.1,
            "clip": 1.0,
            "keep": "last",
            "seed": seed,
            "augment": ("crop:2", "flip"),
        }
        settings |= {"validate": 0.02, "weight_decay": 1e-3, "recipe": "fast", "threat": f"linf:{2 / 255}"}
        found = harden("wk-cnn", (x, y), out=Path(out) / "run", **settings)
        spent, wall = time.process_time() - started, time.perf_counter() - wall
    known = json.loads((folder() / "ground_truth.json").read_text())["sdp200"]["cifar10"]
    images, labels, where = cases.data("cifar10", lossless=True)
    rows = torch.tensor([where.tolist().index(i) for i in known])
    test_x, test_y = cases.data("cifar10")
    with torch.no_grad():
        clean = torch.cat([found.network(part).argmax(1) for part in test_x.split(500)]).eq(test_y).float().mean()
    audit = mohs.audit(found.network, (images[rows], labels[rows]), threats=[f"linf:{2 / 255}"], profile="standard")
    return {
        "seed": seed,
        "settings": settings,
        "processor_seconds": spent,
        "seconds": wall,
        "clean_jpeg_10000": float(clean),
        "standard_sdp200": audit.robust_accuracy[f"linf:{2 / 255}"],
        "clean_sdp200": audit.clean_accuracy,
        "epochs": found.history[:: max(1, epochs // 10)],
    }


PROVED: dict[str, tuple[str, dict[str, Any]]] = {  # network and settings, one set for all recipes
    "digits": ("mlp", {"epochs": 60, "batch": 64, "optimizer": "adamw", "rate": 3e-3}),
    "mnist": ("wk-cnn", {"epochs": 30, "batch": 128, "optimizer": "adamw", "rate": 2e-3}),
}


def proved(data: str, recipe: str, seed: int) -> dict[str, Any]:
    """A recipe at linf:0.1: clean, `quick`, and what intervals and CROWN prove. digits: trained on 1,347, measured on the 450
    others. mnist: the cases hold no training data, so trained on the first 5,000 test images, measured on the last 1,000."""
    network, settings = PROVED[data]
    train, test = "digits:train", "digits"
    if data == "mnist":
        x, y = zoo().data("mnist")
        train, test = (x[:5000], y[:5000]), (x[-1000:], y[-1000:])
    settings = {**settings, "seed": seed, "recipe": recipe, "threat": "linf:0.1"}
    with tempfile.TemporaryDirectory() as out, threads(1):
        started = time.process_time()
        found = harden(network, train, out=Path(out) / "run", **settings)
        spent = time.process_time() - started
        audit = mohs.audit(found.network, test, threats=["linf:0.1"], profile="quick")
        proofs = {method: mohs.certify(found.network, test, threat="linf:0.1", method=method) for method in ("interval", "crown")}
    return {
        "data": data,
        "network": network,
        "settings": settings,
        "processor_seconds": spent,
        "clean": audit.clean_accuracy,
        "quick": audit.robust_accuracy["linf:0.1"],
        **{f"proved_by_{method}": found.certified_accuracy for method, found in proofs.items()},
        "n": audit.verdict.clean.n,
        "epochs": found.history[:: max(1, settings["epochs"] // 10)],
    }


IMAGES, LONG = 5120, 20_480  # of an epoch that is measured beside a peer; of one whose passes are counted

COST = {  # passes of a step: F, Bx (backward to the input), Bw (to the weights)
    "standard": (1, 0, 1),
    "fast": (2, 2, 1),
    "pgd": (8, 8, 1),
    "trades": (10, 9, 2),
    "free": (1, 1, 1),
}
OPTIONS = {"pgd": {"steps": 7}, "trades": {"steps": 7}, "free": {"replays": 1}}


def cost(times: int = 5) -> dict[str, Any]:
    """Processor seconds of an epoch of one thread over the passes that the recipe is made of; those are measured between the
    epochs, each on the same network and batches, and beside them the update of a plain loop (step and zero_grad of SGD)."""
    rows: dict[str, Any] = {}
    for name, passed in COST.items():
        x, y = random_images()  # to measure the passes on
        units: list[dict[str, float]] = []
        spent = epochs(name, times, lambda x=x, y=y, units=units: units.append(passes(x, y)), LONG)
        unit = {part: median(row[part] for row in units[1:]) for part in units[0]}
        count = LONG / 128 * sum(n * unit[part] for n, part in zip(passed, ("F", "Bx", "Bw"), strict=True))
        rows[name] = {
            "over_count": median(spent) / count,
            "over_count_and_update": median(spent) / (count + LONG / 128 * unit["update"]),
            "seconds": median(spent),
            "count": count,
            "unit": unit,
            "raw": {"seconds": spent, "units": units},
        }
    return rows


def random_images(n: int = IMAGES) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 3, 32, 32), torch.arange(n) % 10


def epochs(name: str, times: int = 5, between: Callable[[], None] = lambda: None, images: int = IMAGES) -> list[float]:
    """Processor seconds of so many epochs of a recipe, after one that warms up, with their checkpoints and the validation of two
    images; one thread."""
    recipe, _ = parse(name, dict(OPTIONS.get(name, {})))
    x, y = random_images(images)
    training = Training(epochs=times + 1, batch=128, rate=0.01, guard=False)  # which two images would set off
    task = Task(build("wk-cnn", shape=(3, 32, 32), classes=10), recipe, x, y, x[:2], y[:2], 10, training)
    task.threat = None if recipe.sets == () else Linf(2 / 255)
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as out, threads(1):
        started = time.process_time()

        def watch(_: object) -> None:
            nonlocal started
            spent.append(time.process_time() - started)
            between()
            started = time.process_time()

        fit(task, Path(out), watch)
    return spent[1:]


def passes(x: Tensor, y: Tensor) -> dict[str, float]:
    """Median processor seconds of a forward pass in training, of the backward pass to the input, of that to the weights, and of a
    plain update of the weights, over batches of 128."""
    network = build("wk-cnn", shape=(3, 32, 32), classes=10).train()
    weights = list(network.parameters())
    optimiser = torch.optim.SGD(weights, 0.01, momentum=0.9, weight_decay=5e-4)
    spent: dict[str, list[float]] = {"forward": [], "to_input": [], "to_weights": [], "update": []}

    def timed(name: str, call: Callable[[], object]) -> None:
        started = time.process_time()
        call()
        spent[name].append(time.process_time() - started)

    for part, labels in zip(x.split(128), y.split(128), strict=True):
        point = part.clone().requires_grad_()
        timed("forward", lambda p=part, y=labels: functional.cross_entropy(network(p), y))
        timed("to_input", lambda p=point, y=labels: torch.autograd.grad(functional.cross_entropy(network(p), y), p))
        timed("to_weights", lambda p=part, y=labels: functional.cross_entropy(network(p), y).backward())
        timed("update", lambda: (optimiser.step(), optimiser.zero_grad()))
    forward, to_input, to_weights, update = (median(row) for row in spent.values())
    return {"F": forward, "Bx": to_input - forward, "Bw": to_weights - forward, "update": update}


def kills(times: int) -> dict[str, Any]:
    """SIGKILL at random moments of `mohs train`; the weights are those of an uninterrupted training, to the bit."""
    names = ["free", "trades+awp", "fast", "pgd"]
    same = 0
    rows = []
    for k in range(times):
        recipe = names[k % len(names)]
        with tempfile.TemporaryDirectory() as out:
            words = f"train demo:standard --data digits --recipe {recipe} --threat linf:0.2 --epochs 8 --rate 0.01 --batch 50"
            words += " --limit 300 --average ema:0.9"
            words += {"free": " --replays 2", "pgd": " --steps 3", "trades+awp": " --steps 3"}.get(recipe, "")

            def command(name: str, words: str = words, out: str = out) -> list[str]:
                return [sys.executable, "-m", "mohs", *words.split(), "--out", f"{out}/{name}"]

            environ = {**os.environ, "OMP_NUM_THREADS": "1"}
            started = time.perf_counter()
            subprocess.run(command("whole"), env=environ, check=True, capture_output=True)
            lasts = time.perf_counter() - started
            process = subprocess.Popen(command("killed"), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(lasts * random.Random(k).uniform(0.2, 0.9))
            process.send_signal(signal.SIGKILL)
            process.wait()
            subprocess.run(command("killed"), env=environ, check=True, capture_output=True)
            equal = all(
                Path(out, "whole", name).read_bytes() == Path(out, "killed", name).read_bytes()
                for name in ("best.safetensors", "last.safetensors")
            )
            same += equal
            rows.append({"recipe": recipe, "equal": equal})
            shutil.rmtree(Path(out), ignore_errors=True)
            os.makedirs(out, exist_ok=True)
    return {"kills": times, "equal_to_the_bit": same, "raw": rows}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "digits": lambda recipe, seed: digits(recipe, int(seed)),
    "proved": lambda data, recipe, seed: proved(data, recipe, int(seed)),
    "cifar": lambda seed, *epochs: cifar(int(seed), *map(int, epochs)),
    "cost": cost,
    "epochs": lambda name: {"raw": epochs(name)},
    "kills": lambda times: kills(int(times)),
}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](*sys.argv[2:])))
