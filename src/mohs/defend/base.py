"""Defence: a Model behind a change of its input, declared so that attacks go through it."""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from mohs.errors import ModelError
from mohs.models import Model
from mohs.rng import Stream


class Defence(Model):
    """`model` on transform(x). A defence is a Model, so that another may stand before it.

    differentiable: whether the change has a derivative of use. Where it has none, gradients pass it as they pass
    `substitute`, the identity unless said otherwise, and forward passes stay what they are: backward pass differentiable
    approximation. random: whether draws of the change differ. The Oracle then gives every row draws of its own and
    averages its answers over them (`draws`): expectation over transformation. name: the change and its settings, all
    of them, since the fingerprint is made of it.
    Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420; Athalye, Engstrom, Ilyas, Kwok, ICML 2018, arXiv:1707.07397.
    """

    def __init__(self, model: Model, name: str, *, differentiable: bool = True, random: bool = False) -> None:
        self.model = model
        self.name = f"{name} before {model.name}"
        self.bounds, self.classes, self.device = model.bounds, model.classes, model.device
        self.gives, self.batch, self.forks = model.gives, model.batch, model.forks
        self.rejected, self.abstained = model.rejected, model.abstained
        self.random = random or model.random
        self.differentiable = differentiable and model.differentiable
        self._substituted = not differentiable
        self._stream: Stream | None = None

    @abstractmethod
    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        """What the model gets to see of inputs x [n, *input]; `stream` has a key a row. Couples no rows."""

    def substitute(self, x: Tensor, stream: Stream) -> Tensor:
        """What stands for `transform` in the backward pass where that has no derivative; of the same shape."""
        return x

    def logits(self, x: Tensor) -> Tensor:
        stream = self._draw(x)
        if not self._substituted:
            return self.model.logits(self.transform(x, stream))
        with torch.no_grad():
            shown = self.transform(x.detach(), stream)
        return self.model.logits(straight_through(shown, self.substitute(x, stream)))

    def drawn(self, stream: Stream) -> Self:
        twin = copy.copy(self)
        twin.model, twin._stream = self.model.drawn(stream.at("behind")), stream
        return twin

    def double(self) -> Self | None:
        inner = self.model.double()
        if inner is None:
            return None
        twin = copy.copy(self)
        twin.model = inner
        return twin

    def fingerprint(self) -> str | None:
        inner = self.model.fingerprint()
        return None if inner is None else hashlib.sha256(f"{self.name};{inner}".encode()).hexdigest()

    def _draw(self, x: Tensor) -> Stream:
        """The keys of the rows of x: those drawn for them, and of padding that of the first row; without any, one key of
        torch's own generator for all rows, so that a row's draw is not its batch mates' to say."""
        if self._stream is not None:
            keys = self._stream.keys
            return Stream(torch.cat([keys, keys[:1].expand(len(x) - len(keys))]))
        key = torch.randint(-(2**63), 2**63 - 1, (1,)) if self.random else torch.zeros(1, dtype=torch.int64)
        return Stream(key.to(x.device).expand(len(x)))


class Transformed(Defence):
    """A defence of one function [n, *input] -> [n, *input], which may draw from torch's own generator where `random`.

    substitute: a differentiable function that is near it, of the same shapes; the identity without one.
    """

    def __init__(
        self,
        model: Model,
        function: Callable[[Tensor], Tensor],
        *,
        substitute: Callable[[Tensor], Tensor] | None = None,
        differentiable: bool = False,
        random: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(model, name or function.__qualname__, differentiable=differentiable, random=random)
        self.function, self.instead = function, substitute

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        return self.function(x)

    def substitute(self, x: Tensor, stream: Stream) -> Tensor:
        return x if self.instead is None else self.instead(x)


def straight_through(shown: Tensor, instead: Tensor) -> Tensor:
    """`shown`, to the bit, with the derivatives of `instead`."""
    if shown.shape != instead.shape:
        raise ModelError(
            f"a substitute should give what it stands for, {list(shown.shape)}, and gives {list(instead.shape)}: "
            "declare a substitute of the same shapes"
        )
    return shown + (instead - instead.detach())


def unit(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """x in [0, 1] instead of in the bounds."""
    return x if bounds == (0.0, 1.0) else (x - bounds[0]) / (bounds[1] - bounds[0])


def back(u: Tensor, bounds: tuple[float, float]) -> Tensor:
    """The inverse of `unit`."""
    return u if bounds == (0.0, 1.0) else u * (bounds[1] - bounds[0]) + bounds[0]
