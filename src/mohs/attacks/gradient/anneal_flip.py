"""Annealed PGD through smoothed ReLUs, then flips of single entries: for survivors of all gradient attacks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.attacks.gradient.apgd import adopt, towards
from mohs.losses import logit_difference
from mohs.models.smooth import SmoothReLUs
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class AnnealFlip(Attack):
    """Towards each of the `targets` likeliest classes: PGD from `starts` random points at once, on the margin, with
    gradients that pass ReLUs smoothly; temperature and step size fall geometrically, so that a smooth landscape turns into
    the network's own. Then, from the best point, local search over single entries: each is tried at both ends of its
    interval, the `together` best of these moves are made one after the other, and the point of all these that is best is
    kept, for as long as it is better; `rounds` at most.

    The search sees across the kinks at which sign steps stall: where units of a robustly trained network switch off, its
    gradient is that of a small region, and moves that it ranks last are found to gain most (measured; ranking them by the
    gradient finds nothing).

    temperature, step_size: first and last; of a step in units of epsilon. entries: tried a round; all where there are no
    more, else drawn anew. restarts: of every class.

    Our own, of parts that are known: a smooth derivative behind an exact ReLU is from Xie, Tan, Gong, Yuille, Le, 2020,
    arXiv:2006.14536, where it trains; local search over the corners of the ball from Moon, An, Song, ICML 2019,
    arXiv:1905.06635, there over blocks and without gradients.

    When to use: last, on the few that all else left, as `deep` does. Of 20 digits of a robustly trained MNIST network that an
    exact solver broke and 10 x 100 steps of PGD do not, it breaks 13 to 15 at a restart; the rest of `deep` none. A survivor
    costs tens of thousands of forward passes. A verdict on hard examples by any attack stays an upper bound.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(64)
    >>> left = ~attacks.PGD()(model, x, y, threat="linf:0.2").broken
    >>> outcome = attacks.AnnealFlip(steps=20, starts=5, rounds=4)(model, x[left], y[left], threat="linf:0.2")
    >>> int(outcome.broken.sum()) >= 3
    True
    """

    steps: int = 100
    starts: int = 20
    targets: int = 3
    temperature: tuple[float, float] = (0.8, 0.02)
    step_size: tuple[float, float] = (0.5, 0.005)
    rounds: int = 16
    entries: int = 1024
    together: int = 32

    paper = "our own, after Xie et al., 2020, arXiv:2006.14536 and Moon et al., ICML 2019, arXiv:1905.06635"
    sets = ("linf",)

    def passes(self, classes: int) -> tuple[int, int]:
        tries, climb = self.restarts * min(self.targets, classes - 1), self.starts * self.steps
        return tries * (climb + 1 + self.rounds * (2 * self.entries + self.together)), tries * climb

    def width(self, threat: Threat) -> int:
        return self.starts

    def tries(self, oracle: Oracle) -> Iterator[Aim]:
        return (aim for _ in range(self.restarts) for aim in towards(oracle, self.targets))

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        return self.flip(oracle, self.anneal(oracle, x0, threat), threat)

    def anneal(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        """The best point of all starts."""
        z = torch.stack([threat.random_point(x0, oracle.stream.at("start", i)) for i in range(self.starts)], 1)
        best, value = x0.clone(), x0.new_full((len(x0),), -torch.inf)
        for k in oracle.steps(self.steps):
            done = k / max(self.steps - 1, 1)
            smooth = SmoothReLUs(oracle.guide.model, _between(self.temperature, done))
            guided = oracle.guided_by(replace(oracle.guide, model=smooth))
            answer = guided.gradient(z.flatten(0, 1), logit_difference, self._rows(z))
            loss, which = answer.loss.view(z.shape[:2]).max(1)
            adopt(loss > value, (best, z[torch.arange(len(z)), which]), (value, loss))
            origin = x0.repeat_interleave(self.starts, 0)
            z = threat.step(z.flatten(0, 1), answer.gradient, origin, _between(self.step_size, done)).view_as(z)
            x0, z, best, value = oracle.compact(x0, z, best, value)
        return best

    def flip(self, oracle: Oracle, x: Tensor, threat: Threat) -> Tensor:
        """The best point of the local search from x."""
        shape, value = x.shape[1:], oracle.scores(x).margin
        ends = [threat.project(torch.full_like(x, end), oracle.x0).flatten(1) for end in (-torch.inf, torch.inf)]
        low, high, x = *ends, x.flatten(1)
        for k in oracle.steps(self.rounds):
            entries = self._entries(oracle, k, x)
            downs, ups = (self._margins(oracle, x, entries, end.gather(1, entries), shape) for end in (low, high))
            order = torch.maximum(downs, ups).argsort(dim=1, descending=True, stable=True)[:, : self.together]
            moved = torch.where(ups > downs, high.gather(1, entries), low.gather(1, entries)).gather(1, order)
            path = _one_after_another(x, entries.gather(1, order), moved)
            margin = oracle.scores(path.view(-1, *shape), rows=self._rows(path)).margin.view(path.shape[:2])
            found, which = margin.max(1)
            adopt(found > value, (x, path[torch.arange(len(x)), which]), (value, found))
            x, low, high, value = oracle.compact(x, low, high, value)
        return x.view(-1, *shape)

    def _entries(self, oracle: Oracle, k: int, x: Tensor) -> Tensor:
        """[rows, entries tried in round k]."""
        if x.shape[1] <= self.entries:
            return torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        return oracle.stream.at("round", k).permutation(x.shape[1])[:, : self.entries]

    def _margins(self, oracle: Oracle, x: Tensor, entries: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
        """The margin [rows, entries] at x with one entry set to its value; `starts` points a row at once."""
        parts = []
        for at, value in zip(entries.split(self.starts, 1), values.split(self.starts, 1), strict=True):
            points = x[:, None].repeat(1, at.shape[1], 1).scatter_(2, at[:, :, None], value[:, :, None])
            parts.append(oracle.scores(points.view(-1, *shape), rows=self._rows(points)).margin.view(at.shape))
        return torch.cat(parts, 1)

    @staticmethod
    def _rows(points: Tensor) -> Tensor:
        """Whose the candidates [rows, some, ...] are."""
        return torch.arange(len(points), device=points.device).repeat_interleave(points.shape[1])


def _between(ends: tuple[float, float], done: float) -> float:
    """Geometrically from the first to the last."""
    return ends[0] * math.pow(ends[1] / ends[0], done)


def _one_after_another(x: Tensor, entries: Tensor, values: Tensor) -> Tensor:
    """[rows, moves, n]: x [rows, n] after the first move, the first two, and so on."""
    path = x[:, None].repeat(1, entries.shape[1], 1)
    for k in range(entries.shape[1]):
        path[:, k:].scatter_(
            2,
            entries[:, None, k : k + 1].expand(-1, path.shape[1] - k, -1),
            values[:, None, k : k + 1].expand(-1, path.shape[1] - k, -1),
        )
    return path
