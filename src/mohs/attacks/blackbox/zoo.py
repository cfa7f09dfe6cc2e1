"""ZOO: the attack of Carlini & Wagner, a few coordinates at a time, by scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import BETA1, BETA2, TINY
from mohs.attacks.base import Attack
from mohs.attacks.blackbox.parsimonious import blocks
from mohs.attacks.blackbox.slope import visible
from mohs.attacks.blackbox.square import Grid
from mohs.attacks.minimal.objective import ConstantSearch, Descent, check_confidence, toward
from mohs.geometry.solve import length
from mohs.losses import Loss, f6
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Goal, Knowledge, Threat

REGIONS, LEAST = 8, 0.01  # a side, of which changes are compared; the least weight of one, of the largest


@dataclass(frozen=True, kw_only=True)
class ZOO(Attack):
    """min |x - x0|^2 + c f(x) by Adam on some coordinates a step, along (f(x + h e_i) - f(x - h e_i)) / 2h; c by binary search,
    an example its own.

    f = max(log p_y - max_{j != y} log p_j, -confidence), a difference of logits. coordinates: taken in a step, at two scores
    each, and one more at x. Every coordinate has its own count of Adam's steps. h: in the units of the input, no less than a
    level of quantised ones; where the box cuts a probe the difference is over what is left. x is kept in the box by
    projection, as the paper does where it leaves out tanh. steps: of Adam, anew from x0 in each of `search_steps` values of c,
    which fall and grow as in `cw`; the paper takes 1,000 for CIFAR-10 and 3,000 for MNIST. abort_early: a search step ends
    where the loss does not fall any more.
    importance: the first search step draws coordinates alike, those after it by the largest change that the one before made
    in the same of 8 x 8 regions, and never less than a hundredth of the largest: our reading of a passage that has the
    weights follow the change. The paper's reduced space for ImageNet and its Newton variant are left out.
    Chen, Zhang, Sharma, Yi, Hsieh, AISec 2017, arXiv:1708.03999.

    When to use: to repeat its paper, the first of its kind. It takes millions of scores for one image; for a small distance by
    scores alone, bisect the budget of `square`. Public code that takes ten steps and one c finds next to nothing.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the boundary is 1/5 away in l2
    >>> outcome = attacks.ZOO(search_steps=6, steps=100, initial_const=0.1)(model, x, y, threat="l2:inf+knowledge:scores")
    >>> round(float(outcome.distance), 2), int(outcome.backwards)
    (0.2, 0)
    """

    search_steps: int = 9
    steps: int = 1000
    coordinates: int = 128
    learning_rate: float = 0.01
    initial_const: float = 0.01
    h: float = 1e-4
    importance: bool = True
    confidence: float = 0.0
    abort_early: bool = True

    paper = "Chen et al., AISec 2017, arXiv:1708.03999"
    knowledge = Knowledge.SCORES
    sets = ("l2",)
    minimal = True

    def width(self, threat: Threat) -> int:
        return 2 * self.coordinates

    def passes(self, classes: int) -> tuple[int, int]:
        return self.restarts * self.search_steps * self.steps * (2 * self.coordinates + 1), 0

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        check_confidence(self.confidence)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        loss, regions = toward(oracle.goal, f6), Regions.of(x0, threat)
        x, last = x0.clone(), threat.origin(x0)
        adam, weight = CoordinateAdam(x0, self.learning_rate, self.steps), regions.alike(x0)
        search = ConstantSearch(x0, self.initial_const, self.search_steps)
        descent = Descent(x0, self.steps, self.abort_early)
        part, rows = oracle.part(), torch.arange(len(x0), device=x0.device)  # rows: where those of part stand in oracle
        for k in part.steps(self.search_steps * self.steps):
            answer = part.scores(x, loss)
            search.reached |= answer.margin > 0
            due = descent.due
            ended = descent.ended(due, length((x - part.x0)[due]).square_() - (search.c * answer.loss)[due])
            chosen = draw(weight, part.stream.at("step", k), min(self.coordinates, regions.free))
            slope = self.slope(part, x, chosen, threat, loss) * search.c[:, None].to(x.dtype)
            slope += 2 * (x - part.x0).flatten(1).gather(1, chosen)
            x = threat.project(adam.step(x, chosen, slope), part.x0, math.inf)
            if not ended.any():
                continue
            last[rows] = x
            search.end(ended)
            if self.importance:
                weight[ended] = regions.weights(x[ended] - part.x0[ended])
            x[ended] = part.x0[ended]
            adam.restart(ended)
            kept = (search.going & part.open).nonzero()[:, 0]
            if len(kept) < len(x):
                for state in (part, adam, search, descent):
                    state.keep(kept)
                rows, x, weight = rows[kept], x[kept], weight[kept]
        last[rows] = x
        return last

    def slope(self, part: Oracle, x: Tensor, chosen: Tensor, threat: Threat, loss: Loss) -> Tensor:
        """[rows, k]: how fast f rises along the chosen coordinates; 0 along those that the box lets nowhere."""
        (n, k), h = chosen.shape, visible(self.h, threat)
        rows = torch.arange(n, device=x.device).repeat_interleave(2 * k)
        unit = torch.zeros(n, 2, k, x[0].numel(), dtype=x.dtype, device=x.device)
        unit[:, 0].scatter_(2, chosen[:, :, None], h)
        unit[:, 1].scatter_(2, chosen[:, :, None], -h)
        probes = threat.project(x[rows] + unit.view(-1, *x.shape[1:]), part.x0[rows], math.inf)
        f = -part.scores(probes, loss, rows).loss.view(n, 2, k)
        ends = probes.view(n, 2, k, -1).gather(3, chosen[:, None, :, None].expand(-1, 2, -1, -1))[..., 0]
        apart = ends[:, 0] - ends[:, 1]
        return torch.where(apart > 0, (f[:, 0] - f[:, 1]) / apart.clamp(min=TINY), 0.0)


def draw(weight: Tensor, stream: Stream, k: int) -> Tensor:
    """[rows, k]: different coordinates, drawn one after the other by their weights [rows, entries]."""
    return (stream.exponential(weight.shape[1]) / weight).topk(k, dim=1, largest=False).indices


@dataclass(frozen=True)
class Regions:
    """Which of 8 x 8 regions of a channel every entry is in, and which entries may change."""

    block: Tensor
    mutable: Tensor

    @staticmethod
    def of(x0: Tensor, threat: Threat) -> Regions:
        grid = Grid.of(x0)
        block = blocks(grid, max(1, max(grid.height, grid.width) // REGIONS)).to(x0.device)
        return Regions(block, threat.constraints.mutable(torch.ones_like(x0[:1])).flatten())

    @property
    def free(self) -> int:
        return int(self.mutable.sum())

    def alike(self, x0: Tensor) -> Tensor:
        """[rows, entries]: the same for all that may change."""
        return self.mutable.repeat(len(x0), 1)

    def weights(self, change: Tensor) -> Tensor:
        """[rows, entries]: the largest change in the region of each."""
        size = change.flatten(1).abs()
        largest = torch.zeros_like(size).scatter_reduce(1, self.block.expand_as(size), size, "amax")
        floor = LEAST * size.amax(1, keepdim=True).clamp(min=TINY)
        return torch.maximum(largest.gather(1, self.block.expand_as(size)), floor) * self.mutable


class CoordinateAdam:
    """Kingma & Ba, ICLR 2015, arXiv:1412.6980, for coordinates that step at times of their own."""

    def __init__(self, like: Tensor, rate: float, steps: int) -> None:
        self.rate = rate
        self.mean, self.square = torch.zeros_like(like).flatten(1), torch.zeros_like(like).flatten(1)
        self.count = torch.zeros_like(self.mean, dtype=torch.long)
        powers = torch.arange(steps + 1, dtype=torch.float64)
        self.lack1, self.lack2 = ((1 - beta**powers).to(like) for beta in (BETA1, BETA2))

    def step(self, x: Tensor, chosen: Tensor, g: Tensor) -> Tensor:
        """x after a step down along g [rows, k], at the chosen coordinates alone."""
        mean = self.mean.gather(1, chosen).mul_(BETA1).add_(g, alpha=1 - BETA1)
        square = self.square.gather(1, chosen).mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        count = self.count.gather(1, chosen) + 1
        for state, new in ((self.mean, mean), (self.square, square), (self.count, count)):
            state.scatter_(1, chosen, new)
        move = -self.rate * (mean / self.lack1[count]) / ((square / self.lack2[count]).sqrt() + TINY)
        return x.flatten(1).scatter_add(1, chosen, move).view_as(x)

    def restart(self, rows: Tensor) -> None:
        """Forget what these rows [n] bool have seen."""
        for state in (self.mean, self.square, self.count):
            state[rows] = 0

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.mean, self.square, self.count = self.mean[rows], self.square[rows], self.count[rows]
