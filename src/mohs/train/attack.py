"""Adversarial training with any attack of the table, and perceptual adversarial training, which is one case of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mohs import attacks
from mohs.attacks.base import Attack
from mohs.errors import RequestError
from mohs.geometry import per_row
from mohs.threat import Threat
from mohs.train.adversary import attacked_by
from mohs.train.batch import Batch, crafting
from mohs.train.recipe import Adversarial


@dataclass(frozen=True, kw_only=True)
class ByAttack(Adversarial):
    """min E CE(f(x'), y), where x' is where an attack of `mohs attacks` ends: not stopped at a success, and of several tries the
    one of largest loss. Of a minimal attack it is the nearest success, or else its last point, projected.

    attack: its name and options, `apgd:steps=10` or `ddn:steps=20,gamma=0.1`.
    Madry et al., ICLR 2018, arXiv:1706.06083, for the loss.
    """

    attack: str = "apgd:steps=10"

    paper = "Madry et al., ICLR 2018, arXiv:1706.06083"
    cost = "the attack's, and 3F+Bw"
    purpose = "adversarial training in any set that an attack moves in"
    mixes = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made()  # which says what is wrong with its text

    def made(self) -> Attack:
        name, _, options = self.attack.partition(":")
        pairs = [pair.partition("=") for pair in options.split(",") if pair]
        return attacks.make({"attack": name, **{key.strip(): value.strip() for key, _, value in pairs}})

    def check(self, threat: Threat | None) -> None:
        super().check(threat)
        if threat is not None and threat.name not in self.made().sets:
            raise RequestError(f"the attack {self.attack} moves in {', '.join(self.made().sets)}, and the threat is {threat}")

    def attacked(self, batch: Batch) -> Tensor:
        return attacked_by(self.made(), batch)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        return functional.cross_entropy(batch.network(batch.shown(point)), batch.y)


@dataclass(frozen=True, kw_only=True)
class Perceptual(ByAttack):
    """Perceptual adversarial training: against inputs that a network sees as it sees x, found by Fast-LPA. Without
    --perceptual-model it is the network itself that sees, as it is at each step (self-bounded).

    attack: the paper's steps. right: attack only what the network gets right, and learn the rest clean, as the authors' models
    for CIFAR-10 and ImageNet-100 did. The last point is projected, which the paper leaves out. The authors clip gradients
    at 1 (each entry; --clip bounds their length) and train at a perceptual distance of 0.5 for CIFAR-10, self-bounded, and of
    0.25 for ImageNet-100.
    Laidlaw, Singla, Feizi, ICLR 2021, arXiv:2006.12655.
    """

    attack: str = "fast-lpa:steps=10"
    right: bool = True

    paper = "Laidlaw et al., ICLR 2021, arXiv:2006.12655"
    cost = "k(4F+2Bx), about, and Bw; 11 to 20 times standard training"
    purpose = "robustness to changes that nobody listed: of colour, of shape, of pixels"
    sets = ("perceptual",)

    def attacked(self, batch: Batch) -> Tensor:
        point = super().attacked(batch)
        if not self.right:
            return point
        with crafting(batch.network), torch.no_grad():
            right = batch.network(batch.x0).argmax(1) == batch.y
        return torch.where(per_row(right, point), point, batch.threat.origin(batch.x0))
