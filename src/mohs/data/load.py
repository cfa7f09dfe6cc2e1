"""What `--data` takes -> Examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from mohs.data.arrays import ArraySource, as_inputs, changes, from_npz, from_safetensors
from mohs.data.base import Examples, Source, checked, sample
from mohs.data.digits import load_digits
from mohs.data.images import ImageFolder
from mohs.data.tables import from_table
from mohs.data.torch_data import DatasetSource, from_loader
from mohs.errors import DataError, UnknownName

FILES = {".npz": from_npz, ".safetensors": from_safetensors, ".parquet": from_table, ".csv": from_table}


def load_data(source: Any, *, limit: int | None = None, seed: int = 0, bounds: tuple[float, float] = (0.0, 1.0)) -> Examples:
    """The examples of a source, or `limit` of them drawn without replacement under `seed`, in the order of the source.

    source: `digits` (the test split), `digits:train`, a .npz, .safetensors, .parquet or .csv file, a folder with a
    subfolder of images a class; from Python also a pair (x, y), a Dataset or a DataLoader. bounds: what 8-bit values, and
    they alone, are scaled to. Raises DataError and UnknownName.
    """
    opened = open_source(source, limit)
    ids = sample(len(opened), limit, seed, opened.name)
    x, y = opened.take(ids)
    return checked(as_inputs(x, bounds), y, ids, opened.name, opened.class_names, changes(x, bounds))


def open_source(source: Any, limit: int | None = None) -> Source:
    """The source itself; `limit` is how much of an endless stream is read."""
    if isinstance(source, DataLoader | IterableDataset):
        return from_loader(source, limit)
    if isinstance(source, Dataset):
        return DatasetSource(source)
    if isinstance(source, tuple | list) and len(source) == 2:
        return ArraySource(source[0], source[1], name="tensors")
    if not isinstance(source, str | Path):
        raise DataError(f"data is a {type(source).__name__}; expected a name, a path, a pair (x, y), a Dataset or a DataLoader")
    if source in ("digits", "digits:test"):
        return ArraySource(*load_digits("test"), name="digits")
    if source == "digits:train":
        return ArraySource(*load_digits("train"), name="digits:train")
    return _open_path(Path(source))


def _open_path(path: Path) -> Source:
    if path.is_dir():
        return ImageFolder(path)
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else Path()
        names = [beside.name for beside in folder.iterdir() if beside.is_dir() or beside.suffix in FILES]
        raise UnknownName(f"data in {folder.resolve()}", path.name, [*names, "digits", "digits:train"])
    if path.suffix.lower() not in FILES:
        raise DataError(f"{path} is no kind of data that mohs reads; expected {', '.join(FILES)} or a folder of images")
    return FILES[path.suffix.lower()](path)
