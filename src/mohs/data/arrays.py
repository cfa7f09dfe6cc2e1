"""Arrays: tensors in memory, npz, safetensors. 8-bit images become float32 [n, channels, height, width] in the bounds."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mohs.data.base import Source
from mohs.errors import DataError

X_KEYS = ("x", "X", "images", "data")
Y_KEYS = ("y", "Y", "labels", "targets")
_CHANNELS = (1, 3, 4)


class ArraySource(Source):
    """Tensors x [n, *input] and y [n]: 8-bit ones are taken for images later on."""

    def __init__(self, x: object, y: object, name: str, class_names: tuple[str, ...] | None = None) -> None:
        self.x, self.y, self.name, self.class_names = (
            tensor_of(x, f"x of {name}"),
            tensor_of(y, f"y of {name}"),
            name,
            class_names,
        )
        if self.x.ndim == 0 or self.y.ndim == 0 or len(self.x) != len(self.y):
            shapes = f"x of shape {list(self.x.shape)} and y of shape {list(self.y.shape)}"
            raise DataError(f"{name} has {shapes}; expected one label an example")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[ids], self.y[ids]


def as_inputs(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """8-bit values with 0 and 255 at the bounds, and 8-bit images with the channels first; float32."""
    if x.dtype != torch.uint8:
        return x.float()
    if _last(x):
        x = x.permute(0, 3, 1, 2)
    elif x.ndim == 3:
        x = x.unsqueeze(1)
    low, high = bounds
    return low + (high - low) * x.float() / 255


def changes(x: Tensor, bounds: tuple[float, float]) -> tuple[str, ...]:
    """What `as_inputs` does to x, in words."""
    if x.dtype != torch.uint8:
        return ()
    moved = ["channels moved first, from [n, height, width, channels]"] if _last(x) else []
    added = ["a channel added to [n, height, width]"] if x.ndim == 3 else []
    low, high = bounds
    scaled = {(0.0, 1.0): ["8-bit values divided by 255"], (0.0, 255.0): []}
    return (*scaled.get((low, high), [f"8-bit values scaled from 0..255 to {low:g}..{high:g}"]), *moved, *added)


def _last(x: Tensor) -> bool:
    """Whether the channels come last, beyond doubt."""
    return x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS


def from_npz(path: Path) -> ArraySource:
    """The arrays x (or X, images, data) and y (or Y, labels, targets) of an .npz; pickled objects are refused."""
    try:
        with path.open("rb") as file:
            if not file.read(6).startswith((b"PK", b"\x93NUMPY")):
                raise DataError(f"{path} is no .npz, whatever its name: expected x and y as numpy.savez writes them")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array; expected an .npz with x and y (numpy.savez)")
            return _from_table(path, list(archive), archive.__getitem__)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        if "pickle" in str(error):
            raise DataError(f"{path} carries pickled objects, which run code when loaded: save arrays of numbers") from error
        raise DataError(f"{path} cannot be read as .npz: {error}") from error


def from_safetensors(path: Path) -> ArraySource:
    """The tensors x (or X, images, data) and y (or Y, labels, targets) of a .safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as archive:
            return _from_table(path, list(archive.keys()), archive.get_tensor)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error


def _from_table(path: Path, keys: list[str], get: Any) -> ArraySource:
    names = tuple(map(str, get("class_names"))) if "class_names" in keys else None
    return ArraySource(get(_key(path, keys, X_KEYS)), get(_key(path, keys, Y_KEYS)), path.name, names)


def _key(path: Path, keys: list[str], wanted: tuple[str, ...]) -> str:
    found = [key for key in wanted if key in keys]
    if len(found) != 1:
        raise DataError(f"{path} holds {', '.join(keys) or 'nothing'}; expected exactly one of {', '.join(wanted)}")
    return found[0]


def tensor_of(array: object, what: str) -> Tensor:
    """On the CPU; DataError for what holds no numbers."""
    if isinstance(array, Tensor):
        return array.detach().cpu()
    try:
        return torch.from_numpy(np.require(array, requirements=("C", "W")))
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{what} is {getattr(array, 'dtype', type(array).__name__)}; expected an array of numbers") from None
