"""Adversarial training with layer regularisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mohs.errors import UnknownName
from mohs.models.sustainability import activations, layer_regularised, most_vulnerable, relative_errors
from mohs.train import together
from mohs.train.batch import Batch, crafting
from mohs.train.pgd import PGDTraining


@dataclass(frozen=True, kw_only=True)
class LayerRegularised(PGDTraining):
    """AT-LR: CE(f(x'), y) + gamma sum over the most vulnerable layers of the mean relative error, ||phi(x) - phi(x')|| over
    ||phi(x)||, of what they say of clean and attacked inputs.

    gamma: one for all layers; the paper gives no value that could be read, and this one is ours. layers: their names, parted by
    commas, as `mohs layers` finds them in a trained network; without names they are found anew in every batch, the same way.
    steps, step_size: of PGD, which looks for x'.
    Khalooei, Homayounpour, Amirmazlaghani, 2022, arXiv:2202.02626.
    """

    gamma: float = 0.1
    layers: str = ""

    paper = "Khalooei et al., 2022, arXiv:2202.02626"
    cost = "(k+4)F+(k+1)Bx+2Bw"
    purpose = "steadier layers: those that attacks move most are held"
    mixes = False

    @property
    def shards(self) -> bool:
        return False

    @property
    def named(self) -> list[str]:
        return [name.strip() for name in self.layers.split(",") if name.strip()]

    def suits(self, network: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            _, seen = activations(network.eval(), x)
        for name in self.named:
            if name not in seen:
                raise UnknownName("activation layer", name, seen)

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        shown = batch.shown(point)
        held = dict.fromkeys(self._held(batch, shown), self.gamma)
        return layer_regularised(batch.network, batch.x0, shown, batch.y, held)

    def _held(self, batch: Batch, shown: Tensor) -> list[str]:
        with crafting(batch.network), torch.no_grad():
            _, clean = activations(batch.network, batch.x0)
            _, moved = activations(batch.network, shown)
        if not self.named:
            errors = relative_errors(clean, moved)
            joint = together.summed(torch.stack([error.sum() for error in errors.values()]))
            return most_vulnerable(dict(zip(errors, joint.tolist(), strict=True)))
        # the loop may have wrapped the network, which puts words before the names of layers
        return [next((known for known in clean if f".{known}".endswith(f".{name}")), name) for name in self.named]
