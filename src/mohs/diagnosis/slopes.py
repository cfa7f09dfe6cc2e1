"""Signs in the gradients themselves, at the clean examples: absent, misleading, or of a surface too rough to follow."""

from __future__ import annotations

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.diagnosis.bench import Bench
from mohs.diagnosis.searches import naive
from mohs.diagnosis.sign import Evidence, Plot
from mohs.losses import cross_entropy
from mohs.models.gradients import STEP, agreement

ROWS = 16  # examples whose slopes are measured
STEPS = (0.25, 0.5, 1.0, 2.0)  # of STEP
OFFSETS = 20  # random offsets an example
RADIUS = 4 / 255  # of the range of the inputs: how far each may go


def gradients(bench: Bench) -> Evidence:
    """The share of examples at which the cross-entropy gives no gradient, zero in every entry or no number, though the scores
    change with the input: there it is saturated, or cut off. Where the scores themselves are flat there is nothing to follow."""
    if not bench.graded:
        return Evidence(1.0, next((f.message.partition(":")[0] for f in bench.findings if f.code == "gradient"), "no gradient"))
    x = bench.rows.detach().requires_grad_()
    with torch.enable_grad():
        loss = cross_entropy(bench.model.logits(x).float(), Aim(bench.labels))
        g: Tensor = torch.autograd.grad(loss.sum(), x)[0]
    bench.forwards, bench.backwards = bench.forwards + bench.n, bench.backwards + bench.n
    size = g.flatten(1).abs().amax(1).double().cpu()
    lost = ~(size > 0) & _sloped(bench)
    told = f"the cross-entropy has no gradient at {int(lost.sum())} of {bench.n} examples whose scores have a slope"
    exponents = size.clamp_min(1e-46).nan_to_num(1e-46).log10().sort().values
    plot = Plot(list(range(1, bench.n + 1)), {"largest entry": exponents.tolist()}, "examples, sorted", "log10 |g|")
    return Evidence(float(lost.double().mean()), told, plot)


@torch.no_grad()
def _sloped(bench: Bench) -> Tensor:
    """[n] bool: whether the margin changes along random signs."""
    low, high = bench.model.bounds
    start, moved = bench.margins(bench.rows), torch.zeros(bench.n, dtype=torch.bool)
    for number in range(4):
        way = bench.stream.at("sign", number).signs(*bench.x.shape[1:]) * STEP * (high - low)
        moved |= bench.margins(bench.rows + way) != start
    return moved


def slope(bench: Bench) -> Evidence:
    """1 - the cosine between the slopes by the gradient and by finite differences, along random signs."""
    if not bench.graded:
        return Evidence(None, "there is no gradient")
    if not bench.model.differentiable:
        return Evidence(None, "gradients are, as declared, those of a substitute")
    if bench.model.random:
        return Evidence(None, "the model is random: see the draws")
    low, high = bench.model.bounds
    step = STEP * (high - low)
    cosines = [agreement(bench.model.logits, bench.rows[:ROWS], factor * step) for factor in STEPS]
    cosine = cosines[STEPS.index(1.0)]
    plot = Plot([factor * STEP * 255 for factor in STEPS], {"cosine": cosines}, "half span, of 255 levels", "cosine")
    return Evidence(1 - cosine, f"gradient and finite differences agree to a cosine of {cosine:.2f}", plot)


def stability(bench: Bench) -> Evidence:
    """Indicator I2 of Pintor et al. on the margin, of the examples that stand: its relative change under small random offsets,
    each example's at most 1, over all examples. The cross-entropy would do for them; where a model is sure it is nearly 0, and
    any change is large. What an attack broke, no rough surface hid."""
    if bench.model.random:
        return Evidence(None, "the model is random: see the draws")
    standing = ~naive(bench)
    if not standing.any():
        return Evidence(None, "nothing stands that a rough surface could have hidden")
    low, high = bench.model.bounds
    start = bench.margins(bench.rows)
    moved = []
    for number in range(OFFSETS):
        offset = (bench.stream.at("offset", number).uniform(*bench.x.shape[1:]) * 2 - 1) * RADIUS * (high - low)
        moved.append((bench.margins((bench.rows + offset).clamp(low, high)) - start).abs() / start.abs().clamp_min(1e-12))
    change = torch.stack(moved).mean(0).clamp(max=1).cpu()[standing]
    told = f"small noise changes the margin of {len(change)} examples that stand by {float(change.mean()):.1%} of itself"
    plot = Plot(list(range(1, len(change) + 1)), {"relative change": change.sort().values.tolist()}, "examples, sorted", "change")
    return Evidence(float(change.sum()) / bench.n, told, plot)
