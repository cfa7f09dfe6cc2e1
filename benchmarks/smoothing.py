"""Randomised smoothing beside the paper's algorithm box and the bare model: python -m benchmarks.smoothing PART

time CASE SIGMA N: N samples an image, with a plain loop over the images, with mohs, and the same number of rows through the
prepared model alone, in turns. at CASE SIGMA RADIUS: what `--at-radius` costs on 100 images. simulate P: 10,000 runs at the
threshold. Processor time throughout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest, norm
from torch import Tensor, nn

from benchmarks.cases import case
from mohs.certificates.radii import smoothing
from mohs.certificates.smoothing import AtRadius, Fixed, certify_points
from mohs.models import Prepared, as_model, prepare

IMAGES, TURNS, ALPHA, BATCH = 4, 3, 0.001, 128


def plain(module: nn.Module, x: Tensor, sigma: float, n0: int, n: int) -> tuple[int, int, float]:
    """CERTIFY as the paper's box has it: class, hits and radius of one image."""

    def counts(num: int) -> Tensor:
        found = torch.zeros(10, dtype=torch.int64)
        while num > 0:
            size = min(num, BATCH)
            num -= size
            batch = x.repeat(size, 1, 1, 1)
            found += module(batch + torch.randn_like(batch) * sigma).argmax(1).bincount(minlength=10)
        return found

    with torch.no_grad():
        c = int(counts(n0).argmax())
        hits = int(counts(n)[c])
    lower = binomtest(hits, n, alternative="greater").proportion_ci(1 - ALPHA, method="exact").low
    return c, hits, sigma * norm.ppf(lower) if lower > 0.5 else 0.0


def bare(prepared: Prepared, x: Tensor, rows: int) -> None:
    batch = x[:1].expand(prepared.guide.rows, *x.shape[1:]).contiguous()
    for start in range(0, rows, len(batch)):
        prepared.guide.scores(batch[: rows - start])


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def times(name: str, sigma: float, n: int) -> dict[str, Any]:
    module, x, _ = case(name, IMAGES)
    prepared = prepare(as_model(module, x), x[:8], rows=BATCH)
    rule = Fixed(smoothing("l2", sigma, x[0].numel()), n, ALPHA)
    seconds: dict[str, list[float]] = {"loop": [], "mohs": [], "bare": []}
    torch.manual_seed(0)
    for turn in range(TURNS):
        spent, theirs = timed(lambda: [plain(module, one[None], sigma, 100, n) for one in x])
        seconds["loop"].append(spent)
        spent, ours = timed(lambda turn=turn: certify_points(prepared, x, None, rule, n0=100, seed=turn))
        seconds["mohs"].append(spent)
        rows = int(ours.samples.sum()) + 100 * len(x)
        spent, _ = timed(lambda rows=rows: bare(prepared, x, rows))
        seconds["bare"].append(spent)
    full = (ours.samples == n) & (ours.predicted == [c for c, _, _ in theirs])
    one, two = ours.hits[full], np.array([h for _, h, _ in theirs])[full]
    pooled = (one + two) / (2 * n)
    z = np.abs(one - two) / n / np.sqrt(np.maximum(2 * pooled * (1 - pooled) / n, 1e-12))
    ratio = [a / b for a, b in zip(seconds["mohs"], seconds["bare"], strict=True)]
    return {
        "case": name,
        "sigma": sigma,
        "n": n,
        "images": IMAGES,
        "seconds": seconds,
        "over_bare": float(np.median(ratio)),
        "over_loop": float(np.median(seconds["mohs"]) / np.median(seconds["loop"])),
        "radii_loop": [r for _, _, r in theirs],
        "radii_mohs": ours.radius.tolist(),
        "compared": int(full.sum()),
        "largest_z": float(z.max(initial=0)),
    }


def at_radius(name: str, sigma: float, radius: float, images: int = 100) -> dict[str, Any]:
    module, x, y = case(name, images, correct=False)
    prepared = prepare(as_model(module, x), x[:8], rows=BATCH)
    kind = smoothing("l2", sigma, x[0].numel())
    spent, found = timed(lambda: certify_points(prepared, x, y, AtRadius(kind, radius, 100_000, ALPHA)))
    estimated = found.samples[found.samples > 0]
    return {
        "case": name,
        "sigma": sigma,
        "radius": radius,
        "images": images,
        "certified": int((found.radius > 0).sum()),
        "open": int(found.open.sum()),
        "wrong": int((found.predicted != y.numpy()).sum()),
        "mean_samples": float(found.samples.mean()),
        "mean_samples_of_estimated": float(estimated.mean()) if len(estimated) else 0.0,
        "seconds": spent,
    }


def simulate(p: float, runs: int = 10_000, n: int = 100_000, block: int = 32) -> dict[str, Any]:
    """How many runs give a false certificate where the class has just the probability that does not certify the radius."""
    kind = smoothing("l2", 1.0, 1)
    rule = AtRadius(kind, float(norm.ppf(p)), n, ALPHA)
    draw = np.random.default_rng(0)
    hits, seen, going = np.zeros(runs, np.int64), np.zeros(runs, np.int64), np.arange(runs)
    while len(going):
        count = min(block, n - int(seen[going[0]]))
        hits[going] += draw.binomial(count, rule.p, len(going))
        seen[going] += count
        going = going[rule.undecided(hits[going], seen[going])]
    false = int((rule.radius(hits, seen) > 0).sum())
    return {"p": rule.p, "runs": runs, "n": n, "alpha": ALPHA, "false": false, "at_most": int(ALPHA * runs)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    part, *words = sys.argv[1:]
    work = {
        "time": lambda name, sigma, n: times(name, float(sigma), int(n)),
        "at": lambda name, sigma, radius: at_radius(name, float(sigma), float(radius)),
        "simulate": lambda p: simulate(float(p)),
    }
    print(json.dumps(work[part](*words)))
