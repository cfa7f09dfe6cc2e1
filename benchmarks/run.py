"""Every comparison of benchmarks/README.md: each command in a process of its own, ours and the peers' in turn, raw results kept.

python -m benchmarks.run [NAME ...], one case of the comparison with AutoAttack as autoattack:CASE
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cases import EPSILON

ROOT = Path(__file__).parents[1]
PEERS = Path(os.environ.get("MOHS_PEERS", ROOT / ".peers")) / "bin" / "python"
RESULTS = Path(__file__).parent / "results"


def call(python: str | Path, module: str, *words: str | float) -> dict[str, Any]:
    command = [str(python), "-m", f"benchmarks.{module}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return {"command": " ".join(map(str, words)), "failed": done.stderr.strip().splitlines()[-1:]}
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"  {module} {' '.join(map(str, words))}: {json.dumps(facts)[:160]}", flush=True)
    return {"command": " ".join([module, *map(str, words)]), **facts}


def ours(*words: str | float) -> dict[str, Any]:
    return call(sys.executable, "ours", *words)


def peer(*words: str | float) -> dict[str, Any]:
    return call(PEERS, "peer", *words)


def turns(times: int, *commands: Callable[[], dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Every command so many times, in turn; a row a command."""
    rounds = [[command() for command in commands] for _ in range(times)]
    return [list(row) for row in zip(*rounds, strict=True)]


def middle(rows: list[dict[str, Any]], key: str = "seconds") -> float:
    return median(row[key] for row in rows)


def pgd40() -> dict[str, Any]:
    name, epsilon = "cifar_resnet20", 8 / 255
    peers = ["torchattacks", "adv-lib", "foolbox", "cleverhans", "art"]
    rows = turns(
        3,
        lambda: ours("pgd40", name, epsilon, 128),
        *[lambda p=p: peer(p, "pgd40", name, epsilon, 128) for p in peers],
    )
    seconds = {who: middle(row) for who, row in zip(["mohs", *peers], rows, strict=True)}
    fastest = min(seconds[p] for p in peers)
    return {"median_seconds": seconds, "eager_over_fastest": seconds["mohs"] / fastest, "raw": rows}


def compiled() -> dict[str, Any]:
    """The same on a compiled guide, the seconds of compiling beside it, and the two fastest peers."""
    name, epsilon = "cifar_resnet20", 8 / 255
    peers = ["adv-lib", "torchattacks"]
    rows = turns(
        3,
        lambda: ours("pgd40-compiled", name, epsilon, 128),
        *[lambda p=p: peer(p, "pgd40", name, epsilon, 128) for p in peers],
    )
    seconds = {who: middle(row) for who, row in zip(["mohs", *peers], rows, strict=True)}
    over = seconds["mohs"] / min(seconds[p] for p in peers)
    return {
        "median_seconds": seconds,
        "compiled_over_fastest": over,
        "compile_seconds": middle(rows[0], "compile_seconds"),
        "raw": rows,
    }


def overhead() -> dict[str, Any]:
    return {name: ours("overhead", name, 8 / 255, 128) for name in ("cifar_resnet20", "cifar_cnn_a_adv")}


def stopping() -> dict[str, Any]:
    return ours("stopping", "cifar_cnn_a_adv", 2 / 255, 128)


def autoattack(only: str = "") -> dict[str, Any]:
    """`standard` and `quick` against AutoAttack, in turn; three turns where AutoAttack takes about a minute. only: a case."""
    found: dict[str, Any] = {}
    for name, epsilon in EPSILON.items():
        if only and name != only:
            continue
        rows = turns(
            3 if name in ("cifar_cnn_a_adv", "mnist_kw_0.1") else 1,
            lambda n=name, e=epsilon: ours("standard", n, e, 128),
            lambda n=name, e=epsilon: ours("quick", n, e, 128),
            lambda n=name, e=epsilon: peer("autoattack", "standard", n, e, 128),
        )
        standard, quick, other = rows
        found[name] = {
            "standard_over_autoattack": middle(standard) / middle(other),
            "quick_over_autoattack": middle(quick) / middle(other),
            "standard_over_bare": middle(standard, "over_bare"),
            "broken": {"standard": standard[0]["broken"], "quick": quick[0]["broken"], "autoattack": other[0]["broken"]},
            "raw": rows,
        }
        keep(f"autoattack-{name}", found.pop(name))
    return found


