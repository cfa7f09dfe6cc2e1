"""What transfer attacks do to an input on its way to the model, and to a gradient on its way back. No row meets another.

Transformations take (x [n, *input], the streams of its rows) and are differentiable in x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from mohs.rng import Stream


def shrink(x: Tensor, stream: Stream, *, power: int) -> Tensor:
    """x / 2^power, the values of it, not the size. Lin et al., ICLR 2020, arXiv:1908.06281."""
    return x.div(2**power)


def diversify(x: Tensor, stream: Stream, *, probability: float, resize: float, step: int, power: int = 0) -> Tensor:
    """x / 2^power [n, ..., height, width], shown smaller and at a random place on zeros in a `probability` of the rows.

    The height is resized bilinearly to a number of pixels uniform in [resize height, height], the width in proportion, and
    the place is uniform; the size of an input stays. Xie et al., CVPR 2019, arXiv:1803.06978, who resize to more pixels
    and pad to still more, for models that take any size.
    """
    shape, (height, width) = x.shape, x.shape[-2:]
    here = stream.at("diversity", power, step)
    u = here.uniform(4)
    small = height - here.at("size").integers(height - int(resize * height) + 1, 1)[:, 0]  # in [int(resize height), height]
    tall = torch.where(u[:, 0] < probability, small, height).to(x.dtype)
    wide = (tall * width / height).round()
    top, left = ((u[:, 1] * (height - tall + 1)).floor(), (u[:, 2] * (width - wide + 1)).floor())
    rows, inside_rows = _source(height, tall, top)
    columns, inside_columns = _source(width, wide, left)
    n = len(x)
    grid = torch.stack([columns[:, None].expand(n, height, width), rows[:, :, None].expand(n, height, width)], 3)
    shown = grid_sample(x.flatten(1, -3), grid, mode="bilinear", padding_mode="border", align_corners=False)
    shown = shown * (inside_rows[:, :, None] & inside_columns[:, None])[:, None]
    whole = (tall == height).view(-1, *[1] * (len(shape) - 1))
    return torch.where(whole, x, shown.view(shape)).div(2**power)


def _source(size: int, kept: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of `size` pixels is taken from, in [-1, 1] of the input, [n, size], and whether it shows any of it."""
    place = torch.arange(size, device=kept.device) - start[:, None]
    inside = (place >= 0) & (place < kept[:, None])
    return (place + 0.5) * 2 / kept[:, None] - 1, inside


def jump(x: Tensor, stream: Stream, *, ball: Callable[[Tensor, Stream], Tensor], radius: float, step: int, number: int) -> Tensor:
    """x plus a uniform draw of the ball of this radius; the result may leave the box.
    Wang & He, CVPR 2021, arXiv:2103.15571."""
    return x + radius * ball(x.detach(), stream.at("neighbour", number, step))


def smooth(u: Tensor, side: int) -> Tensor:
    """u [n, ..., height, width] under a Gaussian of `side` x `side` pixels that ends at three standard deviations and sums
    to 1; zeros lie around u. Dong et al., CVPR 2019, arXiv:1904.02884.

    Shifted copies are added in turn: a convolution might sum in another order in other company."""
    weights = (-0.5 * torch.linspace(-3, 3, side, dtype=torch.float64) ** 2).exp()
    weights /= weights.sum()
    half = side // 2
    padded, (height, width) = pad(u, (half, half, half, half)), u.shape[-2:]
    rows = torch.zeros_like(padded[..., :height, :])
    for i, weight in enumerate(weights.tolist()):
        rows.add_(padded[..., i : i + height, :], alpha=weight)
    out = torch.zeros_like(u)
    for i, weight in enumerate(weights.tolist()):
        out.add_(rows[..., i : i + width], alpha=weight)
    return out
