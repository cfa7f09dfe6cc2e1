"""One change for all, by projected gradient ascent on the mean clipped loss of batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.attacks.universal.craft import Craft, batches, reached, within
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import NormThreat, Threat


@dataclass(frozen=True, kw_only=True)
class UniversalPGD(Craft):
    """v = project(v + step_size * epsilon * steepest(g)), g the mean over a batch of the gradient of min(loss, beta) at x + v,
    from v = 0: Algorithm 2 of the paper, with its sign steps, and steepest ones in other norms.

    epochs: over all examples at most; the change that fools most of them after an epoch is kept, and the one that fools
    `rate` of them ends the search. beta: no example counts for more, so that none is fooled on and on. step_size: in units
    of epsilon. x + v is clipped to the box, with the identity as its derivative. The loss is that of the predicted class,
    where the paper has the label. A pass forward and backward an example and epoch, and a forward one to see how many are
    fooled.
    Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein, AAAI 2020, arXiv:1811.11304.
    """

    epochs: int = 20
    batch: int = 128
    step_size: float = 0.1
    beta: float = 9.0
    loss: Loss = cross_entropy

    paper = "Shafahi et al., AAAI 2020, arXiv:1811.11304"

    def run(self, oracle: Oracle, threat: Threat, rate: float) -> Tensor:
        assert isinstance(threat, NormThreat)  # as `sets` says
        v = torch.zeros_like(oracle.x0[:1])
        loss = clipped(self.loss, self.beta)
        best, most = v, -1.0
        for epoch in oracle.steps(self.epochs):
            for rows in batches(oracle, epoch, self.batch):
                points = threat.shared(v, oracle.x0[rows], oracle.stream.take(rows))
                g = oracle.gradient(points, loss, rows).gradient.mean(0, keepdim=True)
                direction = threat.norm.steepest(threat.constraints.mutable(g))
                v = within(v + self.step_size * threat.epsilon * direction, threat)
            share = float(reached(oracle, v, threat).double().mean())
            if share >= most:
                best, most = v, share
            if share >= rate:
                break
        return best


def clipped(loss: Loss, beta: float) -> Loss:
    """min(loss, beta), whose gradient is zero from beta on."""

    def bounded(logits: Tensor, aim: Aim) -> Tensor:
        return loss(logits, aim).clamp(max=beta)

    return bounded
