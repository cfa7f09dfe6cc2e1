"""A compact vision transformer and its twin that convolves: one network, of which only what mixes the places differs
(Yu et al., CVPR 2022, arXiv:2111.11418), so that a study of attention compares attention alone.

Dosovitskiy et al., ICLR 2021, arXiv:2010.11929, in the plain form of Beyer, Zhai, Kolesnikov, 2022, arXiv:2205.01580: fixed
sines and cosines tell the places, the mean of all tokens is classified.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mohs.errors import RequestError
from mohs.networks.parts import Activation

TOKENS = 64  # at most


@dataclass(frozen=True)
class Size:
    """depth: blocks. width: of a token, a multiple of 4 and of heads. ratio: of the hidden layer's width to a token's."""

    depth: int
    width: int
    heads: int
    ratio: int


COMPACT = Size(depth=6, width=128, heads=4, ratio=2)  # 0.8 million parameters, and the work of a ResNet-20
TINY = Size(depth=12, width=192, heads=3, ratio=4)  # ViT-Ti: Touvron et al., ICML 2021, arXiv:2012.12877


class Attention(nn.Module):
    """Among tokens [n, tokens, width]. `attend` gives the maps [n, heads, tokens, tokens] that a study looks at.

    Written out, since torch's fused kernel has no second derivative, which regularised training needs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.qkv, self.attend, self.out = nn.Linear(width, 3 * width), nn.Softmax(dim=-1), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, self.each)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.attend(q @ k.transpose(-2, -1) * self.each**-0.5)
        out: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return out


class SeparableConvolution(nn.Module):
    """In the place of attention, of as many parameters but for one in fifty: the inverted separable convolution of ConvFormer
    (Yu et al., TPAMI 2024, arXiv:2210.13452) with windows of 3x3 in place of 7x7, since the grids here are small."""

    def __init__(self, width: int, grid: tuple[int, int], act: Activation) -> None:
        super().__init__()
        self.grid = grid
        self.grow, self.act = nn.Linear(width, 2 * width), act()
        self.convolution = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.shrink = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        maps = self.act(self.grow(tokens)).transpose(1, 2).unflatten(2, self.grid)
        out: Tensor = self.shrink(self.convolution(maps).flatten(2).transpose(1, 2))
        return out


class TokenBlock(nn.Module):
    """Mix the places, then the channels, each normalised before and added after."""

    def __init__(self, size: Size, mixer: nn.Module, act: Activation) -> None:
        super().__init__()
        width, hidden = size.width, size.width * size.ratio
        self.norm1, self.mixer = nn.LayerNorm(width), mixer
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, hidden), act(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.mixer(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class VisionNet(nn.Module):
    """Patches as tokens, blocks, the mean token to the classes."""

    gain = 1.0  # of the weights at the start: tokens are of unit variance before each layer
    position: Tensor

    def __init__(self, size: Size, patch: int, shape: Sequence[int], classes: int, act: Activation, attention: bool) -> None:
        super().__init__()
        grid = shape[1] // patch, shape[2] // patch
        self.patches = nn.Conv2d(shape[0], size.width, patch, patch)
        self.register_buffer("position", places(grid, size.width))
        blocks = nn.Sequential()
        for _ in range(size.depth):
            mixer = Attention(size.width, size.heads) if attention else SeparableConvolution(size.width, grid, act)
            blocks.append(TokenBlock(size, mixer, act))
        self.blocks, self.norm, self.linear = blocks, nn.LayerNorm(size.width), nn.Linear(size.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.linear(self.norm(self.blocks(tokens)).mean(1))
        return out


def places(grid: tuple[int, int], width: int) -> Tensor:
    """Sines and cosines [tokens, width] of row and column, at frequencies from 1 down to 1e-4."""
    pace = torch.logspace(0, -4, width // 4)
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    angles = [at.reshape(-1, 1) * pace for at in (row, column)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)


def vit(
    *, shape: Sequence[int], classes: int, act: Activation, norm: str, size: Size = COMPACT, attention: bool = True
) -> nn.Module:
    """With the smallest square patches that part the image into 64 tokens or fewer."""
    if norm != "layer":
        raise RequestError(f"a vision transformer normalises its tokens (norm 'layer'), and {norm!r} was asked for")
    height, width = shape[1:]
    side = math.gcd(height, width)
    patches = (p for p in range(1, side + 1) if side % p == 0 and (height // p) * (width // p) <= TOKENS)
    patch = next(patches, None)
    if patch is None:
        raise RequestError(f"no square patches part an image of {height}x{width} into {TOKENS} or fewer: pad or scale it")
    return VisionNet(size, patch, shape, classes, act, attention)


def vit_of(depth: int, width: int, **more: Any) -> nn.Module:
    """So many blocks of tokens so wide, in heads of 16 or 32."""
    if depth < 1 or width < 16 or width % 16:
        raise RequestError(f"a vision transformer has 1 block or more of tokens 16, 32, 48 ... wide; not {depth} of {width}")
    return vit(size=Size(depth, width, width // (32 if width % 32 == 0 else 16), ratio=2), **more)
