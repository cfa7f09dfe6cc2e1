"""The Jacobian-based saliency map attack."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.errors import RequestError
from mohs.geometry.solve import clip_
from mohs.losses import pick
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Threat

PAIRS = 1 << 22  # of candidate pairs weighed at once


@dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    """The pair of features that most raises the wanted logit while it lowers the sum of the others, moved by theta, again
    and again.

    Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, EuroS&P 2016, arXiv:1511.07528, algorithms 2 and 3. Of all pairs
    (p, q) of features that can still move, the one with the largest -a b, a = sum_{i in p, q} dZ_t / dx_i > 0 and
    b = sum_{i in p, q} sum_{j != t} dZ_j / dx_i < 0, on the logits Z, as the authors' code has it. A row without such a
    pair is done. 2 forward and 2 backward passes a step.

    theta: the change of a feature, in units of the range of inputs, negative to decrease. gamma: the share of features
    that may change, which allows gamma d / 2 steps. steps: a limit on top of it, which the paper does not have. Features at
    the end of their box are out of the search.

    The paper is targeted. Where the goal names no class the roles swap, as in the non-targeted form of Wiyatno & Xu, 2018,
    arXiv:1808.07945: the label's logit falls and the sum of the others rises.

    When to use: to repeat its paper, and where changes must all go one way, such as features that can only be added. Greedy
    pairs leave many entries changed, and it can be stuck: `sigma-zero` needs fewer. In public code the search of pairs grows
    with the square of the entries, which leaves images of any size out of reach.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(16)
    >>> outcome = attacks.JSMA(gamma=0.5)(model, x, y, threat="l0:inf")
    >>> added = (outcome.adversarial - x)[outcome.broken]
    >>> bool((added >= 0).all()), bool(outcome.broken.any())  # theta = 1: pixels are only lightened
    (True, True)
    """

    theta: float = 1.0
    gamma: float = 0.145
    steps: int = 1000

    paper = "Papernot et al., EuroS&P 2016, arXiv:1511.07528"
    random = False
    sets = ("l0",)
    minimal = True

    def passes(self, classes: int) -> tuple[int, int]:
        return 2 * self.restarts * self.steps, 2 * self.restarts * self.steps

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if self.theta == 0 or not 0 < self.gamma <= 1:
            raise RequestError(f"JSMA needs a theta other than 0 and 0 < gamma <= 1, not {self.theta} and {self.gamma}")
        if not all(map(math.isfinite, threat.bounds)):
            raise RequestError(f"JSMA moves features to the end of the box, and the bounds are {list(threat.bounds)}")

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        x, step = threat.origin(x0), self.theta * (threat.bounds[1] - threat.bounds[0])
        features = x0[0].numel()
        stuck = torch.zeros(len(x0), dtype=torch.bool, device=x0.device)
        for _ in oracle.steps(min(self.steps, int(self.gamma * features / 2))):
            todo = (~stuck & oracle.open).nonzero()[:, 0]
            if len(todo) == 0:
                break
            low, high = threat.constraints.box(x0[todo], threat.bounds)
            answer = oracle.gradient(x[todo], _raised, todo)
            rise = answer.gradient.flatten(1) * math.copysign(1, self.theta)
            fall = oracle.gradient(x[todo], _lowered, todo).gradient.flatten(1) * math.copysign(1, self.theta)
            room = (x[todo] < high if self.theta > 0 else x[todo] > low).flatten(1)
            pair, found = best_pair(rise, fall, room)
            found &= answer.margin <= 0  # its own point has reached the goal
            stuck[todo[~found]] = True
            move = torch.zeros_like(rise).scatter_(1, pair, step).mul_(found[:, None])
            x[todo] = clip_(x[todo] + move.view_as(x[todo]), low, high)
            x0, x, stuck = oracle.compact(x0, x, stuck)
        return x


def _raised(logits: Tensor, aim: Aim) -> Tensor:
    """The logit of the class wanted, or of all but the label."""
    return logits.sum(1) - pick(logits, aim.y) if aim.wanted is None else pick(logits, aim.wanted)


def _lowered(logits: Tensor, aim: Aim) -> Tensor:
    """Minus the sum of the logits of the other classes, or of the label's."""
    return -pick(logits, aim.y) if aim.wanted is None else pick(logits, aim.wanted) - logits.sum(1)


def best_pair(a: Tensor, b: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """The p != q with room that maximise (a_p + a_q)(b_p + b_q) where both sums are positive: [rows, 2], and whether there
    is such a pair, [rows]; a, b [rows, d].

    Exact, though it looks at few: a feature that two others beat in both a and b is in no better pair than one of them, so
    only those beaten by less than two are paired.
    """
    a, b = a.masked_fill(~room, -torch.inf), b.masked_fill(~room, -torch.inf)
    order = a.argsort(dim=1, descending=True, stable=True)
    sorted_b = b.gather(1, order)
    first = torch.cat([torch.full_like(b[:, :1], -torch.inf), sorted_b.cummax(1).values[:, :-1]], 1)  # of those before
    second = torch.minimum(sorted_b, first).cummax(1).values
    second = torch.cat([torch.full_like(b[:, :1], -torch.inf), second[:, :-1]], 1)
    kept = (sorted_b > second) & room.gather(1, order)
    count = max(2, int(kept.sum(1).max()))
    places = (~kept).to(torch.int8).argsort(dim=1, stable=True)[:, :count]
    chosen, counts = order.gather(1, places), kept.gather(1, places)
    pairs, found = [], []
    for part in torch.arange(len(a), device=a.device).split(max(1, PAIRS // count**2)):
        u, v = (t[part].gather(1, chosen[part]).masked_fill(~counts[part], -torch.inf).double() for t in (a, b))
        sum_a, sum_b = u[:, :, None] + u[:, None], v[:, :, None] + v[:, None]
        here = torch.arange(count, device=a.device)
        fits = (sum_a > 0) & (sum_b > 0) & (here[:, None] < here)
        value, flat = torch.where(fits, sum_a * sum_b, 0.0).flatten(1).max(1)
        pairs.append(torch.stack([chosen[part].gather(1, (flat // count)[:, None])[:, 0],
                                  chosen[part].gather(1, (flat % count)[:, None])[:, 0]], 1))  # fmt: skip
        found.append(value > 0)
    return torch.cat(pairs), torch.cat(found)
