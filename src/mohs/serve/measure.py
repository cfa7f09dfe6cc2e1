"""What a guard is worth: how often it speaks up at honest clients, and how many queries an attack has before it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mohs.attacks.blackbox.square import Square
from mohs.models import Guide, Judge, Model, Prepared
from mohs.rng import Stream
from mohs.threat import Knowledge

Detector = Callable[[np.ndarray, int], bool]  # an input [*input] and its label: whether it speaks up
BISECTIONS = 12
TRIES = 50  # random starts


class Queries(NamedTuple):
    """What an attack asked, in order. inputs [n, *input]; labels: the model's; success: the number, from 1, of the query
    that was adversarial and near enough, or None."""

    inputs: np.ndarray
    labels: list[int]
    success: int | None


def rounded(decimals: int) -> Callable[[Tensor], Tensor]:
    """Logits whose probabilities are rounded, as an attacker has them."""
    return lambda z: z.softmax(1).double().round(decimals=decimals).clamp_min(1e-12).log().float()


class Effect(NamedTuple):
    """Of one attack under a detector. detected: the number, from 1, of the first query it speaks up at, or None; share: of
    the queries it speaks up at; stopped: whether that is before the success."""

    detected: int | None
    success: int | None
    share: float

    @property
    def stopped(self) -> bool:
        """Whether a detector that refuses keeps the attack from its success."""
        return self.detected is not None and (self.success is None or self.detected <= self.success)


def effect(detector: Detector, queries: Queries) -> Effect:
    """The attack's queries put to a detector, all of them, as by an attacker who goes on from other addresses."""
    spoke = [detector(x, label) for x, label in zip(queries.inputs, queries.labels, strict=True)]
    first = spoke.index(True) + 1 if any(spoke) else None
    return Effect(first, queries.success, sum(spoke) / max(1, len(spoke)))


def false_alarms(detector: Detector, x: Tensor, labels: Sequence[int], seed: int = 0) -> float:
    """The share of honest queries it speaks up at: x [n, *input], each once, in random order."""
    order = np.random.default_rng(seed).permutation(len(x))
    return sum(detector(x[i].numpy(), labels[i]) for i in order) / len(x)


def square_queries(
    model: Model,
    x: Tensor,
    y: int,
    epsilon: float,
    *,
    queries: int = 1000,
    seed: int = 0,
    told: Callable[[Tensor], Tensor] | None = None,
) -> Queries:
    """Those of Square (Andriushchenko et al., ECCV 2020) on one input [*input] of class y at linf:epsilon.

    told: what a guard makes of the logits, of which alone the attack learns; a success is one by the model itself.
    """
    listener = _Listener(model, told)
    prepared = Prepared(Judge(model, 1, 1), Guide(listener, 1, 1))
    threat = f"linf:{epsilon}+knowledge:scores"
    Square(queries=queries)(prepared, x[None], torch.tensor([y]), threat=threat, seed=seed)
    return listener.asked(y)


def walk_queries(
    model: Model, x: Tensor, y: int, epsilon: float, *, queries: int = 1000, draws: int = 25, seed: int = 0
) -> Queries:
    """Those of a walk along the boundary by labels alone on one input [*input] of class y, as HopSkipJump makes them
    (Chen, Jordan, Wainwright, S&P 2020): a random start, bisection to the boundary, a gradient from the labels of `draws`
    sqrt(t) neighbours, a step that is halved until it is adversarial, bisection again. A success is an adversarial query
    within epsilon in L2. It is no substitute for the attack: the number of neighbours is smaller than the paper's 100.
    """
    listener, stream = _Listener(model, None), Stream.of(seed, torch.tensor([0]))
    low, high = model.bounds

    def wrong(z: Tensor) -> bool:
        return int(listener.logits(z[None]).argmax(1)) != y

    def bisected(z: Tensor) -> Tensor:
        near = x
        for _ in range(BISECTIONS):
            middle = (near + z) / 2
            near, z = (near, middle) if wrong(middle) else (middle, z)
        return z

    starts = (low + (high - low) * stream.at("start", i).uniform(*x.shape)[0] for i in range(TRIES))
    z = next((start for start in starts if wrong(start)), None)
    if z is None:
        return listener.asked(y)
    z, t = bisected(z), 0
    while len(listener.inputs) < queries:
        t += 1
        away = float((z - x).norm())
        size = away / x.numel() ** 0.5 if t > 1 else 0.1 * (high - low)
        u = stream.at("step", t).normal(int(draws * t**0.5), *x.shape)[0]
        u = u / u.flatten(1).norm(dim=1).view(-1, *[1] * x.ndim)
        points = (z + size * u).clamp(low, high)
        sign = torch.tensor([1.0 if wrong(point) else -1.0 for point in points]).view(-1, *[1] * x.ndim)
        weight = sign - sign.mean() if bool((sign != sign[0]).any()) else sign
        direction = (weight * (points - z) / size).mean(0)
        direction = direction / direction.norm().clamp_min(1e-12)
        step = away / t**0.5
        while step > 1e-3 * away and not wrong((z + step * direction).clamp(low, high)):
            step /= 2
        z = bisected((z + step * direction).clamp(low, high)) if step > 1e-3 * away else z
    return listener.asked(y, lambda q: float(np.linalg.norm(q - x.numpy())) <= epsilon)


