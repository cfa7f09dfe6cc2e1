"""What a model sees of an input, layer by layer, beside its answer, from one pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mohs.detectors.base import ROWS
from mohs.errors import ModelError
from mohs.models import Model
from mohs.models.perception import Watch

Pool = Callable[[Tensor], Tensor]  # activations [n, channels, ...] -> [n, features]


def flat(a: Tensor) -> Tensor:
    return a.flatten(1)


def mean(a: Tensor) -> Tensor:
    """Over places, a value a channel."""
    return a.flatten(2).mean(2) if a.ndim > 2 else a


def seen(model: Model, x: Tensor, pool: Pool) -> tuple[Tensor, list[Tensor]]:
    """Logits [n, classes] of x [n, *input], and [n, features] of each layer: the outputs of activation functions, of each
    size of feature maps the last (of a ResNet, the end of every stage), and all those that are no maps. ModelError where
    none are seen, as in TorchScript."""
    if model.batch is not None and len(x) > model.batch:
        parts = [seen(model, part, pool) for part in x.split(model.batch)]
        return torch.cat([logits for logits, _ in parts]), [
            torch.cat(layer) for layer in zip(*(f for _, f in parts), strict=True)
        ]
    with Watch(lambda a: (a.shape[1:], pool(a))) as watch:
        logits = model.logits(x)
    found: dict[object, Tensor] = {}
    for number, (shape, kept) in enumerate(watch.seen):
        found[shape if len(shape) > 1 else number] = kept[: len(x)]
    if not found:
        raise ModelError(f"no activation layers are seen in {model.name}: a detector that looks inside takes a torch network")
    return logits, list(found.values())


@torch.no_grad()
def seen_of_all(model: Model, x: Tensor, pool: Pool) -> list[Tensor]:
    """The layers of any number of rows, [n, features] float64 each."""
    parts = [seen(model, part.to(model.device), pool)[1] for part in x.split(ROWS)]
    return [torch.cat(layer).double() for layer in zip(*parts, strict=True)]
