"""Randomness with an address: a draw depends on (seed, words, example id) and on nothing else.

There is no running counter, so the draws of an example are the same alone, in any batch, after compaction and after
a resume. SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, doi:10.1145/2660193.2660195), evaluated in torch's wrapping
int64 arithmetic: one key a row, folded with every word of the address, then one output a counter.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, whose `>>` is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def _number(word: int | str) -> int:
    return zlib.crc32(word.encode()) + (1 << 32) if isinstance(word, str) else word


@dataclass(frozen=True)
class Stream:
    """One key a row: `keys` [rows] int64. Every method draws [rows, *shape]; two draws need two addresses (`at`)."""

    keys: Tensor

    @staticmethod
    def of(seed: int, ids: Tensor) -> Stream:
        """The stream of every example id [rows] under `seed`."""
        return Stream(_mix(_mix(ids.long() * _GAMMA + _GAMMA) ^ _signed(seed % (1 << 64)))).at("seed", seed)

    def at(self, *words: int | str) -> Stream:
        """The stream at a further address, such as at("step", 7)."""
        keys = self.keys
        for word in words:
            keys = _mix(keys * _MIX2 + _signed((_number(word) * 0xD1342543DE82EF95 + 1) % (1 << 64)))
        return type(self)(keys)

    def take(self, rows: Tensor) -> Stream:
        return type(self)(self.keys[rows])

    def bits(self, *shape: int) -> Tensor:
        """int64, uniform over all 64 bits."""
        count = torch.arange(1, math.prod(shape) + 1, device=self.keys.device) * _GAMMA
        return _mix(self.keys[:, None] + count).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """float32 in [0, 1), 24 random bits."""
        return _shift(self.bits(*shape), 40).to(torch.float32) * 2.0**-24

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """int64 in [0, high), `high` a number or one a row; bias below high / 2**53."""
        top = high.view(-1, *[1] * len(shape)) if isinstance(high, Tensor) else high
        return (_shift(self.bits(*shape), 11).to(torch.float64) * 2.0**-53 * top).long()

    def signs(self, *shape: int) -> Tensor:
        """float32, -1 or +1."""
        return _shift(self.bits(*shape), 63).to(torch.float32) * 2 - 1

    def normal(self, *shape: int) -> Tensor:
        """float32, standard normal (Box and Muller, 1958)."""
        pair = self.bits(2, *shape)
        radius = ((_shift(pair[:, 0], 11) + 1).to(torch.float64) * 2.0**-53).log().mul(-2).sqrt()
        angle = _shift(pair[:, 1], 11).to(torch.float64) * (2.0**-53 * 2 * math.pi)
        return (radius * angle.cos()).to(torch.float32)

    def exponential(self, *shape: int) -> Tensor:
        """float32, rate 1."""
        return -((_shift(self.bits(*shape), 11) + 1).to(torch.float64) * 2.0**-53).log().to(torch.float32)

    def permutation(self, n: int) -> Tensor:
        """int64 [rows, n], a uniform permutation a row."""
        return self.bits(n).argsort(dim=1)

    def bulk(self) -> Stream:
        """The address for bulk draws: on a CPU uniform and normal numbers are those of `generators`, others than its own."""
        return _Bulk(self.keys) if self.keys.device.type == "cpu" else self

    def generators(self) -> list[torch.Generator]:
        """A generator of torch's own a row, seeded at this address, for bulk draws: normal numbers in a twelfth of the time of
        `normal` on a CPU. Its draws follow one another, so let nobody but the row itself say how many are taken at once."""
        made = [torch.Generator(self.keys.device) for _ in self.keys]
        return [generator.manual_seed(key) for generator, key in zip(made, self.keys.tolist(), strict=True)]


class _Bulk(Stream):
    def uniform(self, *shape: int) -> Tensor:
        return self._filled(Tensor.uniform_, shape)

    def normal(self, *shape: int) -> Tensor:
        return self._filled(Tensor.normal_, shape)

    def _filled(self, fill: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        drawn = torch.empty(len(self.keys), *shape)
        for row, generator in zip(drawn, self.generators(), strict=True):
            fill(row, generator=generator)
        return drawn
