"""Recipe: what is minimised on a batch. The loop does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor, nn

from mohs.attacks.settings import Settings
from mohs.errors import RequestError
from mohs.threat import Threat
from mohs.train.batch import Batch


@dataclass(frozen=True)
class Trainer:
    """What a recipe may make its aids of. network: that is trained, in place. fit: (name, recipe) -> another of the same kind,
    trained first on the same data, in a folder of that name; frozen. x [n, *input], y [n]: the data, in `bounds`."""

    network: nn.Module
    fit: Callable[[str, Recipe], nn.Module]
    x: Tensor
    y: Tensor
    bounds: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings, ABC):
    """A frozen dataclass of hyper-parameters with a loss."""

    paper: ClassVar[str]  # authors, venue, year, arXiv id
    cost: ClassVar[str]  # of a step, in F (forward), Bx (backward to the input), Bw (backward to the weights)
    purpose: ClassVar[str]  # what it is for, in a line
    sets: ClassVar[tuple[str, ...] | None] = None  # the threats it hardens against; None: every one; (): it takes none
    mixes: ClassVar[bool] = True  # takes labels that augmentation mixed
    hardens: ClassVar[bool] = True  # against who follows gradients

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

    @property
    def certified(self) -> bool:
        """Whether it aims at proofs: its best epoch is that of what intervals prove, and the audits say what they prove."""
        return False

    @property
    def shards(self) -> bool:
        """Whether the weights may lie in parts over processes (FSDP): it meets them in calls of the network alone, and takes no
        gradient of a gradient."""
        return True

    @property
    def settled(self) -> float:
        """The share of the training from which on epochs compare: until then its task grows harder."""
        return 0.0

    @property
    def by_robustness(self) -> bool:
        """Whether its best epoch is that of robust accuracy, not of clean."""
        return self.hardens and self.sets != ()

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        """Other networks that the loss needs."""
        return {}

    def deployed(self, network: nn.Module) -> nn.Module:
        """What a trained network is used as."""
        return network

    def check(self, threat: Threat | None) -> None:
        """Raise RequestError where it cannot harden against the threat."""
        if threat is None and self.sets != ():
            raise RequestError(f"{type(self).__name__} trains against a threat: give --threat, such as linf:8/255")
        if threat is not None and self.sets and threat.name not in self.sets:
            raise RequestError(f"{type(self).__name__} hardens against {', '.join(self.sets)}, and the threat is {threat}")

    def threats(self, threat: Threat) -> list[Threat]:
        """Everything that it hardens against at once, where it is given `threat`."""
        return [threat]

    def suits(self, network: nn.Module, x: Tensor) -> None:
        """Raise ModelError where it cannot train a network on examples x [n, *input]."""

    def calmer(self) -> Self | None:
        """What training goes on with after robust accuracy broke down; None: as it is."""
        return None


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


@dataclass(frozen=True, kw_only=True)
class Around(Recipe):
    """A recipe that a modifier changed. What it does not change is that of the recipe inside."""

    of: Recipe

    @property
    def updates(self) -> int:
        return self.of.updates

    @property
    def certified(self) -> bool:
        return self.of.certified

    @property
    def shards(self) -> bool:
        return self.of.shards

    @property
    def settled(self) -> float:
        return self.of.settled

    @property
    def by_robustness(self) -> bool:
        return self.of.by_robustness

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        return self.of.aids(train)

    def deployed(self, network: nn.Module) -> nn.Module:
        return self.of.deployed(network)

    def check(self, threat: Threat | None) -> None:
        self.of.check(threat)

    def threats(self, threat: Threat) -> list[Threat]:
        return self.of.threats(threat)

    def suits(self, network: nn.Module, x: Tensor) -> None:
        self.of.suits(network, x)

    def calmer(self) -> Self | None:
        of = self.of.calmer()
        return None if of is None else replace(self, of=of)
