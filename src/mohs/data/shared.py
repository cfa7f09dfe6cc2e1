"""Examples that two sets have in common."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor


def shared(one: Tensor, other: Tensor) -> Tensor:
    """[n] bool: the rows of one [n, *input] that other [m, *input] holds too, value by value, whatever their labels."""
    known = set(_digests(other))
    return torch.tensor([digest in known for digest in _digests(one)], dtype=torch.bool)


def _digests(x: Tensor) -> list[bytes]:
    rows = (row.contiguous() + 0.0 for row in x.detach().cpu().float())  # -0 is 0
    return [blake2b(row.numpy().data, digest_size=16).digest() for row in rows]
