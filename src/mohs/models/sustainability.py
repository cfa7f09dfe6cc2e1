"""Layer sustainability analysis: how far an attack moves what each layer says, and training against it.

Khalooei, Homayounpour, Amirmazlaghani, 2022, arXiv:2202.02626. The paper's comparison measure is a relative error; we take it of
each example by itself and average, so that it does not depend on which examples share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mohs.errors import ModelError, UnknownName
from mohs.models.perception import ACTIVATIONS
from mohs.models.torch_model import as_logits

TINY = 1e-12  # added to lengths that are divided by


class _Watch(TorchFunctionMode):
    """Keeps what activation layers return, whether they are modules or functions, under names of their own.

    A module without others inside, in which an activation function is called, is one activation layer, and is named as the
    network names it. Elsewhere each call is a layer: `layer1.0:relu`, `layer1.0:relu_1`.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}
        self.inside: list[tuple[str, bool]] = []  # the modules that are being called: name, and whether it is a leaf
        self.active: list[bool] = []  # whether an activation function was called in each of them

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = getattr(func, "__name__", "").partition(".")[0].rstrip("_")
        if kind in ACTIVATIONS and self.inside:
            self.active[-1] = True
            name, leaf = self.inside[-1]
            if not leaf:
                self._keep(f"{name}:{kind}" if name else kind, out)
        return out

    def enter(self, name: str, module: nn.Module, given: object) -> None:
        self.inside.append((name, bool(name) and next(module.children(), None) is None))
        self.active.append(False)

    def leave(self, module: nn.Module, given: object, out: object) -> None:
        name, leaf = self.inside.pop()
        if self.active.pop() and leaf and isinstance(out, Tensor):
            self._keep(name, out)

    def _keep(self, name: str, out: Tensor) -> None:
        names = [name, *(f"{name}_{k}" for k in range(1, len(self.seen) + 1))]
        free = next(name for name in names if name not in self.seen)
        self.seen[free] = out.clone()  # what follows may overwrite it


def activations(module: nn.Module, x: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """What the module returns for x [n, *input], and the output [n, ...] of each of its activation layers in the order of
    their calls, differentiable; the module is left without hooks. Raises ModelError where there is none."""
    watch, handles = _Watch(), []
    try:
        for name, part in module.named_modules():
            handles.append(part.register_forward_pre_hook(partial(watch.enter, name)))
            handles.append(part.register_forward_hook(watch.leave))
        with watch:
            out = module(x)
    finally:
        for handle in handles:
            handle.remove()
    if not watch.seen:
        raise ModelError(f"no activation layer is seen in {type(module).__name__}: known are {', '.join(sorted(ACTIVATIONS))}")
    return out, watch.seen


def relative_errors(clean: Mapping[str, Tensor], attacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """||phi(x) - phi(x')|| / ||phi(x)|| of each layer, [n]: the paper's CM, an example at a time."""
    return {
        name: (attacked[name] - phi).flatten(1).norm(dim=1) / (phi.flatten(1).norm(dim=1) + TINY) for name, phi in clean.items()
    }


def most_vulnerable(errors: Mapping[str, float], deviations: float = 1.0) -> list[str]:
    """The layers whose mean error is at least the mean over layers plus so many standard deviations, in the order given; the
    one of the largest error where none is. The paper names the list and leaves its threshold open: this rule is ours."""
    values = torch.tensor(list(errors.values()), dtype=torch.float64)
    least = min(float(values.mean() + deviations * values.std(correction=0)), float(values.max()))
    return [name for name, value in errors.items() if value >= least]


def layer_regularised(module: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, gamma: Mapping[str, float]) -> Tensor:
    """The loss of adversarial training with layer regularisation (AT-LR): cross-entropy of attacked inputs [n, *input], whose
    labels are y [n], plus gamma times the mean relative error of each layer that gamma names.

    gamma: by the names of `activations`, such as those of `most_vulnerable`. Gradients flow through both passes.
    """
    out, moved = activations(module, attacked)
    loss = functional.cross_entropy(as_logits(out, "logits"), y)
    for name in gamma:
        if name not in moved:
            raise UnknownName("activation layer", name, moved)
    if gamma:
        _, phi = activations(module, x)
        errors = relative_errors({name: phi[name] for name in gamma}, moved)
        loss = loss + torch.stack([weight * errors[name].mean() for name, weight in gamma.items()]).sum()
    return loss
