"""A detector tells attacked inputs by a score: how it is fitted, and what it is once it was."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from mohs.attacks.settings import Settings
from mohs.errors import DataError, ModelError
from mohs.models import Model

ROWS = 128  # of a call


@dataclass(frozen=True, eq=False)
class Detector:
    """A statistic of what a model is shown. statistic: called as (model, x [n, *input]) it gives the model's logits
    [n, classes] and the score [n], higher where an input is more suspicious; it couples no rows and draws nothing. name: the
    method with its settings. differentiable: False where gradients of the score are those of a substitute."""

    model: Model
    statistic: nn.Module
    name: str
    differentiable: bool = True

    def inspect(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and score of inputs x [n, *input], from as few passes as it takes."""
        logits, score = self.statistic(self.model, x)
        return logits, score

    def score(self, x: Tensor) -> Tensor:
        """[n], higher = more suspicious."""
        return self.inspect(x)[1]

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """[n] float64, for any number of rows, on the CPU."""
        return in_parts(self.score, x, self.model.device).double().cpu()

    def double(self) -> Detector | None:
        inner = self.model.double()
        return None if inner is None else replace(self, model=inner)

    def fingerprint(self) -> str | None:
        """sha256 of the model's own, the settings and everything that was fitted."""
        inner = self.model.fingerprint()
        if inner is None:
            return None
        digest = hashlib.sha256(f"{self.name};{inner}".encode())
        for name, value in self.statistic.state_dict().items():
            digest.update(f"{name} {list(value.shape)};".encode() + value.detach().double().cpu().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Method(Settings, ABC):
    """A way to fit a detector: its hyper-parameters, and `statistic`."""

    paper: ClassVar[str]  # authors, venue, year, arXiv id
    attacked: ClassVar[bool] = False  # is fitted on attacked inputs too
    fewest: ClassVar[int] = 10  # attacked inputs that fool the model, where it is

    @property
    def differentiable(self) -> bool:
        """Whether the score's own derivative is what attacks go by."""
        return True

    @abstractmethod
    def statistic(self, model: Model, x: Tensor, y: Tensor, attacked: Tensor, fooled: Tensor) -> nn.Module:
        """Fit on clean x [n, *input] with labels y [n]. attacked [n, *input]: the same attacked; fooled [n] bool: where the
        model is right without the attack and wrong with it. Both are empty where the method does not ask for them."""

    def fit(self, model: Model, x: Tensor, y: Tensor, attacked: Tensor | None = None) -> Detector:
        """Fit on clean examples x [n, *input], y [n] and, where the method asks for them, the same attacked, [n, *input].

        Raises ModelError for a random model, and DataError for one class alone or too few attacked inputs that fool it.
        """
        if model.random:
            raise ModelError(f"{model.name} is random, and a detector takes a model that is not: its scores would vary")
        x, y = x.float().to(model.device), y.to(model.device)
        if len(y.unique()) < 2:
            raise DataError(f"the {len(y)} examples to fit on are of one class, {int(y[0])}; a detector takes two or more")
        if self.attacked and attacked is None:
            raise DataError(f"{type(self).__name__} is fitted on attacked inputs too: give them")
        moved = attacked.float().to(model.device) if self.attacked and attacked is not None else x[:0]
        fooled = self._fooled(model, x, y, moved) if self.attacked else y[:0] > 0
        made = self.statistic(model, x, y, moved, fooled).to(model.device).eval().requires_grad_(False)
        settings = ", ".join(f"{name} {value}" for name, value in self.spec().items())
        return Detector(model, made, f"{type(self).__name__}({settings})", self.differentiable)

    def _fooled(self, model: Model, x: Tensor, y: Tensor, attacked: Tensor) -> Tensor:
        with torch.no_grad():
            before, after = (in_parts(model.logits, part, model.device).argmax(1) for part in (x, attacked))
        fooled = (before == y) & (after != y)
        if (count := int(fooled.sum())) < self.fewest:
            raise DataError(
                f"{type(self).__name__} is fitted on attacked inputs that fool the model, and of {len(x)} examples to fit on "
                f"{count} do; expected {self.fewest}: give more data or a larger threat"
            )
        return fooled


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> Tensor:
    """function(x) of any number of rows, a few at a time."""
    return torch.cat([function(part.to(device)) for part in x.split(ROWS)])
