"""Datasets and loaders of torch: each item is (input, label)."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from mohs.data.arrays import ArraySource
from mohs.data.base import Source
from mohs.errors import DataError

MOST = 100_000  # examples read from a stream that does not say how many it has


class DatasetSource(Source):
    """A Dataset with a length: only the items that are taken are read."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        if not isinstance(dataset, Sized):
            raise DataError(f"{type(dataset).__name__} has no length; give it a __len__, or a DataLoader around it")
        self.dataset = dataset
        self.count = len(dataset)
        self.name = type(dataset).__name__
        names = getattr(dataset, "classes", None)
        self.class_names = tuple(map(str, names)) if isinstance(names, list | tuple) else None

    def __len__(self) -> int:
        return self.count

    def take(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        items = [_pair(self.dataset[i], self.name) for i in ids.tolist()]
        x, y = ([torch.as_tensor(item[part]) for item in items] for part in (0, 1))
        return _stacked(x, self.name), _stacked(y, self.name)


def from_loader(loader: DataLoader[Any] | IterableDataset[Any], limit: int | None) -> ArraySource:
    """The batches of a loader, or the items of a stream, in order; of an endless one the first `limit` examples.

    Raises DataError where a loader shuffles: positions would then name other examples in each run.
    """
    name = type(loader).__name__
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
        raise DataError("the DataLoader shuffles, so that ids would change from run to run; say shuffle=False")
    batched = isinstance(loader, DataLoader) and loader.batch_size is not None
    enough = limit if limit is not None and not _has_length(loader) else MOST + 1
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    count = 0
    for item in loader:
        x, y = (torch.as_tensor(part) for part in _pair(item, name))
        xs.append(x if batched else x[None])
        ys.append(y if batched else y[None])
        count += len(xs[-1])
        if count >= enough:
            break
    if enough > MOST and count > MOST:
        raise DataError(f"the {name} gives more than {MOST:,} examples; give a Dataset with a length, and a limit")
    if not xs:
        raise DataError(f"the {name} is empty; expected at least one example")
    return ArraySource(torch.cat(xs)[:enough], torch.cat(ys)[:enough], name)


def _has_length(loader: object) -> bool:
    try:
        return isinstance(loader, Sized) and len(loader) >= 0
    except TypeError:  # a DataLoader around a stream
        return False


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise DataError(f"{name} gives {type(item).__name__}; expected pairs (input, label)")
    return item[0], item[1]


def _stacked(tensors: list[Tensor], name: str) -> Tensor:
    first = tensors[0].shape
    for position, tensor in enumerate(tensors):
        if tensor.shape != first:
            raise DataError(f"{name} gives {list(tensor.shape)} at {position} and {list(first)} before; expected one shape")
    return torch.stack(tensors)
