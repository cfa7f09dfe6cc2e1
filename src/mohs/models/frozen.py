"""A network held still while something is computed through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def crafting(network: nn.Module, evaluating: bool = True) -> Iterator[None]:
    """Parameters without gradients and, where `evaluating`, evaluation mode; as it was on the way out."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    modes = [(part, part.training) for part in network.modules()]
    for parameter in trained:
        parameter.requires_grad_(False)
    if evaluating:
        network.eval()
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part, mode in modes:
            part.training = mode
