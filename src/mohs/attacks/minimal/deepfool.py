"""DeepFool: step after step to the nearest face of the linearised decision region."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.geometry import per_row
from mohs.oracle import Oracle
from mohs.threat import NormThreat, Threat, Untargeted

LEAST = 1e-3  # of the change so far: the least a step may be, or a curved boundary is neared for ever
TINY = 1e-6  # the least of the first step, for ties


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """r_total grows by the least change to the nearest linearised boundary; x = x0 + (1 + overshoot) r_total.

    steps: linearisations at most, of two forward passes each. candidates: classes whose boundaries are looked at, the
    label among them, likeliest first on the clean input; each costs a backward pass. overshoot: of the whole change, so
    that a linear model is crossed at 1 + overshoot times its distance.

    No step is shorter than a thousandth of the change so far, where the authors add 1e-4 to every one: else a curved
    boundary would be neared and never crossed. Boundaries are those of the label. A goal that names a class, a
    confidence or k likeliest ones has one boundary, that of its own margin. x is clipped to the box, which may keep it
    from crossing. A budget stops nothing: what crosses beyond it is no success, and the row is done.
    Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, arXiv:1511.04599.

    When to use: for a quick estimate of the distance to the boundary: a handful of passes. Its points lie a few per cent to a
    few times farther than the nearest, so that its robustness is too high: use `fmn`, `ddn` or `superdeepfool` for a number to
    report. Public code differs in whether the overshoot is added once or at each step.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2; the overshoot adds 2%
    >>> outcome = attacks.DeepFool()(model, x, y, threat="l2:inf")
    >>> round(float(outcome.distance), 4), int(outcome.forwards)
    (0.204, 3)
    """

    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02

    paper = "Moosavi-Dezfooli et al., CVPR 2016, arXiv:1511.04599"
    random = False
    sets: ClassVar[tuple[str, ...]] = ("linf", "l2")
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        steps = self.steps * self.restarts
        return 2 * steps, steps * min(self.candidates, classes)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)  # as `sets` says
        return self.descend(oracle, threat.origin(x0), threat, torch.arange(len(x0), device=x0.device))[0]

    def descend(self, oracle: Oracle, start: Tensor, threat: NormThreat, rows: Tensor) -> tuple[Tensor, Tensor]:
        """From points `start` [n, ...] of `rows` across the boundary; r_total counts from there. Returns where they came
        to, and [n] bool, which have moved at all."""
        x, r_total = start.clone(), torch.zeros_like(start)
        todo = torch.arange(len(x), device=x.device)  # of `rows`, those whose point has not crossed
        moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in oracle.steps(self.steps):
            if not _single(oracle):  # a forward pass first: the crossing itself needs no gradients
                todo = todo[oracle.scores(x[todo], rows=rows[todo]).margin <= 0]
            margin, f, w = nearest_boundary(oracle, x[todo], threat, rows[todo], self.candidates)
            todo, f, w = todo[margin <= 0], f[margin <= 0], w[margin <= 0]
            if len(todo) == 0:
                break
            moved[todo] = True
            length = (f.abs() / threat.norm.dual(w)).nan_to_num(posinf=0.0)
            least = threat.norm.distance(r_total[todo]).mul_(LEAST).clamp_(min=TINY)
            length = torch.maximum(length, least.to(length.dtype))
            r_total[todo] += threat.norm.steepest(w) * per_row(length, w)
            further = start[todo] + (1 + self.overshoot) * r_total[todo]
            x[todo] = threat.project(further, oracle.x0[rows[todo]], math.inf)
        return x, moved


def nearest_boundary(
    oracle: Oracle, x: Tensor, threat: NormThreat, rows: Tensor, candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The margins of points x [n, ...] of `rows`, and the nearest linearised boundary f + <w, r> = 0 there: of the label
    with the `candidates` - 1 likeliest other classes on the clean input, or of the goal's own margin where the goal is
    another than to leave the label."""
    if _single(oracle):
        answer = oracle.gradient(x, oracle.goal.margin, rows)
        return answer.margin, answer.loss, threat.constraints.mutable(answer.gradient)
    classes = _likeliest(oracle, candidates)[rows]
    answer = oracle.jacobian(x, classes, rows)
    logits = answer.logits.gather(1, classes)
    f = logits[:, 1:] - logits[:, :1]
    w = threat.constraints.mutable(answer.gradient[:, 1:] - answer.gradient[:, :1])
    distance = f.abs() / threat.norm.dual(w.flatten(0, 1)).view_as(f)
    nearest = distance.nan_to_num(nan=math.inf).argmin(1, keepdim=True)
    here = torch.arange(len(x), device=x.device)
    return answer.margin, f.gather(1, nearest)[:, 0], w[here, nearest[:, 0]]


def _single(oracle: Oracle) -> bool:
    """Whether the goal has one boundary rather than one a class."""
    return not isinstance(oracle.goal, Untargeted) or oracle.goal.rejected is not None


def _likeliest(oracle: Oracle, candidates: int) -> Tensor:
    """[rows, candidates]: the label, then the likeliest others."""
    y, clean = oracle.aim.y[:, None], oracle.aim.reference
    assert clean is not None
    others = clean.scatter(1, y, -torch.inf).topk(min(candidates, clean.shape[1]) - 1, dim=1).indices
    return torch.cat([y, others], 1)
