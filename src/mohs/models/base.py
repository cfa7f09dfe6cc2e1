"""Model: the small protocol between mohs and whatever classifies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mohs.errors import ModelError
from mohs.rng import Stream
from mohs.threat import Knowledge

if TYPE_CHECKING:
    from mohs.models.perception import Perception


class Model(ABC):
    """Anything that maps inputs to one score a class.

    bounds: the range inputs live in; normalisation belongs inside the model. classes: how many. gives: the most it
    grants (labels are one-hot scores). batch: the one number of rows it takes, or None. random: two calls may differ.
    differentiable: False where gradients are, knowingly, those of a substitute (BPDA). flat: True where gradients were seen to
    vanish at some inputs. rejected: the class by which a detector refuses, or None. abstained: the class by which a vote says
    that it does not know, an error like every wrong one, or None. forks: a forked process may go on using it.
    remote: every row is a query that costs something, and the same row is asked once.
    """

    name: str = "model"
    bounds: tuple[float, float] = (0.0, 1.0)
    classes: int
    gives: Knowledge = Knowledge.GRADIENT
    batch: int | None = None
    random: bool = False
    differentiable: bool = True
    flat: bool = False
    rejected: int | None = None
    abstained: int | None = None
    forks: bool = False
    remote: bool = False
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Scores [rows, classes] of inputs [rows, *input] in `bounds`, differentiable where `gives` says so."""

    def drawn(self, stream: Stream) -> Model:
        """The model with the draws of a stream, a key a row; itself where it draws from torch's own generator, if at all."""
        return self

    def double(self) -> Model | None:
        """A float64 twin that takes float64 inputs, or None where there is none to be had."""
        return None

    def fingerprint(self) -> str | None:
        """A hash of what the model computes with, or None where it cannot be had."""
        return None

    def lapse(self, x: Tensor) -> list[str]:
        """Why the scores of inputs x [n, *input] are no numbers, one a row: `error: …`, or `undecided: …` where that is no fault
        of what the model computes."""
        return ["error: the model answered with a number that is not finite"] * len(x)

    def perception(self, layers: tuple[str, ...] = ()) -> Perception:
        """What the model sees of an input, at layers of these names or at those found; ModelError where it does not tell."""
        raise ModelError(
            f"{self.name} does not tell what it sees inside, which the perceptual distance is made of: give a torch network "
            "by --perceptual-model"
        )