def truth() -> dict[str, Any]:
    return {
        "mnist_kw_0.1 at 0.1, 10,000, quick": ours("truth-quick", "mnist_kw_0.1", 0.1, 10000),
        "mnist_eran_conv_small at 0.12, 1,000, standard": ours("truth-standard", "mnist_eran_conv_small", 0.12, 1000),
        "mnist_eran_6_100 at 0.026, 1,000, standard": ours("truth-standard", "mnist_eran_6_100", 0.026, 1000),
    }


def square() -> dict[str, Any]:
    """Attacks by scores alone, 5,000 queries: Square beside the peers' Square, and what asks less. Peers' queries are all their
    forward passes an image, among them one or two looks at it before and after. What stands in the results already is not
    measured again."""
    file = RESULTS / "square.json"
    cells: dict[str, Any] = json.loads(file.read_text())["cells"] if file.exists() else {}
    cifar, mnist = ("cifar_cnn_a_adv", 8 / 255, 128), ("mnist_cnn_a_adv", 0.3, 128)
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        **{who: lambda w=who: peer(w, "square", *cifar) for who in ("autoattack", "torchattacks")},
        **{job: lambda j=job: ours(j, *cifar) for job in ("square", "square-rescaled", "parsimonious", "parsimonious-coarse")},
        **{f"mnist {who}": lambda w=who: peer(w, "square", *mnist) for who in ("autoattack", "torchattacks")},
        **{f"mnist {job}": lambda j=job: ours(j, *mnist) for job in ("square", "parsimonious-coarse")},
    }
    for name, measure in sides.items():
        if name not in cells:
            cells[name] = measure()
            keep("square", {"cells": cells})
    queries = {name: cell["queries"] if "queries" in cell else cell["forwards"] / cell["n"] for name, cell in cells.items()}
    return {
        "mean_queries": queries,
        "broken": {name: cell["broken"] for name, cell in cells.items()},
        "square_over_autoattack": {p: queries[f"{p}square"] / queries[f"{p}autoattack"] for p in ("", "mnist ")},
        "best_over_torchattacks": {p: queries[f"{p}parsimonious-coarse"] / queries[f"{p}torchattacks"] for p in ("", "mnist ")},
        "cells": cells,
    }


def memory() -> dict[str, Any]:
    small, large = (ours("memory", "mnist_kw_0.1", 0.1, n) for n in (1000, 10000))
    data = large["data"] - small["data"]
    beyond = {who: large[who] - small[who] - data for who in ("peak", "peak_of_a_worker")}
    return {"1000": small, "10000": large, "bytes_beyond_the_data": beyond}


def curve() -> dict[str, Any]:
    """`mohs curve` against `quick`: asked, at most a point above it anywhere, and at most 2% of examples found late."""
    return {name: ours("curve", name, 0.0, 64) for name in ("cifar_cnn_a_adv", "mnist_cnn_a_adv", "cifar_resnet20")}


