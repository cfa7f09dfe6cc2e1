"""Universal adversarial perturbation: DeepFool's steps of one example after another, added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mohs.attacks.minimal.deepfool import DeepFool
from mohs.attacks.universal.craft import Craft, reached, shuffled, within
from mohs.errors import RequestError
from mohs.oracle import Oracle
from mohs.threat import NormThreat, Threat

AHEAD = 16  # examples looked at in one call: one alone costs as much


@dataclass(frozen=True, kw_only=True)
class UAP(Craft):
    """For each x in turn that x + v does not fool: v = project(v + r), r DeepFool's way of x + v across its nearest boundary;
    epoch after epoch, each in another order, until v fools `rate` of the examples. Algorithm 1 of the paper.

    epochs: at most, where the authors set no bound; the v that fools most examples after an epoch is kept.
    batch: of more than 1, the paper's, so many examples at most walk from the same v and their r are added one after another,
    without a look at whether the first fool the last; several times faster, since calls of few rows are dear. steps,
    candidates, overshoot: DeepFool's, 10, 10 and 0.02 as the authors have them. x + v is clipped to the box, theirs is not.
    An example costs a forward pass an epoch, and each step of DeepFool two forward passes and a backward pass a candidate.
    Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, CVPR 2017, arXiv:1610.08401.
    """

    epochs: int = 10
    batch: int = 1
    steps: int = 10
    candidates: int = 10
    overshoot: float = 0.02

    paper = "Moosavi-Dezfooli et al., CVPR 2017, arXiv:1610.08401"
    sets: ClassVar[tuple[str, ...]] = ("linf", "l2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 2 or self.batch > AHEAD:
            raise RequestError(f"UAP: candidates should be 2 or more, batch from 1 to {AHEAD}")

    def run(self, oracle: Oracle, threat: Threat, rate: float) -> Tensor:
        assert isinstance(threat, NormThreat)  # as `sets` says
        v = torch.zeros_like(oracle.x0[:1])
        best, most = v, -1.0
        for epoch in oracle.steps(self.epochs):
            v = self._pass(oracle, v, threat, shuffled(oracle, epoch))
            share = float(reached(oracle, v, threat).double().mean())
            if share >= most:
                best, most = v, share
            if share >= rate:
                break
        return best

    def _pass(self, oracle: Oracle, v: Tensor, threat: NormThreat, todo: Tensor) -> Tensor:
        """Once through the examples `todo`."""
        deepfool = DeepFool(steps=self.steps, candidates=self.candidates, overshoot=self.overshoot)
        while len(todo):
            ahead = todo[:AHEAD]
            fooled = oracle.scores(threat.shared(v, oracle.x0[ahead], oracle.stream.take(ahead)), rows=ahead).margin > 0
            waiting = (~fooled).nonzero()[:, 0]
            if len(waiting) == 0:
                todo = todo[AHEAD:]
                continue
            taken = waiting[: self.batch]
            part = oracle.part()
            part.keep(ahead[taken])
            start = threat.shared(v, part.x0, part.stream)
            across, _ = deepfool.descend(part, start, threat, torch.arange(len(taken), device=v.device))
            for r in (across - start).split(1):
                v = within(v + r, threat)
            todo = todo[int(taken[-1]) + 1 :]
        return v
