"""Recipe: what is minimised on a batch. The loop does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mohs.attacks.settings import Settings
from mohs.train.batch import Batch

# (name, recipe) -> another network of the same kind, trained first on the same data, in a folder of that name; frozen
Trainer = Callable[[str, "Recipe"], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings, ABC):
    """A frozen dataclass of hyper-parameters with a loss."""

    paper: ClassVar[str]  # authors, venue, year, arXiv id
    cost: ClassVar[str]  # of a step, in F (forward), Bx (backward to the input), Bw (backward to the weights)
    purpose: ClassVar[str]  # what it is for, in a line
    sets: ClassVar[tuple[str, ...] | None] = None  # the threats it hardens against; None: every one; (): it takes none
    mixes: ClassVar[bool] = True  # takes labels that augmentation mixed

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """What the update after this forward pass lessens: the mean over the batch."""

    def losses(self, batch: Batch) -> Iterator[Tensor]:
        """A loss an update. The loop calls backward and the optimiser on each before it asks for the next."""
        yield self.loss(batch)

    @property
    def updates(self) -> int:
        """Of the weights, on every batch; epochs are divided by it."""
        return 1

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        """Other networks that the loss needs."""
        return {}

    def deployed(self, network: nn.Module) -> nn.Module:
        """What a trained network is used as."""
        return network


@dataclass(frozen=True, kw_only=True)
class Adversarial(Recipe):
    """A recipe that looks for a point of the threat a row, and then lessens a loss there."""

    @abstractmethod
    def attacked(self, batch: Batch) -> Tensor:
        """The points [n, *point]; without derivatives."""

    @abstractmethod
    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        """The loss at these points, to be lessened."""

    def loss(self, batch: Batch) -> Tensor:
        return self.outer(batch, self.attacked(batch))


@dataclass(frozen=True, kw_only=True)
class Modifier(Settings):
    """What changes the network or the step of a recipe: `--recipe trades+awp`."""

    paper: ClassVar[str]
    cost: ClassVar[str]  # beside the recipe's
    purpose: ClassVar[str]

    def architecture(self, network: nn.Module) -> nn.Module:
        """The network to train in place of this one."""
        return network

    def around(self, recipe: Recipe) -> Recipe:
        """The recipe, changed. RequestError where it is of a kind that cannot be."""
        return recipe
