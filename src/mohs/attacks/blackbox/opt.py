"""OPT and Sign-OPT: descent on the distance to the boundary as a function of the direction."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs import geometry
from mohs.attacks.base import Attack
from mohs.attacks.blackbox.labels import CHUNK, Labels
from mohs.geometry import per_row
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, NormThreat, Threat

TRIALS = 15  # of a step's length, longer ones and then shorter ones
GROWTH = 0.01  # of a radius, at first, in the search for its bracket; doubled at every label


@dataclass(frozen=True, kw_only=True)
class Directions(Attack):
    """What OPT and Sign-OPT share: g(theta), the distance at which x0 + g theta / ||theta|| meets the boundary, goes down
    along an estimate of its gradient. A step's length is doubled while g falls, and cut to a quarter where it does not;
    where no length lowers g, the probes' distance beta is cut to a tenth."""

    queries: int = 20000
    alpha: float = 0.2
    beta: float = 0.001
    tolerance: float = 1e-4
    starts: int = 100

    knowledge = Knowledge.LABEL
    sets = ("l2",)
    minimal = True

    def width(self, threat: Threat) -> int:
        return CHUNK

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, NormThreat)
        labels = Labels.of(oracle, self.queries)
        x = labels.start(self.starts, 12)
        theta, g = unit(x - x0), threat.distance(x, x0).to(x.dtype)
        alpha, beta = torch.full_like(g, self.alpha), torch.full_like(g, self.beta)
        x0, theta, g, alpha, beta = oracle.compact(x0, theta, g, alpha, beta)
        for k in labels.steps():
            gradient = threat.constraints.mutable(self.gradient(labels, theta, g, beta, oracle.stream.at("probes", k)))
            theta, g, alpha, beta = self._step(labels, theta, g, gradient, alpha, beta)
            x0, theta, g, alpha, beta = oracle.compact(x0, theta, g, alpha, beta)
        return labels.boxed(x0 + per_row(g, x0) * theta, torch.arange(len(x0), device=x0.device))

    @abstractmethod
    def gradient(self, labels: Labels, theta: Tensor, g: Tensor, beta: Tensor, stream: Stream) -> Tensor:
        """An estimate of the gradient of g at the unit vectors theta [rows, *input], up to its scale where it is of signs."""

    def _step(
        self, labels: Labels, theta: Tensor, g: Tensor, gradient: Tensor, alpha: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """theta and g after the best length of a step, and alpha and beta for the next one."""
        start, best, least, size = theta, theta.clone(), g.clone(), alpha.clone()
        for factor in (2.0, 0.25):
            todo = ((labels.left > 0) & (least == g)).nonzero()[:, 0]
            if factor < 1:
                size[todo] = alpha[todo] * factor
            for _ in range(TRIALS):
                if len(todo) == 0:
                    break
                trial = unit(start[todo] - per_row(size[todo], theta) * gradient[todo])
                value = along(labels, trial, least[todo], todo, self.tolerance, lower=True)
                lower = value < least[todo]
                best[todo[lower]], least[todo[lower]] = trial[lower], value[lower]
                alpha = alpha.index_put((todo[lower],), size[todo[lower]])
                size[todo] *= factor
                todo = todo[(lower if factor > 1 else ~lower) & (labels.left[todo] > 0)]
        stuck = least == g
        return best, least, torch.where(stuck, self.alpha, alpha), torch.where(stuck, (beta / 10).clamp(min=1e-8), beta)


@dataclass(frozen=True, kw_only=True)
class OPT(Directions):
    """The gradient of g is the mean of (g(theta + beta u) - g(theta)) / beta u over `probes` normal draws u, each g found by
    bisection. g(theta) is the distance at which x0 + g theta / ||theta|| meets the boundary; theta goes down its gradient by
    a step whose length is doubled while g falls, and cut to a quarter where it does not; where no length lowers g, beta is
    cut to a tenth. A bracket of g begins 1% beside the value known and widens by doubling, and is halved down to `tolerance`
    of g. The start is one success led to the boundary, and not the nearest of many.
    Cheng, Le, Chen, Zhang, Yi, Hsieh, ICLR 2019, arXiv:1807.04457.

    When to use: to repeat its paper, and where many labels are cheap: every probe costs a bisection. `sign-opt` takes
    the same way with one label a probe.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> outcome = attacks.OPT(queries=3000)(model, x, y, threat="l2:inf+knowledge:label")
    >>> round(float(outcome.distance), 2), int(outcome.backwards)
    (0.2, 0)
    """

    probes: int = 10

    paper = "Cheng et al., ICLR 2019, arXiv:1807.04457"

    def gradient(self, labels: Labels, theta: Tensor, g: Tensor, beta: Tensor, stream: Stream) -> Tensor:
        slope = torch.zeros_like(theta)
        for k in range(self.probes):
            rows = labels.rows()
            u = unit(stream.at(k).normal(*theta.shape[1:])[rows])
            trial = unit(theta[rows] + per_row(beta[rows], theta) * u)
            value = along(labels, trial, g[rows], rows, self.tolerance * 1e-2, lower=False)
            change = torch.where(value.isfinite(), (value - g[rows]) / beta[rows], 0.0)
            slope = slope.index_add(0, rows, per_row(change, theta) * u)
        return unit(slope)


@dataclass(frozen=True, kw_only=True)
class SignOPT(Directions):
    """OPT with one label a probe: the gradient of g is the mean of sign(g(theta + beta u) - g(theta)) u over `probes` unit
    vectors u, and the sign is -1 exactly where x0 + g(theta) times the unit vector along theta + beta u reaches the goal.
    Steps, brackets and start are OPT's. Cheng, Singh, Chen, Chen, Liu, Hsieh, ICLR 2020, arXiv:1909.10773.

    When to use: a second opinion on `hop-skip-jump`, of about the same cost: it turns the direction in which
    to leave the input instead of walking along the boundary. It works through two hundred labels before each step.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> outcome = attacks.SignOPT(queries=2000, probes=50)(model, x, y, threat="l2:inf+knowledge:label")
    >>> round(float(outcome.distance), 2), int(outcome.backwards)
    (0.2, 0)
    """

    probes: int = 200

    paper = "Cheng et al., ICLR 2020, arXiv:1909.10773"

    def gradient(self, labels: Labels, theta: Tensor, g: Tensor, beta: Tensor, stream: Stream) -> Tensor:
        most = labels.left.clamp(max=self.probes)
        x0, total = labels.oracle.x0, torch.zeros_like(theta)
        for k in range(0, self.probes, CHUNK):
            n = min(CHUNK, self.probes - k)
            u = stream.at(k).normal(n, *theta.shape[1:])
            u = unit(u.flatten(0, 1)).view_as(u)
            rows, column = ((torch.arange(k, k + n, device=g.device) < most[:, None]).nonzero()).unbind(1)
            probe = unit(theta[rows] + per_row(beta[rows], theta) * u[rows, column])
            hit = labels.reached(labels.boxed(x0[rows] + per_row(g[rows], theta) * probe, rows), rows)
            for j in range(n):  # one by one: the order of a row's sum is the same in any company
                here = (column == j).nonzero()[:, 0]
                signs = 1 - 2 * hit[here].to(g.dtype)
                total.index_add_(0, rows[here], per_row(signs, theta) * u[rows[here], j])
        return unit(total)


def unit(v: Tensor) -> Tensor:
    return geometry.L2.steepest(v.clone())


def along(labels: Labels, theta: Tensor, known: Tensor, rows: Tensor, tolerance: float, *, lower: bool) -> Tensor:
    """g [n] at unit vectors theta [n, *input] of rows, near the values known [n]; inf where it is not found. lower: one label
    shows whether it is below the value known, and inf is returned where it is not."""
    x0 = labels.oracle.x0[rows]

    def reached(radius: Tensor, at: Tensor) -> Tensor:
        return labels.reached(labels.boxed(x0[at] + per_row(radius[at], theta) * theta[at], rows[at]), rows[at])

    everything = torch.arange(len(rows), device=rows.device)
    inside = reached(known, everything)
    high = torch.where(inside, known, torch.inf)
    low = torch.where(inside, 0.0, known)
    growth = GROWTH
    todo = everything[inside] if lower else everything
    while len(todo) and growth < 1:
        radius = torch.where(inside, known * (1 - growth), known * (1 + growth))
        hit = torch.zeros_like(inside)
        hit[todo] = reached(radius, todo)
        asked = torch.zeros_like(inside)
        asked[todo] = True
        high, low = torch.where(asked & hit, radius, high), torch.where(asked & ~hit, radius, low)
        todo = todo[(hit == inside)[todo] & (labels.left[rows[todo]] > 0)]
        growth *= 2
    while True:
        wide = (high - low > tolerance * high) & high.isfinite() & (labels.left[rows] > 0)
        todo = wide.nonzero()[:, 0]
        if len(todo) == 0:
            return high
        middle = (low + high) / 2
        if bool(((middle == low) | (middle == high))[todo].all()):
            return high
        hit = torch.zeros_like(inside)
        hit[todo] = reached(middle, todo)
        high, low = torch.where(wide & hit, middle, high), torch.where(wide & ~hit, middle, low)
