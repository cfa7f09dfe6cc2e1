"""Every write, fsync and rename of a run passes through here, so that a test can fail or kill at each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mohs.errors import RunFailed

Hook = Callable[[str, Path], None]
_hooks: list[Hook] = []  # tests put one in; it may raise, or end the process


def reach(point: str, path: Path) -> None:
    """A numbered moment at which a run can be lost."""
    for hook in _hooks:
        hook(point, path)


def write_durably(path: Path, data: bytes) -> None:
    """All of the data under its name, or none of it: a temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        reach("write", path)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            reach("fsync", path)
            os.fsync(file.fileno())
        reach("rename", path)
        os.replace(temporary, path)
        reach("fsync folder", path)
        _fsync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunFailed(f"cannot write {path}: {error.strerror or error}; make room or fix it, then resume the run") from error


def append_durably(path: Path, line: bytes) -> None:
    """One more line of a log; a torn last line is the reader's to skip."""
    try:
        reach("append", path)
        with open(path, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror or error}; make room or fix it, then resume the run") from error


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
