"""What is made once and kept: small networks that mohs trains at their first use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor


def kept(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of that name in the cache folder; made and put there where they are not."""
    base = os.environ.get("XDG_CACHE_HOME")
    path = (Path(base) if base else Path.home() / ".cache") / "mohs" / f"{name}.safetensors"
    if path.exists():
        return load_file(path)
    made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(save(made))
        temporary.replace(path)
    except OSError:
        pass  # a read-only home: the next call makes them again
    return made
