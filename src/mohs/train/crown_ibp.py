"""Training on interval bounds that begins with tighter ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mohs.certificates.backward import substitute
from mohs.errors import RequestError
from mohs.threat import Threat
from mohs.train.batch import Batch
from mohs.train.ibp import IBP, reached


@dataclass(frozen=True, kw_only=True)
class CROWNIBP(IBP):
    """`ibp`, whose margins are beta times those of CROWN + (1 - beta) times those of intervals: linear bounds substituted from
    the margins back to the input, over boxes carried forward. beta falls from 1 as epsilon grows, so that training begins with
    bounds that are tight while the network is not yet made for intervals.

    beta: at full epsilon.
    Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning, Hsieh, ICLR 2020, arXiv:1906.06316.
    """

    beta: float = 0.0

    paper = "Zhang et al., ICLR 2020, arXiv:1906.06316"
    cost = "6F+4Bw, and until epsilon is grown c(F+2Bw) more, c classes, about"
    purpose = "as `ibp`, from tighter bounds while epsilon grows"

    def check(self, threat: Threat | None) -> None:
        super().check(threat)
        if not 0 <= self.beta <= 1:
            raise RequestError(f"beta weighs the bounds of CROWN, from 0 to 1, and is {self.beta:g}")

    def least(self, batch: Batch, grown: float) -> Tensor:
        bounds, functions = reached(batch, grown)
        beta = 1 - grown * (1 - self.beta)
        interval = substitute(bounds, functions, relax=False, sound=False)
        return interval if beta == 0 else beta * substitute(bounds, functions, sound=False) + (1 - beta) * interval