def jacobian_queries(model: Model, x: Tensor, *, queries: int = 600, step: float = 0.1) -> Queries:
    """Those of an extraction by augmentation (Papernot et al., AsiaCCS 2017, arXiv:1602.02697): inputs x [n, *input], then
    x + step sign(J_c) of all so far, c the label, and again. J is that of the model itself, the best that a
    substitute could come to; `success` is None, there is none to speak of.
    """
    low, high = model.bounds
    found = x
    while len(found) < queries:
        at = found.detach().requires_grad_()
        model.logits(at).amax(1).sum().backward()
        assert at.grad is not None
        found = torch.cat([found, (found + step * (high - low) * at.grad.sign()).clamp(low, high)])
    found = found[:queries]
    with torch.no_grad():
        return Queries(found.numpy(), model.logits(found).argmax(1).tolist(), None)


class Watched(Model):
    """A model whose detector refuses: NaN where it speaks up, as from an endpoint with a guard. Equal bytes are asked about once;
    queries come from `accounts` in turn, each with a detector of its own, `refused` and `asked` count."""

    gives = Knowledge.SCORES
    remote = True

    def __init__(self, model: Model, detector: Callable[[], Detector], accounts: int = 1) -> None:
        self.model, self.name, self.bounds = model, model.name, model.bounds
        self.classes, self.device = model.classes, model.device
        self.detectors = [detector() for _ in range(accounts)]
        self.asked, self.refused = 0, 0
        self._known: dict[bytes, Tensor] = {}

    def logits(self, x: Tensor) -> Tensor:
        return torch.cat([self._answer(row) for row in x.split(1)])

    def lapse(self, x: Tensor) -> list[str]:
        return ["undecided: a guard refused the query"] * len(x)

    @torch.no_grad()
    def _answer(self, x: Tensor) -> Tensor:
        key = x.numpy().tobytes()
        if key not in self._known:
            z = self.model.logits(x)
            spoke = self.detectors[self.asked % len(self.detectors)](x[0].numpy().copy(), int(z.argmax(1)))
            self.asked, self.refused = self.asked + 1, self.refused + spoke
            self._known[key] = torch.full_like(z, torch.nan) if spoke else z
        return self._known[key]


class _Listener(Model):
    """A model that keeps what it is asked, one input at a time."""

    gives = Knowledge.SCORES

    def __init__(self, model: Model, told: Callable[[Tensor], Tensor] | None) -> None:
        self.model, self.told = model, told
        self.name, self.bounds, self.classes, self.device = model.name, model.bounds, model.classes, model.device
        self.inputs: list[np.ndarray] = []
        self.labels: list[int] = []

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        z = self.model.logits(x)
        self.inputs += list(x.detach().cpu().numpy().copy())  # attacks change their points in place
        self.labels += z.argmax(1).tolist()
        return z if self.told is None else self.told(z)

    def asked(self, y: int, near: Callable[[np.ndarray], bool] = lambda q: True) -> Queries:
        won = (i for i, (q, label) in enumerate(zip(self.inputs, self.labels, strict=True), 1) if label != y and near(q))
        return Queries(np.stack(self.inputs), self.labels, next(won, None))