def kills() -> dict[str, Any]:
    """kill -9 at 20 random moments of a run, then resume: the records equal an uninterrupted run's, every time."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.kills", "20"], cwd=ROOT, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {"failed": done.stderr[-500:]}


def probe_kills() -> dict[str, Any]:
    """kill -9 at 20 random moments of `mohs probe`, twice a run, then resume: what is sent again, told, and decided."""
    return call(sys.executable, "probing", "kills")


def faulty_server() -> dict[str, Any]:
    """`mohs probe` of a server that fails a fifth of its requests: every example decided, or undecided with its reason."""
    return call(sys.executable, "probing", "faults")


def clients() -> dict[str, Any]:
    """200 clients of `mohs serve` at once, for a minute: errors, and the memory held."""
    return call(sys.executable, "clients", "mnist_cnn_a_adv", 200, 60)


def carlini() -> dict[str, Any]:
    """C&W of five search steps and 200 steps each."""
    return _without_budget("cw", "cifar_cnn_a_adv", ["foolbox", "adv-lib", "torchattacks", "cleverhans"])


def deepfool() -> dict[str, Any]:
    return _without_budget("deepfool", "cifar_resnet20", ["foolbox", "adv-lib", "torchattacks"])


def _without_budget(attack: str, name: str, peers: list[str]) -> dict[str, Any]:
    """The fastest peer is that of those which succeed on all."""
    rows = turns(3, lambda: ours(attack, name, 0, 64), *[lambda p=p: peer(p, attack, name, 0, 64) for p in peers])
    seconds = {who: middle(row) for who, row in zip(["mohs", *peers], rows, strict=True)}
    whole = [who for who, row in zip(peers, rows[1:], strict=True) if row[0]["broken"] == row[0]["n"]]
    medians = {"mohs": rows[0][0]["median"]} | {who: row[0]["median_l2"] for who, row in zip(peers, rows[1:], strict=True)}
    return {
        "median_seconds": seconds,
        "median_distance": medians,
        "succeed_on_all": whole,
        "over_fastest": seconds["mohs"] / min(seconds[who] for who in whole),
        "raw": rows,
    }


def hard() -> dict[str, Any]:
    """Twenty images that only an exact solver was known to break."""
    return ours("hard", "mnist_cnn_a_adv", 0.3, 20)


def deep() -> dict[str, Any]:
    """`deep` beside what AutoAttack breaks of the same images, and `deep` in AutoAttack's seconds. What stands in the results
    already is not measured again."""
    cases = {"cifar_cnn_a_adv": 2 / 255, "cifar_kw_small_8px_c0": 8 / 255, "cifar_resnet4b_adv": 2 / 255}
    file = RESULTS / "deep.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name, e in cases.items():
        row = found.setdefault(name, {})
        for who, command in (
            ("autoattack", lambda name=name, e=e: peer("autoattack", "standard", name, e, 128)),
            ("hurried", lambda name=name, e=e, row=row: ours("deep-hurried", name, e, 128, row["autoattack"]["seconds"])),
            ("deep", lambda name=name, e=e: ours("deep", name, e, 128)),
        ):
            if who not in row:
                row[who] = command()
                keep("deep", found)
    return found


def serve() -> dict[str, Any]:
    """Requests a second of `mohs serve`, from 32 clients on loopback."""
    return call(sys.executable, "serving", "mnist_cnn_a_adv", 32, 8)


def guard() -> dict[str, Any]:
    """False alarms on honest clients, and the queries until a detector speaks up."""
    return {
        "mnist": call(sys.executable, "guards", "mnist_fmn_cnn", 0.3, 3.0, 10, 1000, 50),
        "cifar": call(sys.executable, "guards", "cifar_resnet20", 8 / 255, 0.5, 3, 500, 50),
    }


def evasion() -> dict[str, Any]:
    """What a guard is worth against attacks that know of it."""
    return {
        "mnist": call(sys.executable, "evasion", "mnist_fmn_cnn", 0.3, 3.0, 6, 500, 50),
        "cifar": call(sys.executable, "evasion", "cifar_resnet20", 8 / 255, 0.5, 3, 300, 50),
    }


def detectors() -> dict[str, Any]:
    """What detectors find, and what is left of them once attacks know of them, on the embedded digits."""
    threats = ("linf:0.1", "l2:0.6", "rotation:20deg+translation:1px")
    names = ("mahalanobis", "lid", "squeezing", "nre", "magnet")
    return {
        "quick": [call(sys.executable, "detectors", name, "quick", 80, *threats) for name in names],
        "deep": [call(sys.executable, "detectors", "mahalanobis", "deep", 40, threats[2])],
    }


def smoothing() -> dict[str, Any]:
    """Certificates under noise: time beside a plain loop and the bare model, the price of one radius, false certificates."""
    at = [("cifar_cnn_a_adv", 0.12, 0.1), ("cifar_resnet4b_adv", 0.25, 0.25), ("cifar_resnet4b_adv", 0.25, 0.5)]
    return {
        "time": [
            call(sys.executable, "smoothing", "time", *c)
            for c in [("cifar_resnet20", 0.12, 1500), ("cifar_resnet4b_adv", 0.25, 10000)]
        ],
        "at_radius": [call(sys.executable, "smoothing", "at", *c) for c in at],
        "simulated": [call(sys.executable, "smoothing", "simulate", p) for p in (0.6915, 0.9772)],
    }


RECIPES = ("pgd", "trades", "mart", "pgd+awp", "fast", "free", "standard", "alp", "distillation", "gaussian")
BOUNDED = ("pgd", "ibp", "crown-ibp")
SEEDS = (0, 1, 2)


def recipes() -> dict[str, Any]:
    """Recipes on the embedded digits at linf:0.2. What stands in the results already is not measured again."""
    file = RESULTS / "recipes.json"
    cells: dict[str, Any] = json.loads(file.read_text())["cells"] if file.exists() else {}
    for seed, name in itertools.product(SEEDS, RECIPES):
        if f"{name} {seed}" not in cells:
            cells[f"{name} {seed}"] = call(sys.executable, "training", "digits", name, seed)
            keep("recipes", {"cells": cells})
    means = {}
    for name in RECIPES:
        rows = [cells[f"{name} {seed}"] for seed in SEEDS]
        keys = ("clean", "standard", "transfer", "processor_seconds")
        means[name] = {key: sum(row[key] for row in rows) / len(rows) for key in keys}
    return {"means": means, "cells": cells}


def cifar_training() -> dict[str, Any]:
    """Fast on the Wong-Kolter network, two seeds side by side, one thread each."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-m", "benchmarks.training", "cifar", str(seed)] for seed in (0, 1)]
    running = [subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) for command in commands]
    rows = [json.loads(process.communicate()[0].strip().splitlines()[-1]) for process in running]
    keys = ("standard_sdp200", "clean_jpeg_10000", "seconds")
    return {"means": {key: sum(row[key] for row in rows) / len(rows) for key in keys}, "raw": rows}


