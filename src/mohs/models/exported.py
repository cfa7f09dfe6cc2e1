"""torch.export archives (.pt2), as plain graphs that can be copied, moved and differentiated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from mohs.errors import ModelError
from mohs.models.archive import check_exported

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pathlib import Path
from mohs.models.exported import open_program
open_program(Path(sys.argv[2]))
"""


def load_exported(path: Path, device: torch.device, trust_pickle: bool = False) -> tuple[fx.GraphModule, int | None]:
    """The graph of a .pt2 on a device, and its batch size (None: any).

    The archive is checked record by record, opened in a child process with weights-only loading forced, and only then
    opened here in the same way. trust_pickle leaves all that out. Raises ModelError.
    """
    if trust_pickle:
        program = _open_trusted(path)
    else:
        check_exported(path)
        _open_in_child(path)
        program = open_program(path)
    if device.type != "cpu" or any(p.device.type != "cpu" for p in program.parameters()):
        program = move_to_device_pass(program, device)
    return plain(program.module(check_guards=False))


def open_program(path: Path) -> ExportedProgram:
    """A checked archive, with weights-only loading forced."""
    from torch.export.pt2_archive._package import load_pt2  # torch.export.load falls back to formats not checked

    with _weights_only(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_pt2(str(path)).exported_programs["model"]


def _open_trusted(path: Path) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.export.load(path)
        except Exception as error:  # a reader of pickles may raise anything
            raise ModelError(f"{path} cannot be opened by torch {torch.__version__}: {error}") from error


def plain(module: fx.GraphModule) -> tuple[fx.GraphModule, int | None]:
    """What `ExportedProgram.module()` gives, as an ordinary graph of one tensor in and one out, sharing parameters.

    The original compares its guards on each call, refuses train() and eval(), and drags along tree specifications.
    Also its batch size, or None where that is dynamic. Raises ModelError for other inputs and outputs.
    """
    graph = fx.Graph()
    value = graph.graph_copy(module.graph, {})
    for node in graph.nodes:
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
    inputs = graph.find_nodes(op="placeholder")
    outputs = [value] if isinstance(value, fx.Node) else list(value) if isinstance(value, tuple | list) else []
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"the exported graph has {len(inputs)} inputs and {len(outputs)} outputs; mohs audits classifiers of one "
            "tensor in and one out: export a module that wraps it"
        )
    batch = inputs[0].meta["val"].shape[0] if "val" in inputs[0].meta else None
    for node in graph.nodes:
        node.meta = {}
    graph.output(outputs[0])
    return fx.GraphModule(module, graph), batch if isinstance(batch, int) else None


def _open_in_child(path: Path) -> None:
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), str(path.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
    if any("Weights only load failed" in line or "WeightsUnpickler" in line for line in lines):
        raise ModelError(
            f"{path} carries a pickle that is more than tensors, which would run as code when loaded; "
            "say --trust-pickle (trust_pickle=True) only if you trust whoever made the file"
        )
    raise ModelError(f"{path} cannot be opened by torch {torch.__version__}: {lines[-1]}")


@contextmanager
def _weights_only() -> Iterator[None]:
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
