"""Networks in a line: the small convolutional one of Wong and Kolter (ICML 2018, arXiv:1711.00851), and the MLP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from mohs.errors import RequestError
from mohs.networks.parts import Activation, normalisation

HIDDEN = (256, 256)  # of an MLP whose widths are not given


def wk_cnn(*, shape: Sequence[int], classes: int, act: Activation, norm: str) -> nn.Module:
    """Two convolutions of 16 and 32 channels, each of which halves the image, and a hidden layer of 100."""
    channels, height, width = shape
    if min(height, width) < 4:
        raise RequestError(f"wk-cnn halves the image twice, and {height}x{width} is too small: it should be 4x4 or more")
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 16), (16, 32)):
        layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=norm == "none"))
        layers += [] if norm == "none" else [normalisation(norm, outputs)]
        layers.append(act())
    flat = 32 * (height // 4) * (width // 4)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 100), act(), nn.Linear(100, classes))


def mlp(*hidden: int, shape: Sequence[int], classes: int, act: Activation, norm: str) -> nn.Module:
    """Linear layers of these widths, over inputs of any shape."""
    widths = [math.prod(shape), *(hidden or HIDDEN)]
    if norm != "none":
        raise RequestError(f"mlp has no normalisation, and {norm!r} was asked for: say 'none', or take another network")
    if min(widths) < 1:
        raise RequestError(f"the layers of an mlp should be 1 or wider, not {widths}")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), act()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
