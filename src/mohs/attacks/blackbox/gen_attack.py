"""GenAttack: a genetic algorithm, by scores alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.errors import Refused
from mohs.losses import log_odds
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Goal, Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class GenAttack(Attack):
    """A population of perturbations; the fittest stays, and the others are children of two parents, drawn by
    softmax(fitness / temperature), of which each entry comes from one or the other by their shares of it, and mutates
    by up to alpha epsilon with probability rho.

    rho = max(0.1, 0.5 0.9^k) and alpha = max(0.15, 0.4 0.9^k), k the times that `patience` generations brought no better
    fitness. Fitness: log p_t - log sum_{j != t} p_j; the paper is targeted, and without a target it is that of leaving
    y. The reduction of dimension that the paper has for ImageNet is left out. A generation costs population - 1 forward
    passes. Alzantot, Sharma, Chakraborty, Zhang, Hsieh, Srivastava, GECCO 2019, arXiv:1805.11090.

    When to use: for targeted attacks by scores where a population is wanted, and to repeat its paper. `square` needs far fewer
    queries for the same success; keep this one as a second, unlike search.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/7 = 0.1429 away in linf
    >>> outcome = attacks.GenAttack(steps=100)(model, x, y, threat="linf:0.2+knowledge:scores")
    >>> bool(outcome.broken), int(outcome.backwards)
    (True, 0)
    """

    steps: int = 1000
    population: int = 6
    temperature: float = 0.3
    patience: int = 100

    paper = "Alzantot et al., GECCO 2019, arXiv:1805.11090"
    knowledge = Knowledge.SCORES
    sets = ("linf",)

    def width(self, threat: Threat) -> int:
        return self.population

    def passes(self, classes: int) -> tuple[int, int]:
        return (self.population + (self.population - 1) * self.steps) * self.restarts, 0

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if self.population < 2:
            raise Refused(f"GenAttack needs parents: population {self.population} is below 2")

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        start = [threat.random_point(x0, oracle.stream.at("member", i)) for i in range(self.population)]
        x = torch.stack(start, 1)
        stale = torch.zeros(len(x0), device=x0.device)
        s = State(x0, x, self._fitness(oracle, x), stale, stale.clone())
        for k in oracle.steps(self.steps):
            stream = oracle.stream.at("generation", k)
            elite, best = s.fitness.argmax(1), s.fitness.amax(1)
            children = self._breed(s, threat, stream)
            fitness = self._fitness(oracle, children)
            rows = torch.arange(len(elite), device=x0.device)
            x = torch.cat([s.x[rows, elite][:, None], children], 1)
            stale = torch.where(fitness.amax(1) > best, 0.0, s.stale + 1)
            done = stale >= self.patience
            s = State(s.x0, x, torch.cat([best[:, None], fitness], 1), stale.masked_fill(done, 0), s.plateaus + done)
            s = State(*oracle.compact(*s))
        return s.x[torch.arange(len(s.x), device=x0.device), s.fitness.argmax(1)]

    def _breed(self, s: State, threat: Threat, stream: Stream) -> Tensor:
        """One child for every member but the elite, [rows, population - 1, *input]."""
        n, shape = self.population - 1, s.x0.shape[1:]
        share = (s.fitness / self.temperature).softmax(1)
        chosen = draw(share, stream.at("parents").uniform(n, 2))
        one, two = (share.gather(1, chosen[:, :, i]) for i in (0, 1))
        ones = [1] * len(shape)
        mother, father = (s.x.gather(1, chosen[:, :, i].view(-1, n, *ones).expand(-1, -1, *shape)) for i in (0, 1))
        first = stream.at("cross").uniform(n, *shape) < (one / (one + two).clamp(min=1e-30)).view(-1, n, *ones)
        rho, alpha = ((top * 0.9**s.plateaus).clamp(min=least).view(-1, 1, *ones) for top, least in ((0.5, 0.1), (0.4, 0.15)))
        mutates = stream.at("where").uniform(n, *shape) < rho
        noise = (2 * stream.at("noise").uniform(n, *shape) - 1) * alpha * threat.epsilon
        child = torch.where(first, mother, father) + noise * mutates
        return threat.project(child.flatten(0, 1), s.x0.repeat_interleave(n, 0)).view_as(child)

    def _fitness(self, oracle: Oracle, x: Tensor) -> Tensor:
        rows = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
        return oracle.scores(x.flatten(0, 1), log_odds, rows).loss.view(x.shape[:2])


class State(NamedTuple):
    """A row each. x [rows, population, *input]; fitness [rows, population]; stale: generations without a better one;
    plateaus: how often they came to `patience`."""

    x0: Tensor
    x: Tensor
    fitness: Tensor
    stale: Tensor
    plateaus: Tensor


def draw(share: Tensor, u: Tensor) -> Tensor:
    """Members by their shares [rows, population], one for every u in [0, 1) [rows, ...]."""
    steps = share.cumsum(1).view(len(share), *[1] * (u.ndim - 1), -1)
    return (u[..., None] >= steps).sum(-1).clamp(max=share.shape[1] - 1)
