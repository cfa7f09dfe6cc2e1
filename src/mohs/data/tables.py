"""Tables: Parquet and CSV, a row an example, one label column, the other columns numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mohs.data.arrays import ArraySource
from mohs.errors import DataError

LABELS = ("y", "label", "target")


def from_table(path: Path) -> ArraySource:
    """x [n, features] and y [n] of a .parquet or .csv file; missing values become NaN, which is refused later."""
    table = _read(path)
    names = [name for name in table.column_names if name in LABELS]
    if len(names) != 1:
        columns = ", ".join(table.column_names)
        raise DataError(f"{path} has the columns {columns}; expected exactly one of {', '.join(LABELS)} for the labels")
    labels = table.column(names[0])
    if labels.null_count:
        raise DataError(f"{path} lacks {labels.null_count} labels in the column {names[0]!r}; leave those rows out")
    features = [_numbers(path, table, name) for name in table.column_names if name != names[0]]
    if not features:
        raise DataError(f"{path} has labels and no other column; expected numeric features")
    y = labels.to_numpy()
    if y.dtype.kind not in "iufb":
        raise DataError(f"{path}: the labels in {names[0]!r} are {labels.type}; write them as numbers, in the model's order")
    return ArraySource(np.stack(features, 1), y, path.name)


def _read(path: Path) -> Any:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        return parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from error


def _numbers(path: Path, table: Any, name: str) -> Any:
    column = table.column(name)
    values = column.to_numpy()
    if values.dtype.kind not in "iufb":
        raise DataError(f"{path}: the column {name!r} is {column.type}; expected numbers")
    return values.astype(np.float32)
