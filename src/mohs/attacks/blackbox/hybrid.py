"""Hybrid attacks: a start on surrogates, which costs no query, and an attack by queries from there."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from mohs.attacks.base import Attack
from mohs.attacks.blackbox.hop_skip_jump import HopSkipJump
from mohs.attacks.blackbox.nes import NES
from mohs.attacks.blackbox.rays import RayS
from mohs.attacks.blackbox.square import Square
from mohs.attacks.gradient.pgd import PGD
from mohs.errors import RequestError
from mohs.oracle import Oracle
from mohs.threat import Knowledge, Threat

SAMPLES = NES.samples + 1  # queries of a step of NES


@dataclass(frozen=True, kw_only=True)
class Aided(Attack):
    """What hybrid attacks share. queries: of a row, the look at the candidate included. steps: of PGD on the surrogates."""

    queries: int = 5000
    steps: int = 40

    sets = ("linf", "l2")
    aided = True
    roams = True

    def width(self, threat: Threat) -> int:
        return self.finisher(threat).width(threat)

    def passes(self, classes: int) -> tuple[int, int]:
        return self.queries * self.restarts, 0

    @abstractmethod
    def finisher(self, threat: Threat) -> Attack:
        """The attack by queries, of one query less."""

    @abstractmethod
    def look(self, oracle: Oracle, x: Tensor) -> None:
        """Ask the victim about points, each once."""

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        aside = oracle.aside()
        oracle.begun = PGD(steps=self.steps).run(aside, x0, aside.threat)
        self.look(oracle, oracle.begun)
        (x0,) = oracle.compact(x0)
        return self.finisher(threat).run(oracle, x0, threat) if len(x0) else x0


@dataclass(frozen=True, kw_only=True)
class Hybrid(Aided):
    """PGD on the adversary's own models gives a candidate; the victim is asked about it, once; where it does not carry over, an
    attack by scores begins at the candidate in place of its own start.

    queries: of a row, the look at the candidate included. steps: of PGD. finish: `square`, or `nes` as in the paper, whose
    other choice was AutoZOOM. Passes of the surrogates are the adversary's own affair and are not counted. The paper also tunes
    the local models on what the victim answers, and attacks the most promising inputs first, which matters where not all are
    attacked: neither is part of this.
    Suya, Chi, Evans, Tian, USENIX Security 2020, arXiv:1908.07000.

    When to use: wherever there is a surrogate (`mohs substitute` trains one) and the model answers with scores: what carries over
    costs one query, and the rest a shorter search. On a ResNet-20 of CIFAR-10 at 2/255, with a ResNet-32 for a surrogate and 500
    queries an image, it broke 25 of 32 at 159 queries on average over all, and `square` alone 21 at 251.

    >>> from mohs import attacks, demo
    >>> prepared, x, y = demo.transfer_example()  # with a surrogate
    >>> threat = "linf:0.1+knowledge:scores"
    >>> alone = attacks.Square(queries=300)(prepared, x, y, threat=threat)
    >>> aided = attacks.Hybrid(queries=300)(prepared, x, y, threat=threat)
    >>> int(aided.queries.sum()) < int(alone.queries.sum()), int(aided.backwards.sum())
    (True, 0)
    """

    finish: str = "square"

    paper = "Suya et al., USENIX Security 2020, arXiv:1908.07000"
    knowledge = Knowledge.SCORES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finish not in ("square", "nes"):
            raise RequestError(f"{type(self).__name__}: finish should be square or nes, not {self.finish!r}")

    def finisher(self, threat: Threat) -> Attack:
        if self.finish == "nes":
            return NES(steps=max(1, (self.queries - 1) // SAMPLES))
        return Square(queries=self.queries - 1, rescale_schedule=True)

    def look(self, oracle: Oracle, x: Tensor) -> None:
        oracle.scores(x)


@dataclass(frozen=True, kw_only=True)
class HybridLabel(Aided):
    """PGD on the adversary's own models gives a candidate; the victim's label is asked for, once; where it does not carry
    over, an attack by labels goes on from it: in linf RayS from its signs, in l2 HopSkipJump from the first success along the
    way to it, prolonged.

    The paper's attacks finish by scores; this is its idea where there are none.
    Suya, Chi, Evans, Tian, USENIX Security 2020, arXiv:1908.07000.

    When to use: as `hybrid`, where the model answers with labels alone. On the same networks, in linf at 4/255 it broke 26 of 32
    at 103 queries on average, `rays` alone 20 at 291; in l2 at 0.5, 30 at 88, and `hop-skip-jump` alone 15 at 367.

    >>> from mohs import attacks, demo
    >>> prepared, x, y = demo.transfer_example()  # with a surrogate
    >>> threat = "l2:1+knowledge:label"
    >>> alone = attacks.HopSkipJump(queries=300)(prepared, x, y, threat=threat)
    >>> aided = attacks.HybridLabel(queries=300)(prepared, x, y, threat=threat)
    >>> int(aided.queries.sum()) < int(alone.queries.sum())
    True
    """

    paper = "Suya et al., USENIX Security 2020, arXiv:1908.07000"
    knowledge = Knowledge.LABEL

    def finisher(self, threat: Threat) -> Attack:
        return RayS(queries=self.queries - 1) if threat.name == "linf" else HopSkipJump(queries=self.queries - 1)

    def look(self, oracle: Oracle, x: Tensor) -> None:
        oracle.reached(x)
