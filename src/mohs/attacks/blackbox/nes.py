"""NES: projected steps along a gradient estimated from scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.slope import slope, visible, width
from mohs.errors import Refused
from mohs.losses import Loss, cross_entropy
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Goal, Knowledge, Threat

LEAST = 1 / 200  # of the step size, below which it is not halved


@dataclass(frozen=True, kw_only=True)
class NES(Attack):
    """Projected steps along g = 1 / (n sigma) sum_j u_j (L(x + sigma u_j) - L(x - sigma u_j)), u_j ~ N(0, I), j up to n / 2,
    with momentum.

    samples: n, the scores asked of a row for g; one more tells whether the step succeeded. sigma: how far they lie from x, in
    the units of the input, and no less than a level of quantised ones. step_size: in units of epsilon, the paper's
    0.01 at 0.05; it is halved where the loss is lower than `plateau` steps before. momentum: the weight of the past in g.
    Points are asked about outside the ball, where the adversary may look but not stay. The paper's attacks for partial scores
    and for labels alone are not part of this one.
    Ilyas, Engstrom, Athalye, Lin, ICML 2018, arXiv:1804.08598.

    When to use: to see what a gradient that is only estimated finds, as a check of masking beside `square`, or to repeat its
    papers. Where only success counts, `square` needs a fraction of the queries.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/7 = 0.1429 away in linf
    >>> outcome = attacks.NES(steps=20)(model, x, y, threat="linf:0.15+knowledge:scores")
    >>> bool(outcome.broken), int(outcome.backwards)
    (True, 0)
    """

    steps: int = 100
    samples: int = 50
    sigma: float = 1e-3
    step_size: float = 0.2
    momentum: float = 0.9
    plateau: int = 5
    loss: Loss = cross_entropy

    paper = "Ilyas et al., ICML 2018, arXiv:1804.08598"
    knowledge = Knowledge.SCORES
    sets = ("linf", "l2")
    roams = True

    def width(self, threat: Threat) -> int:
        return width(self.samples)

    def passes(self, classes: int) -> tuple[int, int]:
        return (self.samples + 1) * self.steps * self.restarts, 0

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        check_samples(type(self).__name__, self.samples)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        begun = threat.origin(x0) if oracle.begun is None else oracle.begun
        x, mean, sigma = begun, torch.zeros_like(x0), visible(self.sigma, threat)
        size = torch.full((len(x0),), self.step_size, device=x0.device)
        levels = torch.full((len(x0), self.plateau), -torch.inf, device=x0.device)
        for k in oracle.steps(self.steps):
            stream, pairs = oracle.stream.at("step", k), self.samples // 2
            g = slope(oracle, x, x0, threat, self.loss, draw=Stream.normal, stream=stream, pairs=pairs, size=sigma)
            mean = self.momentum * mean + (1 - self.momentum) * g
            x = threat.step(x, mean.clone(), x0, size)
            levels = torch.cat([levels[:, 1:], oracle.scores(x, self.loss).loss[:, None]], 1)
            stuck = levels[:, -1] < levels[:, 0]
            size = torch.where(stuck, (size / 2).clamp(min=self.step_size * LEAST), size)
            levels = levels.masked_fill(stuck[:, None], -torch.inf)
            x0, x, mean, size, levels = oracle.compact(x0, x, mean, size, levels)
        return x


def check_samples(name: str, samples: int) -> None:
    if samples < 2 or samples % 2:
        raise Refused(f"{name} asks at pairs of points: samples {samples} should be even, and 2 or more")
