"""A network held still while something is computed through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import nn

from mohs.models.convolution import NarrowGradients


@contextmanager
def crafting(network: nn.Module, evaluating: bool = True) -> Iterator[None]:
    """Parameters without gradients and, where `evaluating`, evaluation mode; as it was on the way out. On a CPU the gradient in
    the input takes the cheaper way."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    modes = [(part, part.training) for part in network.modules()]
    for parameter in trained:
        parameter.requires_grad_(False)
    if evaluating:
        network.eval()
    plain = not trained or trained[0].is_cuda
    try:
        with nullcontext() if plain else NarrowGradients():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part, mode in modes:
            part.training = mode
