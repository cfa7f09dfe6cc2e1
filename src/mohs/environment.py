"""What numbers depend on besides the plan: the machine and what is installed on it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the plan."""
    packages = ("torch", "numpy", "scikit-learn", "pyarrow", "onnxruntime", "scipy")
    installed = {name: metadata.version(name) for name in packages if _installed(name)}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": installed,
        "git": _git(),
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git() -> dict[str, object] | None:
    """Commit and state of the caller's repository, where there is one."""
    try:
        ask = {"capture_output": True, "text": True, "timeout": 5, "check": True}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **ask).stdout.strip()  # type: ignore[call-overload]
        dirty = subprocess.run(["git", "status", "--porcelain"], **ask).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(dirty)}
