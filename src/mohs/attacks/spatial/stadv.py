"""stAdv: a smooth flow that bends the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.attacks.minimal.lbfgs import SEARCH, in_lockstep
from mohs.geometry.solve import total
from mohs.oracle import Oracle
from mohs.threat import FlowThreat, Threat

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.optimize import OptimizeResult

    from mohs.attacks.minimal.lbfgs import Vector


@dataclass(frozen=True, kw_only=True)
class StAdv(Attack):
    """min max(-margin, 0) + tau sum_p sum_{q in N(p)} sqrt(||f_p - f_q||^2 + tiny) over the flow f, in pixels, by L-BFGS-B from
    f = 0 in float64; N(p) are the four neighbours.

    steps: iterations, of about 1 forward and 1 backward pass each, twice that and a line search at most. confidence:
    the paper's kappa, 0 there. A flow that bends all of the image alike costs nothing, so that the flow found is
    smooth, not small; where the threat has a budget, it is a bound of the minimiser's, which the paper has not. tiny, 1e-10 as
    in public code, gives the root a slope at f = 0. The paper is targeted; any other goal has its own margin. Its tau is for
    models without a defence: on a hardened one that puts the flow's price above what bending gains, take 0.01 or less. Every
    example has a minimiser of its own, scipy's.
    Xiao, Zhu, Li, He, Liu, Song, ICLR 2018, arXiv:1801.02612.

    When to use: for changes that bend an image and leave its colours alone, which defences tuned to norms do not expect. It
    seeks smooth flows, not small ones: within a flow budget `pgd` on `flow:EPSILON` is the stronger. About 100 passes, in
    scipy's L-BFGS-B, an example at a time.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(8)
    >>> outcome = attacks.StAdv(tau=0.005)(model, x, y, threat="flow:inf")
    >>> tuple(outcome.point.shape), bool(outcome.broken.any())  # a shift down and a shift right for every pixel
    ((8, 2, 8, 8), True)
    """

    steps: int = 100
    tau: float = 0.05
    confidence: float = 0.0
    tolerance: float = 1e-6

    paper = "Xiao et al., ICLR 2018, arXiv:1801.02612"
    random = False
    sets = ("flow",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        most = self.restarts * (2 * self.steps + SEARCH + 1)
        return most, most

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        from scipy.optimize import Bounds, minimize

        assert isinstance(threat, FlowThreat)  # as `sets` says
        flow = threat.origin(x0)
        shape = flow.shape[1:]
        far = (threat.reach(x0) * threat.epsilon).flatten().double().cpu().numpy() if math.isfinite(threat.epsilon) else None

        def hinge(logits: Tensor, aim: Aim) -> Tensor:
            return oracle.goal.margin(logits, aim).clamp(max=0)

        def ask(rows: list[int], points: list[Vector]) -> list[tuple[float, Vector] | None]:
            at = torch.tensor(rows, device=x0.device)
            p = torch.stack([torch.from_numpy(v) for v in points]).view(-1, *shape)
            answer = oracle.gradient(p.to(x0), hinge, at)
            live = oracle.open[at].tolist()
            rough, slope = roughness(p)
            value = (self.tau * rough - answer.loss.double().cpu()).tolist()
            slope = (self.tau * slope - answer.gradient.double().cpu()).flatten(1)
            return [(value[k], slope[k].numpy()) if live[k] else None for k in range(len(rows))]

        def job(i: int, f: Callable[[Vector], tuple[float, Vector]]) -> OptimizeResult:
            options = {"maxiter": self.steps, "maxfun": 2 * self.steps, "ftol": self.tolerance}
            start = flow[i].flatten().double().cpu().numpy()
            limits = None if far is None else Bounds(-far, far)
            return minimize(f, start, jac=True, method="L-BFGS-B", bounds=limits, options=options)

        for i, found in in_lockstep(oracle.open.nonzero()[:, 0].tolist(), job, ask):
            if found is not None:  # else it closed on its way; a line search that fails ends at its best flow
                flow[i] = torch.from_numpy(found.x).to(x0).view(shape)
        return threat.project(flow, x0)


def roughness(flow: Tensor) -> tuple[Tensor, Tensor]:
    """The flow loss [n] of flows [n, 2, height, width] and its gradient. Every pair of neighbours counts twice, from both of
    its ends."""
    with torch.enable_grad():
        f = flow.detach().requires_grad_()
        down, right = f[:, :, 1:] - f[:, :, :-1], f[:, :, :, 1:] - f[:, :, :, :-1]
        value = sum(2 * total((d.square().sum(1) + 1e-10).sqrt()) for d in (down, right))
        assert isinstance(value, Tensor)
        (slope,) = torch.autograd.grad(value.sum(), f)
    return value.detach(), slope