def certified_training() -> dict[str, Any]:
    """Training on bounds beside adversarial training, on the embedded digits at linf:0.1."""
    rows = {name: [call(sys.executable, "training", "proved", "digits", name, seed) for seed in SEEDS] for name in BOUNDED}
    keys = ("clean", "quick", "proved_by_interval", "proved_by_crown", "processor_seconds")
    return {
        "means": {name: {key: sum(row[key] for row in found) / len(SEEDS) for key in keys} for name, found in rows.items()},
        "raw": rows,
    }


def training_cost() -> dict[str, Any]:
    """Seconds of an epoch over the passes that each recipe is made of."""
    return call(sys.executable, "training", "cost")


def training_peers() -> dict[str, Any]:
    """Processor seconds of an epoch beside a plain loop around a peer's attack, in turn."""
    found: dict[str, Any] = {}
    for recipe in ("pgd", "fast"):
        commands = [(sys.executable, "training", "epochs"), *((PEERS, "peer_training", who) for who in ("torchattacks", "art"))]
        made = turns(3, *[lambda words=(*words, recipe): call(*words) for words in commands])
        rows = dict(zip(("mohs", "torchattacks", "art"), made, strict=True))
        runs = {who: [row for row in side if "failed" not in row] for who, side in rows.items()}
        seconds = {who: median(s for row in side for s in row["raw"][-5:]) for who, side in runs.items() if side}
        over = {who: seconds["mohs"] / own for who, own in seconds.items() if who != "mohs"}
        found[recipe] = {"seconds": seconds, "over": over, "raw": rows}
    return found


def train_kills() -> dict[str, Any]:
    """`mohs train` killed at ten random moments."""
    return call(sys.executable, "training", "kills", 10)


MINIMAL = [  # case, images, norms, budgets in passes
    ("cifar_cnn_a_adv", 128, ("l2",), (100, 200, 1000, 2000)),
    ("cifar_cnn_a_adv", 64, ("linf", "l1", "l0"), (100, 200, 1000)),
    ("mnist_fmn_cnn", 64, ("linf", "l2", "l1", "l0"), (100, 200, 1000)),
    ("mnist_cnn_a_adv", 64, ("linf", "l2", "l1", "l0"), (100, 200, 1000)),
    ("cifar_resnet20", 64, ("linf", "l2", "l1", "l0"), (100, 200)),
]


def minimal() -> dict[str, Any]:
    """The least distances found within a budget of passes, of every attack of ours and of the peers. What stands in the
    results already is not measured again."""
    file = RESULTS / "minimal.json"
    cells: dict[str, Any] = json.loads(file.read_text())["cells"] if file.exists() else {}
    for name, n, norms, budgets in MINIMAL:
        for norm, passes in itertools.product(norms, budgets):
            for side, python in (("ours", sys.executable), ("peer", PEERS)):
                key = f"{name} {norm} {passes} {side}"
                if key not in cells:
                    cells[key] = call(python, f"{side}_minimal", name, norm, passes, n)
                    keep("minimal", {"cells": cells})
    return {"summary": summary(cells), "cells": cells}


LABELS = [  # case, images, queries, who
    ("mnist_fmn_cnn", 64, 1000, ("foolbox-hop-skip-jump", "foolbox-boundary", "art-geoda")),
    ("cifar_resnet20", 64, 1000, ("foolbox-hop-skip-jump", "foolbox-boundary", "art-geoda")),
    ("mnist_fmn_cnn", 64, 5000, ("foolbox-hop-skip-jump", "foolbox-boundary", "art-geoda")),
    ("cifar_resnet20", 64, 5000, ("foolbox-hop-skip-jump", "foolbox-boundary", "art-geoda")),
]


def label_only() -> dict[str, Any]:
    """The least l2 distances by labels alone, and the seconds a query beyond the model's own. What stands in the results
    already is not measured again."""
    file = RESULTS / "label_only.json"
    cells: dict[str, Any] = json.loads(file.read_text())["cells"] if file.exists() else {}
    for name, n, queries, peers in LABELS:
        for who in ("fixed", *peers):
            key = f"{name} {queries} {who}"
            if key not in cells:
                python, module = (sys.executable, "ours_labels") if who == "fixed" else (PEERS, "peer_labels")
                cells[key] = call(python, module, who, name, queries, n)
                keep("label_only", {"summary": _nearest(cells), "cells": cells})
    return {"summary": _nearest(cells), "cells": cells}


