"""The shape of one input, where a model file tells it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import torch

from mohs.models.archive import check_exported


def input_shape(source: str) -> tuple[int, ...] | None:
    """Of the model that `load_model(source)` gives; None where only whoever made it knows. Nothing is run.

    Raises ModelError for a .pt2 that would not be loaded either.
    """
    path = Path(source)
    if source.partition(":")[0] == "demo":
        return (1, 8, 8)
    if path.suffix.lower() == ".pt2" and path.is_file():
        return _of_exported(path)
    if path.suffix.lower() == ".onnx" and path.is_file():
        return _of_onnx(path)
    return None


def _of_exported(path: Path) -> tuple[int, ...] | None:
    check_exported(path)
    graph = json.loads(torch._C.PyTorchFileReader(str(path)).get_record("models/model.json"))["graph_module"]
    inputs = [spec["user_input"]["arg"] for spec in graph["signature"]["input_specs"] if "user_input" in spec]
    if len(inputs) != 1 or "as_tensor" not in inputs[0]:
        return None
    sizes = graph["graph"]["tensor_values"][inputs[0]["as_tensor"]["name"]]["sizes"][1:]
    return tuple(size["as_int"] for size in sizes) if all("as_int" in size for size in sizes) else None


def _of_onnx(path: Path) -> tuple[int, ...] | None:
    try:
        runtime = importlib.import_module("onnxruntime")
        sizes = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].shape[1:]
    except Exception:  # whatever it is, loading the model says it better
        return None
    return tuple(sizes) if all(isinstance(size, int) for size in sizes) else None
