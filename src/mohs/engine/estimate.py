"""What a plan will cost at most: passes counted, memory added up, time from a timed probe."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs import attacks
from mohs.engine.plan import Plan
from mohs.models import Prepared
from mohs.models.cpu import threads
from mohs.threat import Knowledge

POINTS = 12  # tensors of the size of the cohort that an attack holds at its widest


@dataclass(frozen=True)
class StageCost:
    """At most so much: as if no example fell before this stage. Stages that prove are left out: what a bound costs shows when
    it is computed."""

    threat: str
    stage: str
    forwards: int
    backwards: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """memory: bytes at the peak besides the data. seconds: of one pass of one example, forward and forward+backward."""

    stages: list[StageCost]
    memory: int
    forward: float
    backward: float

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


def estimate(plan: Plan, prepared: Prepared, x: Tensor) -> Estimate:
    """Time one micro-batch of the examples x [n, *input] and multiply."""
    with threads(plan.threads):
        return _estimate(plan, prepared, x)


def _estimate(plan: Plan, prepared: Prepared, x: Tensor) -> Estimate:
    batch = x[torch.arange(min(plan.rows, 4 * len(x))) % len(x)].float().to(prepared.judge.model.device)
    forward = _best(lambda: (prepared.surrogate or prepared.guide).scores(batch)) / len(batch)
    graded = prepared.judge.model.gives >= Knowledge.GRADIENT
    backward = max(_best(lambda: _backward(prepared, batch)) / len(batch) - forward, 0.0) if graded else 0.0
    stages = []
    for threat in plan.threats:
        for stage in threat.stages:
            if stage.inapplicable is None and stage.certificate is None:
                passes = [attacks.make(spec).passes(prepared.judge.model.classes) for spec in stage.attacks]
                f, b = (plan.n * plan.draws * sum(column) for column in zip(*passes, strict=True))
                stages.append(StageCost(threat.text, stage.name, f, b, (f * forward + b * backward) / plan.processes))
    activations = _activations(prepared, batch[: plan.quantum]) // max(1, min(plan.quantum, len(batch))) * plan.rows
    memory = activations + POINTS * plan.cohort * batch[0].numel() * batch.element_size()
    return Estimate(stages, memory * plan.processes, forward, backward)


def _backward(prepared: Prepared, x: Tensor) -> None:
    point = x.detach().requires_grad_()
    with torch.enable_grad():
        torch.autograd.grad((prepared.surrogate or prepared.guide).logits(point).sum(), point, allow_unused=True)


def _activations(prepared: Prepared, x: Tensor) -> int:
    """Bytes that autograd keeps for a backward pass of x."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (prepared.surrogate or prepared.guide).logits(x.detach().requires_grad_(prepared.judge.model.gives >= Knowledge.GRADIENT))
    return kept


def _best(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest of a few runs, after one to warm up."""
    work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)
