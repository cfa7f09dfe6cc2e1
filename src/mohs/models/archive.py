"""What a file of torch may hold before it is opened: loading one can run code, and not only by pickles.

A .pt2 is a zip of JSON, raw tensors and pickles. torch reads the pickled tensors and sample inputs with weights-only
loading when that is forced, but it also unpickles opaque constants whatever is forced, loads the shared libraries of
AOTInductor, evaluates the symbolic sizes (`sympify`) and the guards as Python, calls any attribute of `torch` that a
node names, imports modules that tree specifications name, and writes names into generated code. So an archive passes
only if everything in it is of a kind known to be inert. The records are listed and read by torch's own reader, so that
a zip which two readers see differently deceives neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mohs.errors import ModelError
from mohs.models.inert import suspicious

_TRUST = "say --trust-pickle (trust_pickle=True) only if you trust whoever made the file"
_RECORDS = re.compile(
    r"models/model\.json|data/(weights|constants)/(weight_\d+|tensor_\d+|model_(weights|constants)_config\.json)"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version|\.data/\w+|extra/.*"
)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with `constants.pkl` and code. False for pickles."""
    records = _records(path)
    return "constants.pkl" in records and any(name.startswith("code/") for name in records)


def check_torchscript(path: Path) -> None:
    """Raise ModelError where the code of a TorchScript archive names operators that read or write files."""
    reader = torch._C.PyTorchFileReader(str(path))
    for name in _records(path):
        if name.startswith("code/") and name.endswith(".py"):
            found = re.search(r"\b(save|from_file)\(", reader.get_record(name).decode())
            if found:
                raise ModelError(f"{path} calls {found[1]}, which reaches the disk; {_TRUST}")


def check_exported(path: Path) -> None:
    """Raise ModelError where a .pt2 holds anything that could run when it is loaded or called, sample inputs and
    pickled tensors apart, which weights-only loading restricts."""
    records = _records(path)
    if "models/model.json" not in records:
        raise ModelError(f"{path} is not an archive of torch.export.save: it has no models/model.json")
    try:
        found = next(_live(path, records), None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if found:
        raise ModelError(f"{path} {found}; {_TRUST}")


def _live(path: Path, records: list[str]) -> Iterator[str]:
    """What an archive carries that could run, in words."""
    reader = torch._C.PyTorchFileReader(str(path))
    for name in records:
        if not _RECORDS.fullmatch(name):
            yield f"carries {name!r}, which is code or a pickle"
        if name.endswith("_config.json"):
            for payload in json.loads(reader.get_record(name))["config"].values():
                if not re.fullmatch(r"weight_\d+|tensor_\d+", payload["path_name"]):
                    yield f"carries the pickled object {payload['path_name']!r}"
    for what, text in suspicious(json.loads(reader.get_record("models/model.json"))):
        yield f"has the {what} {text[:80]!r}, which would run as code"


def _records(path: Path) -> list[str]:
    try:
        reader: Any = torch._C.PyTorchFileReader(str(path))
        return list(reader.get_all_records())
    except RuntimeError:
        return []
