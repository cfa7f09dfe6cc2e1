"""The one-pixel attack: differential evolution over places and colours, by scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.base import Attack
from mohs.errors import Refused
from mohs.losses import Loss, cross_entropy
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import L0, Goal, Knowledge, Threat


@dataclass(frozen=True, kw_only=True)
class OnePixel(Attack):
    """A population of changes, each of epsilon pixels (x, y, r, g, b); the child of place i is a + scale (b - c) of three
    others, and takes the place where its loss is larger. One forward pass a child.

    Places start uniform, colours normal of mean 128 and deviation 127, in grey levels of the model's range; both are held
    to the image and the box. Where the threat counts entries, a change is a place among them and one value. The
    cross-entropy orders changes as the paper's probabilities do; the search ends at the goal, not at a probability.
    Su, Vargas, Sakurai, IEEE TEVC 2019, arXiv:1710.08864.

    When to use: to tell how much one pixel can do, by scores alone, and for its famous picture. 40,400 queries an example are a
    lot: `sparse-rs` breaks more with a tenth of them, `sigma-zero` finds the least count where gradients are to be had.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.linear_example()  # the first entry raised by 0.25 is enough
    >>> outcome = attacks.OnePixel(population=20, generations=10)(model, x, y, threat="l0:1+knowledge:scores")
    >>> bool(outcome.broken), int((outcome.adversarial != x).sum())
    (True, 1)
    """

    population: int = 400
    generations: int = 100
    scale: float = 0.5
    loss: Loss = cross_entropy

    paper = "Su et al., IEEE TEVC 2019, arXiv:1710.08864"
    knowledge = Knowledge.SCORES
    sets = ("l0",)

    def width(self, threat: Threat) -> int:
        return self.population

    def passes(self, classes: int) -> tuple[int, int]:
        return self.population * (self.generations + 1) * self.restarts, 0

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if self.population < 4:
            raise Refused(f"OnePixel makes a child of three others: population {self.population} is below 4")
        if not all(map(math.isfinite, model.bounds)):
            raise Refused(f"OnePixel draws grey levels of the range, and the model {model.name} has none: {model.bounds}")

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        assert isinstance(threat, L0)  # as `sets` says
        shape = x0.shape[2:] if threat.pixels else x0.shape[1:]
        count = min(int(threat.epsilon), math.prod(shape))
        if count == 0:
            return threat.origin(x0)
        changes = self.first(oracle.stream.at("start"), threat, shape, count, x0.shape[1] if threat.pixels else 1)
        value = self.value(oracle, changes, shape)
        for k in oracle.steps(self.generations):
            children = self.breed(changes, oracle.stream.at("generation", k), shape)
            after = self.value(oracle, children, shape)
            better = after > value
            changes = torch.where(better[:, :, None, None], children, changes)
            value = torch.maximum(value, after)
            x0, changes, value = oracle.compact(x0, changes, value)
        best = value.argmax(1)[:, None, None, None].expand(-1, 1, *changes.shape[2:])
        return self.paint(changes.gather(1, best), oracle, shape)

    def first(self, stream: Stream, threat: Threat, shape: torch.Size, count: int, channels: int) -> Tensor:
        """Changes [rows, population, count, places and values]: a place has a number in each of `shape`."""
        sizes = torch.tensor(shape, dtype=torch.float32, device=stream.keys.device)
        place = stream.at("place").uniform(self.population, count, len(shape)) * sizes
        grey = (128 + 127 * stream.at("value").normal(self.population, count, channels)) / 255
        return torch.cat([place, threat.bounds[0] + grey * (threat.bounds[1] - threat.bounds[0])], 3)

    def breed(self, changes: Tensor, stream: Stream, shape: torch.Size) -> Tensor:
        """a + scale (b - c) for every place, of three different members each; places are held to the image."""
        a, b, c = (changes.gather(1, i[:, :, None, None].expand_as(changes)) for i in three(stream, changes.shape[1]))
        children = a + self.scale * (b - c)
        for i, size in enumerate(shape):
            children[..., i].clamp_(0, size - 1e-3)
        return children

    def paint(self, changes: Tensor, oracle: Oracle, shape: torch.Size) -> Tensor:
        """The inputs [rows x members, *input] of changes, projected onto the set."""
        rows, members = changes.shape[:2]
        x0 = oracle.x0.repeat_interleave(members, 0)
        index = torch.zeros_like(changes[..., 0], dtype=torch.long)
        for i, size in enumerate(shape):
            index = index * size + changes[..., i].floor().clamp(0, size - 1).long()
        values = changes[..., len(shape) :].flatten(0, 1).transpose(1, 2)  # [., channels, count]
        flat = x0.reshape(rows * members, values.shape[1], math.prod(shape))
        place = index.flatten(0, 1)[:, None].expand_as(values)
        return oracle.threat.project(flat.scatter(2, place, values).view_as(x0), x0)

    def value(self, oracle: Oracle, changes: Tensor, shape: torch.Size) -> Tensor:
        """The loss [rows, population]."""
        rows = torch.arange(len(changes), device=changes.device).repeat_interleave(changes.shape[1])
        return oracle.scores(self.paint(changes, oracle, shape), self.loss, rows).loss.view(changes.shape[:2])


def three(stream: Stream, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three different numbers below n for each of n members, [rows, n] each."""
    a = stream.at("a").integers(n, n)
    b = (a + 1 + stream.at("b").integers(n - 1, n)) % n
    c = stream.at("c").integers(n - 2, n)
    c = c + (c >= torch.minimum(a, b)).long()
    return a, b, c + (c >= torch.maximum(a, b)).long()
