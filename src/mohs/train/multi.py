"""Training against the union of several threats at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mohs.errors import RequestError
from mohs.geometry import per_row
from mohs.threat import NormThreat, Threat, parse_threat
from mohs.train.batch import Batch, crafting
from mohs.train.pgd import PGDTraining
from mohs.train.recipe import Adversarial


@dataclass(frozen=True, kw_only=True)
class Average(PGDTraining):
    """The mean of the losses at the points that PGD finds in every one of the threats: inputs [n, threats, *input].

    others: beside --threat, parted by semicolons: `l2:0.5;l1:12`. Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000.
    """

    others: str = ""

    paper = "Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000"
    cost = "t((k+1)(F+Bx)+Bw), t threats"
    purpose = "robustness in several sets at once, on average"

    def check(self, threat: Threat | None) -> None:
        super().check(threat)
        if threat is not None:
            union(threat, self.others)

    def threats(self, threat: Threat) -> list[Threat]:
        return union(threat, self.others)

    def attacked(self, batch: Batch) -> Tensor:
        return torch.stack([part.shown(super(Average, self).attacked(part)) for part in parts(batch, self.others)], dim=1)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        return torch.stack([functional.cross_entropy(batch.network(x), batch.y) for x in point.unbind(1)]).mean()


@dataclass(frozen=True, kw_only=True)
class Worst(PGDTraining):
    """The loss at the worst, row by row, of the points that PGD finds in every one of the threats.

    others: beside --threat, parted by semicolons. Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000.
    """

    others: str = ""

    paper = "Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000"
    cost = "t(k(F+Bx)+F)+F+Bx+Bw, t threats"
    purpose = "robustness in the union of several sets"

    def check(self, threat: Threat | None) -> None:
        super().check(threat)
        if threat is not None:
            union(threat, self.others)

    def threats(self, threat: Threat) -> list[Threat]:
        return union(threat, self.others)

    def attacked(self, batch: Batch) -> Tensor:
        shown, worst = batch.x0, torch.full((len(batch.x0),), -torch.inf, device=batch.x0.device)
        for part in parts(batch, self.others):
            x = part.shown(super().attacked(part))
            with crafting(batch.network), torch.no_grad():
                loss = batch.misled(batch.network(x))
            shown = torch.where(per_row(loss > worst, x), x, shown)
            worst = torch.maximum(loss, worst)
        return shown

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        return functional.cross_entropy(batch.network(point), batch.y)


@dataclass(frozen=True, kw_only=True)
class MSD(Adversarial):
    """Multi steepest descent: one trajectory, whose every step is tried in each of the norms and taken, row by row, where the
    loss becomes largest. It starts at the example itself.

    others: beside --threat, parted by semicolons; norms alone. steps, step_size: in units of each epsilon.
    Maini, Wong, Kolter, ICML 2020, arXiv:1909.04068.
    """

    others: str = ""
    steps: int = 50
    step_size: float = 0.1

    paper = "Maini et al., ICML 2020, arXiv:1909.04068"
    cost = "k((t+1)F+Bx)+F+Bx+Bw, t threats"
    purpose = "robustness in the union of several norms, by one attack"
    sets = ("linf", "l2", "l1")

    def check(self, threat: Threat | None) -> None:
        super().check(threat)
        if threat is not None and not all(isinstance(part, NormThreat) for part in union(threat, self.others)):
            raise RequestError(f"MSD steps through one space, and takes norms alone: {threat}, {self.others}")

    def threats(self, threat: Threat) -> list[Threat]:
        return union(threat, self.others)

    def attacked(self, batch: Batch) -> Tensor:
        threats = union(batch.threat, self.others)
        x = batch.x0
        with crafting(batch.network):
            for _ in range(self.steps):
                gradient = batch.gradient(batch.misled, x)
                tried = torch.stack([threat.step(x, gradient.clone(), batch.x0, self.step_size) for threat in threats])
                with torch.no_grad():
                    losses = torch.stack([batch.misled(batch.network(candidate)) for candidate in tried])
                x = tried[losses.argmax(0), torch.arange(len(x))]
        return x

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        return functional.cross_entropy(batch.network(point), batch.y)


def parts(batch: Batch, others: str) -> list[Batch]:
    """The step under each of the threats."""
    return [batch.against(threat) for threat in union(batch.threat, others)]


def union(threat: Threat, others: str) -> list[Threat]:
    """The threat of the training and the others, in the same bounds; RequestError where there are none."""
    if not others:
        raise RequestError("training against a union needs other threats beside --threat: --others 'l2:0.5;l1:12'")
    return [threat, *(parse_threat(text.strip()).within(threat.bounds) for text in others.split(";"))]
