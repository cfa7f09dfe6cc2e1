"""What the signs are looked for with: a model, a few examples that it gets right, and small attacks that are run once each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.base import Attack
from mohs.attacks.gradient.apgd import APGD
from mohs.attacks.gradient.pgd import PGD
from mohs.losses import Loss, logit_difference
from mohs.models import Model, Prepared
from mohs.models.contract import Finding
from mohs.models.prepared import seeded
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, NormThreat, Untargeted

VOTES = 20  # fresh draws that decide about the last point of an attack on a random model


@dataclass
class Bench:
    """model: as it was handed in. x [n, *input], y [n]: examples that it gets right. findings: of the contract check, which ran
    on all data. declared: whether the model said itself that it is random. surrogate: a model of an adversary's own."""

    model: Model
    prepared: Prepared
    x: Tensor
    y: Tensor
    threat: NormThreat
    findings: list[Finding] = field(default_factory=list)
    declared: bool = False
    surrogate: Prepared | None = None
    seed: int = 0
    forwards: int = 0
    backwards: int = 0
    _known: dict[object, Tensor] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def graded(self) -> bool:
        """Whether there is a gradient at all."""
        return self.model.gives >= Knowledge.GRADIENT

    @property
    def rows(self) -> Tensor:
        """The examples on the model's device."""
        return self.x.to(self.model.device)

    @property
    def labels(self) -> Tensor:
        return self.y.to(self.model.device)

    @property
    def goal(self) -> Untargeted:
        return Untargeted(rejected=self.model.rejected)

    @property
    def stream(self) -> Stream:
        return Stream.of(self.seed, torch.arange(self.n, device=self.model.device))

    def of(self, factor: float) -> NormThreat:
        """The threat with `factor` times the budget, at most the whole box."""
        return replace(self.threat, epsilon=min(factor * self.threat.epsilon, widest(self.threat, self.x)))

    def broken(self, attack: Attack, threat: NormThreat | None = None, draws: int = 1) -> Tensor:
        """[n] bool: what an attack breaks, each judged as an audit would. For a random model: whose last point is wrong in half
        of fresh draws."""
        threat = threat or self.threat
        key = (attack, str(threat), draws)
        if key not in self._known:
            self._known[key] = self._drawn(attack, threat, draws) if self.model.random else self._judged(attack, threat)
        return self._known[key]

    def path(self, attack: PGD | APGD, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and margin at every point that an attack looks at, [steps, len(rows)]; nothing stops it."""
        traced = Traced(attack.loss)
        oracle = self._oracle(self.threat, 1)
        oracle.keep(rows.to(self.model.device))
        oracle.judged = False
        replace(attack, loss=traced).run(oracle, oracle.x0, oracle.threat)
        self._count(oracle)
        return torch.stack(traced.losses).cpu(), torch.stack(traced.margins).cpu()

    def margins(self, x: Tensor) -> Tensor:
        """[n] of n inputs, one an example, by the model as it is: above 0 where one is misclassified."""
        self.forwards += len(x)
        return self.goal.margin(self.prepared.judge.scores(x), Aim(self.labels)).cpu()

    def _judged(self, attack: Attack, threat: NormThreat) -> Tensor:
        outcome = attack(self.prepared, self.x, self.y, threat=threat, goal=self.goal, seed=self.seed)
        self.forwards += int(outcome.forwards.sum())
        self.backwards += int(outcome.backwards.sum())
        return outcome.broken

    def _drawn(self, attack: Attack, threat: NormThreat, draws: int) -> Tensor:
        oracle = self._oracle(threat, draws)
        oracle.judged = False
        point = attack.run(oracle, oracle.x0, oracle.threat)
        self._count(oracle)
        hits = torch.zeros(self.n)
        for number in range(VOTES):
            with seeded(number):
                hits += self.margins(oracle.threat.apply(point, oracle.x0)) > 0
        return 2 * hits >= VOTES

    def _oracle(self, threat: NormThreat, draws: int) -> Oracle:
        return Oracle.begin(
            self.prepared, threat, self.goal, self.x, self.y, ids=torch.arange(self.n), seed=self.seed, draws=draws, stop=False
        )

    def _count(self, oracle: Oracle) -> None:
        self.forwards += int(oracle.ledger.forwards.sum())
        self.backwards += int(oracle.ledger.backwards.sum())


class Traced:
    """A loss that notes its values and the margins at every call."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.losses, self.margins = loss, list[Tensor](), list[Tensor]()

    def __call__(self, logits: Tensor, aim: Aim) -> Tensor:
        value = self.loss(logits, aim)
        self.losses.append(value.detach())
        self.margins.append(logit_difference(logits.detach(), aim))
        return value


def widest(threat: NormThreat, x: Tensor) -> float:
    """The distance between two opposite corners of the box, in the threat's norm."""
    side = threat.bounds[1] - threat.bounds[0]
    return float(threat.norm.distance(torch.full_like(x[:1], side))[0])
