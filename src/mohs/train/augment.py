"""Augmentation: change(x [n, channels, height, width], y, stream) -> (x, y), every draw from the rows' own streams.

What a row becomes does not depend on its batch mates, but for mixup and CutMix, which mix it with the next row's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from mohs.errors import RequestError, UnknownName
from mohs.rng import Stream

Change = Callable[[Tensor, Tensor, Stream], tuple[Tensor, Tensor]]


def crop(x: Tensor, y: Tensor, stream: Stream, size: float = 4) -> tuple[Tensor, Tensor]:
    """Zeros of `size` pixels around the image, and a window of its own size at a random place."""
    n, channels, height, width = x.shape
    edge = int(size)
    place = stream.at("crop").integers(2 * edge + 1, 2).to(x.device)
    padded = functional.pad(x, (edge,) * 4)
    down = (place[:, :1] + torch.arange(height, device=x.device))[:, None, :, None].expand(n, channels, height, width + 2 * edge)
    across = (place[:, 1:] + torch.arange(width, device=x.device))[:, None, None, :].expand(n, channels, height, width)
    return padded.gather(2, down).gather(3, across), y


def flip(x: Tensor, y: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
    """Left and right exchanged in half of the rows."""
    turned = stream.at("flip").bits(1)[:, 0] < 0
    return torch.where(turned.to(x.device).view(-1, 1, 1, 1), x.flip(3), x), y


def cutout(x: Tensor, y: Tensor, stream: Stream, size: float = 8) -> tuple[Tensor, Tensor]:
    """A square of zeros of `size` pixels about a random place. DeVries & Taylor, 2017, arXiv:1708.04552."""
    hole = _window(x, stream.at("cutout"), torch.full((len(x), 2), float(size)))
    return x.masked_fill(hole, 0.0), y


def mixup(x: Tensor, y: Tensor, stream: Stream, alpha: float = 1.0, classes: int = 0) -> tuple[Tensor, Tensor]:
    """l x_i + (1 - l) x_j and their labels so, l from Beta(alpha, alpha). Zhang et al., ICLR 2018, arXiv:1710.09412."""
    share = _beta(stream.at("mixup"), alpha).to(x.device)
    return x * share.view(-1, 1, 1, 1) + x.roll(1, 0) * (1 - share.view(-1, 1, 1, 1)), _mixed(y, share, classes)


def cutmix(x: Tensor, y: Tensor, stream: Stream, alpha: float = 1.0, classes: int = 0) -> tuple[Tensor, Tensor]:
    """A window of the next row's image, and of its label as much as the window covers. Yun et al., ICCV 2019,
    arXiv:1905.04899."""
    side = (1 - _beta(stream.at("cutmix"), alpha)).sqrt()
    window = _window(x, stream.at("cutmix place"), side[:, None] * torch.tensor([float(x.shape[2]), float(x.shape[3])]))
    share = 1 - window.float().mean((1, 2, 3))
    return torch.where(window, x.roll(1, 0), x), _mixed(y, share, classes)


def _window(x: Tensor, stream: Stream, size: Tensor) -> Tensor:
    """[n, 1, height, width] bool: a window of size [n, 2] about a random place, cut at the edges."""
    places = stream.uniform(2)
    inside = []
    for axis in (0, 1):
        length = x.shape[2 + axis]
        from_middle = torch.arange(length) + 0.5 - (places[:, axis : axis + 1] * length)
        inside.append(from_middle.abs() < size[:, axis : axis + 1] / 2)
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(x.device)


def _beta(stream: Stream, alpha: float) -> Tensor:
    """[n] float32 of Beta(alpha, alpha)."""
    from scipy.stats import beta

    return torch.from_numpy(beta.ppf(stream.uniform(1)[:, 0].numpy(), alpha, alpha)).float()


def _mixed(y: Tensor, share: Tensor, classes: int) -> Tensor:
    chosen = functional.one_hot(y, classes).float() if y.ndim == 1 else y
    return chosen * share[:, None] + chosen.roll(1, 0) * (1 - share[:, None])


CHANGES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "crop": crop,
    "flip": flip,
    "cutout": cutout,
    "mixup": mixup,
    "cutmix": cutmix,
}
MIXING = ("mixup", "cutmix")


def augmentation(text: str, classes: int) -> Change:
    """`crop:4`, `flip`, `cutout:8`, `mixup:1`, `cutmix:1`."""
    name, colon, setting = text.partition(":")
    if name not in CHANGES:
        raise UnknownName("augmentation", name, CHANGES)
    change = partial(CHANGES[name], classes=classes) if name in MIXING else CHANGES[name]
    if not colon:
        return change
    try:
        value = float(setting)
    except ValueError:
        raise RequestError(f"the augmentation {text!r} should read {name} or {name}:NUMBER") from None
    if name == "flip":
        raise RequestError(f"the augmentation {text!r}: flip takes no number")
    if not 0 < value < math.inf or (name not in MIXING and value % 1):
        wanted = "a number above 0" if name in MIXING else "whole pixels, 1 or more"
        raise RequestError(f"the augmentation {text!r} takes {wanted}, such as {name}:{1 if name in MIXING else 4}")
    return partial(change, **{"alpha" if name in MIXING else "size": value})
