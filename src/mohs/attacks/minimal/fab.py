"""Fast adaptive boundary attack, and its form towards one class after another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.attacks.gradient.apgd import towards
from mohs.attacks.minimal.deepfool import nearest_boundary
from mohs.geometry import per_row
from mohs.geometry.solve import clip_, total
from mohs.losses import logit_difference
from mohs.oracle import Oracle
from mohs.threat import NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class _FAB(Attack):
    """What both forms share: everything but the boundary of a step."""

    steps: int = 100
    eta: float = 1.05
    alpha_max: float = 0.1
    beta: float = 0.9

    paper = "Croce & Hein, ICML 2020, arXiv:1907.02044"
    sets = ("linf", "l2", "l1")
    minimal = True

    @abstractmethod
    def boundary(self, oracle: Oracle, x: Tensor, threat: NormThreat) -> tuple[Tensor, Tensor]:
        """f [rows] float64 and w: z_k - z_y is about f + <w, . - x>."""

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        x, x_best = threat.origin(x0), threat.origin(x0)
        best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        for restart in range(self.restarts):
            if restart:
                x = _random_start(oracle, x, best, threat, restart)
            for _ in oracle.steps(self.steps):
                x = self._step(oracle, x, x0, threat)
                hit = (oracle.scores(x).margin > 0).nonzero()[:, 0]
                if len(hit):
                    found, centre = x.index_select(0, hit), x0.index_select(0, hit)
                    distance = threat.distance(found, centre)
                    closer = (distance < best[hit]).nonzero()[:, 0]
                    best[hit[closer]] = distance[closer]
                    x_best.index_copy_(0, hit[closer], found.index_select(0, closer))
                    x.index_copy_(0, hit, torch.lerp(centre, found, self.beta))
                x0, x, x_best, best = oracle.compact(x0, x, x_best, best)
        missed = (best == torch.inf).nonzero()[:, 0]
        x_best[missed] = x[missed]
        return threat.project(x_best, x0)

    def _step(self, oracle: Oracle, x: Tensor, x0: Tensor, threat: NormThreat) -> Tensor:
        """Clip((1 - alpha) (x + eta d1) + alpha (x0 + eta d2)), d1 and d2 the ways of x and x0 to the boundary."""
        low, high = threat.constraints.box(x0, threat.bounds)
        f, w = self.boundary(oracle, x, threat)
        d1 = threat.norm.hyperplane(x, w, -f, low, high).sub_(x)
        d2 = threat.norm.hyperplane(x0, w, total((x - x0).mul_(w)) - f, low, high).sub_(x0)
        near, far = (threat.norm.distance(d).clamp_(min=1e-8) for d in (d1, d2))
        alpha = per_row((near / (near + far)).clamp_(max=self.alpha_max).to(x.dtype), x)
        return clip_(torch.lerp(d1.mul_(self.eta).add_(x), d2.mul_(self.eta).add_(x0), alpha), low, high)


@dataclass(frozen=True, kw_only=True)
class FAB(_FAB):
    """Fast adaptive boundary attack. Croce & Hein, ICML 2020, arXiv:1907.02044.

    Each step projects the iterate and x0 onto a linearised boundary z_k = z_y within the box, and goes to a point between
    the two projections, so that it nears the boundary and x0 at once. From an adversarial point it goes back towards x0.
    Iterates may lie outside epsilon, where the Oracle counts no success; the nearest adversarial one, projected, is
    returned. The boundary of a step is the nearest of those linearised at the iterate.

    restarts: the first from x0, the others from random points at half of the least of epsilon and the best distance.
    eta: overshoot. alpha_max: the most pull towards x0. beta: how much of the way from x0 an adversarial point keeps.
    candidates: classes whose boundaries are looked at, the label among them, likeliest first on the
    clean input; 0 for all, as the authors do. A step costs 2 forward passes and a backward pass a candidate; one backward
    pass where the goal is another than to leave the label, and has a single boundary. The paper's final search of three
    steps is left out, as in the authors' AutoAttack.

    When to use: for the least distance in Linf, L2 and L1 with few settings: it needs no budget, and a model that scales its
    logits to hide its loss does not hide from it. A backward pass a class makes it dear with many classes: take `fab-t`, or
    `candidates`. At a fixed budget `apgd` breaks more.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/7 away in linf, 1/5 in l2, 1/4 in l1
    >>> [round(float(attacks.FAB()(model, x, y, threat=f"{norm}:inf").distance), 2) for norm in ("linf", "l2", "l1")]
    [0.14, 0.2, 0.25]
    """

    candidates: int = 0

    def passes(self, classes: int) -> tuple[int, int]:
        steps = self.restarts * self.steps
        return 2 * steps, steps * (min(self.candidates, classes) if self.candidates else classes)

    def tries(self, oracle: Oracle) -> Iterator[Aim]:
        yield oracle.aim

    def boundary(self, oracle: Oracle, x: Tensor, threat: NormThreat) -> tuple[Tensor, Tensor]:
        every = torch.arange(len(x), device=x.device)
        _, f, w = nearest_boundary(oracle, x, threat, every, self.candidates or oracle.judge.model.classes)
        return f.double(), w


@dataclass(frozen=True, kw_only=True)
class FABT(_FAB):
    """FAB towards one class after another: section 5 of Croce & Hein, ICML 2020, arXiv:2003.01690, as AutoAttack runs it.

    The boundary of a step is z_t = z_y. The steps, restarts (of every class), eta, alpha_max and beta are those of `FAB`.
    targets: the classes, likeliest first on the clean input. A step costs 2 forward passes and 1 backward pass, as in
    AutoAttack: the check of a point cannot lend its pass to the next gradient, which is taken elsewhere after every
    adversarial point.

    When to use: the form of FAB for many classes, and the one that the standard profile runs: a class at a time, at one
    backward pass a step. It complements `apgd-t`, as it minimises a distance and not a loss; for distances alone `fmn` costs
    less, but for networks whose gradients are flat at the input, where this one finds a way.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> round(float(attacks.FABT(targets=2)(model, x, y, threat="l2:inf").distance), 2)
    0.2
    """

    targets: int = 9

    def passes(self, classes: int) -> tuple[int, int]:
        steps = min(self.targets, classes - 1) * self.restarts * self.steps
        return 2 * steps, steps

    def tries(self, oracle: Oracle) -> Iterator[Aim]:
        return towards(oracle, self.targets)

    def boundary(self, oracle: Oracle, x: Tensor, threat: NormThreat) -> tuple[Tensor, Tensor]:
        loss = logit_difference if oracle.aim.target is None else oracle.goal.margin  # a goal's own class must win
        answer = oracle.gradient(x, loss)
        return answer.loss.double(), answer.gradient


def _random_start(oracle: Oracle, x: Tensor, best: Tensor, threat: NormThreat, restart: int) -> Tensor:
    """x0 + r u, u on the unit sphere and r half of the least of epsilon and the best distance; half of how far the last
    restart went where both are infinite."""
    x0 = oracle.x0
    reach = best.clamp(max=threat.epsilon)
    radius = torch.where(reach < torch.inf, reach, threat.distance(x, x0)).to(x.dtype) / 2
    offset = threat.norm.sphere(x0, oracle.stream.at("restart", restart))
    return threat.project(offset.mul_(per_row(radius, x)).add_(x0), x0, radius)