def _nearest(cells: dict[str, Any]) -> dict[str, Any]:
    """Of every case and budget: medians, ours over the nearest peer's, and likewise the seconds a query beyond the model."""
    rows: dict[str, Any] = {}
    for cell in dict.fromkeys(key.rpartition(" ")[0] for key in cells):
        found = {key.rpartition(" ")[2]: one for key, one in cells.items() if key.startswith(f"{cell} ") and "distances" in one}
        medians = {who: float(np.median(one["distances"])) for who, one in found.items()}
        peers = [who for who in medians if who != "fixed"]
        if "fixed" not in medians or not peers:
            continue
        best, beyond = min(peers, key=lambda who: medians[who]), "microseconds_a_query_beyond"
        rows[cell] = {
            "medians": medians,
            "best_peer": best,
            "distance_over_best_peer": medians["fixed"] / medians[best],
            "seconds_beyond_over_best_peer": found["fixed"][beyond] / found[best][beyond],
        }
    return rows


def summary(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Of every case, norm and budget: medians, our fixed attack's over the best peer's, and each attack's optimality.

    An attack that took over 2% more passes than the budget is left out. Optimality (Cina et al., AttackBench, 2024,
    arXiv:2404.19460): the area between an attack's robustness curve and the least distance any attack here found, as a
    part of the area above the latter; 1 is the best known everywhere.
    """
    found = {
        (*key.split(), who): one
        for key, cell in cells.items()
        for who, one in cell.items()
        if isinstance(one, dict) and "distances" in one
    }
    least: dict[tuple[str, str], np.ndarray] = {}
    for (name, norm, *_), cell in found.items():
        here = np.array(cell["distances"])
        known = least.get((name, norm), here)
        if len(known) == len(here):
            least[name, norm] = np.minimum(known, here)
    rows = []
    for name, norm, passes in dict.fromkeys(key[:3] for key in found):
        within = {
            f"{side} {who}": np.array(cell["distances"])
            for (a, b, c, side, who), cell in found.items()
            if (a, b, c) == (name, norm, passes) and cell["passes"] <= 1.02 * int(passes) + 2
        }
        medians = {who: float(np.median(d)) for who, d in within.items()}
        peers = {who: m for who, m in medians.items() if who.startswith("peer")}
        if not peers:  # not measured yet
            continue
        best = min(peers, key=lambda who: peers[who])
        optimality = {who: _optimality(d, least[name, norm]) for who, d in within.items()}
        rows.append(
            {
                "cell": f"{name} {norm} {passes}",
                "fixed": medians.get("ours fixed"),
                "best_peer": {best: peers[best]},
                "ratio": medians.get("ours fixed", float("inf")) / peers[best],
                "medians": medians,
                "optimality": optimality,
            }
        )
    return rows


def _optimality(distances: np.ndarray, least: np.ndarray) -> float:
    """1 - the area between both robustness curves, cut at the largest least distance, over that under the attack's limit."""
    cut = float(least.max())
    mine, best = np.minimum(distances, cut).mean(), least.mean()  # a curve's area is the mean of its distances
    return float(1 - (mine - best) / (cut - best)) if cut > best else 1.0


BENCHES = {
    f.__name__: f
    for f in (
        overhead,
        stopping,
        pgd40,
        memory,
        smoothing,
        kills,
        probe_kills,
        faulty_server,
        clients,
        carlini,
        deepfool,
        square,
        label_only,
        serve,
        guard,
        evasion,
        detectors,
        curve,
        minimal,
        hard,
        truth,
        autoattack,
        compiled,
        deep,
        certified_training,
        training_cost,
        training_peers,
        train_kills,
        recipes,
        cifar_training,
    )
}


def keep(name: str, found: dict[str, Any]) -> None:
    machine = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "load": os.getloadavg(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")


def main(names: list[str]) -> None:
    for name in names or list(BENCHES):
        bench, _, only = name.partition(":")
        if bench not in BENCHES:
            raise SystemExit(f"no benchmark {bench}; there are {', '.join(BENCHES)}")
        print(name, flush=True)
        found = autoattack(only) if bench == "autoattack" else BENCHES[bench]()
        if found:
            keep(bench, found)


if __name__ == "__main__":
    main(sys.argv[1:])
