"""An ensemble whose members are trained to be wrong in different ways."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import ModelError

JITTER = 1e-6  # on the diagonal of the Gram matrix, as the authors' code has it: members that agree have no determinant


class MeanProbability(nn.Module):
    """The logarithm of the mean of the members' probabilities, [n, classes]: a classifier like any other, to be attacked,
    audited and trained as one.

    members: modules of the same inputs and classes; `logits` gives those of all, [members, n, classes], which
    `diversity_loss` is made of.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ModelError("an ensemble of no members: give at least one")
        self.members = nn.ModuleList(members)

    def logits(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members])

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).log_softmax(2).logsumexp(0) - math.log(len(self.members))


def diversity_loss(logits: Tensor, y: Tensor, *, alpha: float = 2.0, beta: float = 0.5) -> Tensor:
    """The loss of adaptive diversity promoting training, a number: sum_k CE(F_k, y) - alpha H(F) - beta log ED, the mean of
    rows.

    logits [members, n, classes]; y [n]. H: the entropy of the members' mean prediction F. ED: the squared volume that the
    members' predictions, without the true class and each of length 1, span: det(M^T M). It needs fewer members than classes.
    Pang, Xu, Du, Chen, Zhu, ICML 2019, arXiv:1901.08846.
    """
    members, rows, classes = logits.shape
    if not members < classes:
        raise ModelError(f"{members} members have no volume among {classes} classes: give fewer members than classes")
    cross = sum(functional.cross_entropy(z, y) for z in logits)
    p = logits.softmax(2)
    mean = p.mean(0)
    entropy = -(mean * mean.clamp_min(1e-20).log()).sum(1).mean()
    others = torch.ones_like(p[0], dtype=torch.bool).scatter_(1, y[:, None], False)
    m = functional.normalize(p[:, others].view(members, rows, classes - 1).transpose(0, 1), dim=2)  # [n, members, classes - 1]
    gram = m @ m.transpose(1, 2) + JITTER * torch.eye(members).to(m)
    return cross - alpha * entropy - beta * torch.logdet(gram).mean()
