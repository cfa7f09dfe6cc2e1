"""Examples, and the little that a source of them must offer."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mohs.errors import DataError


@dataclass(frozen=True, eq=False)
class Examples:
    """x [n, *input] float32; y [n] int64; ids [n] int64, the position of each in its source.

    notes: what was changed in reading it.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    name: str
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Examples:
        """Some of them, by row."""
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows])

    def sha256(self) -> str:
        """Of shapes, values, labels and ids: equal where the same examples are audited, whatever the file."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y, self.ids):
            digest.update(f"{tensor.dtype} {list(tensor.shape)};".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


class Source(ABC):
    """A set of examples at known positions, of which any can be taken without the rest where the file allows it."""

    name: str
    class_names: tuple[str, ...] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many examples there are."""

    @abstractmethod
    def take(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, *input] and labels [n] at positions ids [n], ascending, as the source has them."""


def sample(count: int, limit: int | None, seed: int, name: str) -> Tensor:
    """Positions [limit] int64, ascending, drawn without replacement; all of them without a limit. Raises DataError."""
    if count == 0:
        raise DataError(f"{name} is empty; expected at least one example")
    if limit is None:
        return torch.arange(count)
    if limit < 1:
        raise DataError(f"a limit of {limit} examples leaves nothing to audit; give 1 or more, or none")
    if limit > count:
        raise DataError(f"{limit} examples were asked for and {name} has {count}; ask for at most that")
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


def checked(
    x: Tensor, y: Tensor, ids: Tensor, name: str, class_names: Sequence[str] | None = None, notes: Sequence[str] = ()
) -> Examples:
    """Examples whose labels are counts from 0 and whose values are numbers. Raises DataError."""
    if len(x) != len(y):
        raise DataError(f"{name} has {len(x)} examples and {len(y)} labels; expected one label an example")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or y.ndim != 1:
        raise DataError(f"{name} has labels {y.dtype} of shape {list(y.shape)}; expected whole numbers of shape [n]")
    if x.ndim < 2:
        raise DataError(f"{name} has examples of shape {list(x.shape)}; expected [n, *input]")
    y = y.long()
    if int(y.min()) < 0:
        raise DataError(f"{name} has the label {int(y.min())} at position {int(ids[y.argmin()])}; classes count from 0")
    x = x.float().contiguous()
    if not math.isfinite(x.sum(dtype=torch.float64)):  # without a second array of that size
        broken = ~x.isfinite().flatten(1).all(1)
        where = ids[broken][:5].tolist()
        raise DataError(f"{name} holds NaN or infinity in {int(broken.sum())} examples, at positions {where}; repair them")
    return Examples(x, y, ids, name, None if class_names is None else tuple(class_names), tuple(notes))
