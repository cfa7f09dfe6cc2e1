"""A folder of images: one subfolder a class."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mohs.data.base import Source
from mohs.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")


class ImageFolder(Source):
    """FOLDER/class/image.png: classes are subfolders and ids are files, both in alphabetical order. All images have
    one size and are all grey or all colour; only those that are taken are decoded."""

    def __init__(self, path: Path) -> None:
        folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        self.name = path.name or str(path)
        self.class_names = tuple(folder.name for folder in folders)
        self.files = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        ]
        if not self.files:
            raise DataError(f"{path} holds no images; expected a folder a class with {', '.join(SUFFIXES)} files")

    def __len__(self) -> int:
        return len(self.files)

    def take(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        chosen = [self.files[i] for i in ids.tolist()]
        first = _pixels(self.files[0][0])
        images = np.empty((len(chosen), *first.shape), dtype=np.uint8)
        for row, (file, _) in enumerate(chosen):
            pixels = _pixels(file)
            if pixels.shape != first.shape:
                raise DataError(
                    f"{file} is {_size(pixels)} and {self.files[0][0]} is {_size(first)}; expected images of one size, "
                    "all grey or all colour"
                )
            images[row] = pixels
        x = torch.from_numpy(images)
        return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2), torch.tensor([label for _, label in chosen])


def _pixels(file: Path) -> np.ndarray[Any, Any]:
    """[height, width] of a grey image, [height, width, 3] of any other."""
    try:
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("ignore")  # of palettes with transparency, which is left out
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image: {error}") from error


def _size(pixels: np.ndarray[Any, Any]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} {'grey' if pixels.ndim == 2 else 'colour'}"
