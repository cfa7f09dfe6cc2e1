"""The memory and the threads of passes on a CPU."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)


@cache
def keep_freed_memory() -> None:
    """Let the process keep what it frees, up to 512 MiB. glibc hands it back at once, and the system clears every page of
    the next pass anew: a tenth of the time of a pass of a small network. Elsewhere nothing happens."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 64 << 20)
        libc.mallopt(_TRIM_THRESHOLD, 512 << 20)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """So many threads of torch for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
