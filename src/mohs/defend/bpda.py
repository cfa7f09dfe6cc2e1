"""Gradients through layers that have none: backward pass differentiable approximation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from mohs.defend.base import straight_through
from mohs.errors import UnknownName
from mohs.models import TorchModel

Substitute = Callable[[Tensor], Tensor]


class StraightThrough(nn.Module):
    """A layer whose derivatives are those of `instead`, the identity where None."""

    def __init__(self, layer: nn.Module, instead: Substitute | None) -> None:
        super().__init__()
        self.layer, self.instead = layer, instead

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            shown = self.layer(x)
        return straight_through(shown, x if self.instead is None else self.instead(x))


def bpda(model: TorchModel, layers: Iterable[str] | Mapping[str, Substitute | None]) -> TorchModel:
    """The model with gradients that pass some of its layers as they pass a substitute; its scores stay what they are, and
    the caller's module is not changed.

    layers: names of submodules, as in `named_modules`, with substitutes or for the identity. Raises UnknownName.
    Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420.
    """
    module = copy.deepcopy(model.module)
    known = {name for name, _ in module.named_modules() if name}
    instead = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers)
    for name, substitute in instead.items():
        if name not in known:
            raise UnknownName("layer", name, known)
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, StraightThrough(module.get_submodule(name), substitute))
    twin = model.twin(module)
    twin.differentiable = False
    return twin
