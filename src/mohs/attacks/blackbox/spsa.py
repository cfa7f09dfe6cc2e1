"""SPSA: Adam along a gradient estimated from scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import adam
from mohs.attacks.base import Attack
from mohs.attacks.blackbox.nes import check_samples
from mohs.attacks.blackbox.slope import slope, visible, width
from mohs.losses import Loss, logit_difference
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Goal, Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class SPSA(Attack):
    """Adam, and a projection after each of its steps, along the mean of (L(x + delta v) - L(x - delta v)) / (2 delta) v^-1
    over random v in {-1, 1}^d, of which each entry is its own inverse.

    samples: scores asked of a row for an estimate, two a draw of v, and the paper takes up to 8,192; one more tells whether
    the step succeeded. delta: how far they lie from x in every entry, in the units of the input, and no less than a level of
    quantised ones. rate: Adam's step, in units of epsilon, the paper's 0.01 at 8/255. Points are asked about outside the
    ball, where the adversary may look but not stay. Some public code asks around 2x and never around the iterate.
    Uesato, O'Donoghue, van den Oord, Kohli, ICML 2018, arXiv:1802.05666.

    When to use: the paper's own use, a check of masking: where it finds what gradients did not, the gradients lie. Give it
    thousands of samples then; a weak setting that fails says nothing. For few queries take `square`.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/7 = 0.1429 away in linf
    >>> outcome = attacks.SPSA(steps=40)(model, x, y, threat="linf:0.15+knowledge:scores")
    >>> bool(outcome.broken), int(outcome.backwards)
    (True, 0)
    """

    steps: int = 100
    samples: int = 256
    delta: float = 0.01
    rate: float = 0.3
    loss: Loss = logit_difference

    paper = "Uesato et al., ICML 2018, arXiv:1802.05666"
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
        x, mean, square = threat.origin(x0), torch.zeros_like(x0), torch.zeros_like(x0)
        delta = visible(self.delta, threat)
        for k in oracle.steps(self.steps):
            stream, pairs = oracle.stream.at("step", k), self.samples // 2
            g = slope(oracle, x, x0, threat, self.loss, draw=Stream.signs, stream=stream, pairs=pairs, size=delta)
            direction, metric = adam(g, mean, square, k)
            x = threat.project(x + self.rate * threat.epsilon * direction / metric, x0)
            oracle.scores(x)
            x0, x, mean, square = oracle.compact(x0, x, mean, square)
        return x
