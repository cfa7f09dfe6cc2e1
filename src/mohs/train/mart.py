"""MART: misclassification-aware adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mohs.losses import best_other, pick
from mohs.train.batch import Batch
from mohs.train.pgd import PGDTraining
from mohs.train.trades import divergence


@dataclass(frozen=True, kw_only=True)
class MART(PGDTraining):
    """BCE(p(x'), y) + weight KL(p(x) || p(x')) (1 - p_y(x)): the divergence counts most where the clean example is misjudged. BCE
    is -log p_y(x') - log(1 - max_{k != y} p_k(x')); 1 - p_y(x) is not detached, as in the authors' code. Its flat probabilities
    flatter attacks on the cross-entropy: audit with `standard`.

    weight: lambda. steps, step_size, evaluating: of PGD, which looks for x'.
    Wang, Zou, Yi, Bailey, Ma, Gu, ICLR 2020.
    """

    weight: float = 5.0

    paper = "Wang et al., ICLR 2020"
    cost = "(k+2)F+(k+2)Bx+2Bw"
    purpose = "more weight on examples that are misjudged already"
    mixes = False

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        clean, attacked = batch.network(batch.x0), batch.network(batch.shown(point))
        probability = pick(clean.softmax(1), batch.y)
        return (boosted(attacked, batch.y) + self.weight * divergence(clean, attacked) * (1 - probability)).mean()


def boosted(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y - log(1 - max_{k != y} p_k) [n], each logarithm from 1e-12 up."""
    probabilities = logits.softmax(1)
    rest = (1 - best_other(probabilities, y)).clamp_min(1e-12).log()
    return functional.cross_entropy(logits, y, reduction="none").clamp(max=-torch.tensor(1e-12).log().item()) - rest
