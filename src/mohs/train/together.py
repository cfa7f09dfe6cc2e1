"""What the processes of one training have together. One process alone has what it has."""

from __future__ import annotations

from typing import Any

from torch import Tensor, distributed


def processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def mine(n: int) -> range:
    """Of the first n places of a joint batch, those of this process."""
    return range(distributed.get_rank() if distributed.is_initialized() else 0, n, processes())


def summed(value: Tensor) -> Tensor:
    """The sum over the processes, the same in each."""
    if processes() > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def gathered(own: Any) -> list[Any]:
    """What each process has, by rank."""
    found: list[Any] = [own] * processes()
    if processes() > 1:
        distributed.all_gather_object(found, own)
    return found
