"""Every comparison of benchmarks/README.md: each command in a process of its own, ours and the peers' in turn, raw results kept.

python -m benchmarks.run [NAME ...], one case of the comparison with AutoAttack as autoattack:CASE
"""

from __future__ import annotations

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


BENCHES = {f.__name__: f for f in (overhead, stopping, pgd40, memory, kills, curve, truth, autoattack, compiled)}


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
