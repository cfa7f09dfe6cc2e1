"""Checkpoints: everything that a training needs to go on as if it had never stopped. They hold numbers and plain data alone, and
are read so."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from mohs.errors import RunError
from mohs.store.faults import write_durably

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Under its name all at once, so that a training killed at any moment has the last one whole."""
    data = io.BytesIO()
    torch.save(state, data)
    write_durably(folder / NAME, data.getvalue())


def load(folder: Path) -> dict[str, Any] | None:
    """The last one, or None where there is none yet."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in any way
        raise RunError(f"{path} cannot be read: {error}; name another folder, or remove it to begin anew") from error
    return state
