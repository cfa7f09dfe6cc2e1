"""A string -> Model: what `mohs audit MODEL` takes."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor, fx, nn

from mohs.errors import ModelError, RequestError, UnknownName
from mohs.models.base import Model
from mohs.models.checks import training
from mohs.models.exported import load_exported, plain
from mohs.models.factory import call_factory, is_factory
from mohs.models.onnx import OnnxModel
from mohs.models.probe import first_answer
from mohs.models.torch_model import Outputs, TorchModel
from mohs.models.torchscript import load_torchscript

ACCEPTED = """a model is one of
  demo, demo:standard, demo:robust   the embedded networks
  package.module:factory             your own code: a function without arguments, a class, a module or a mohs Model
  FILE.pt2                           torch.export.save
  FILE.ts, FILE.pt, FILE.pth         TorchScript; a pickled module with --trust-pickle
  FILE.onnx                          ONNX, scores only"""


def load_model(
    source: str,
    *,
    x: Tensor,
    bounds: tuple[float, float] = (0.0, 1.0),
    outputs: str = "logits",
    device: str = "cpu",
    trust_pickle: bool = False,
) -> Model:
    """The model that `source` names, on a device.

    x: a few examples [n, *input] in `bounds`, which the model is probed with. outputs: what the model returns,
    logits, probabilities or margin. trust_pickle: open files that can run code. A Model that a factory returns
    passes through as it is. Raises ModelError, UnknownName, Missing and RequestError.
    """
    if outputs not in get_args(Outputs):
        raise UnknownName("outputs", outputs, get_args(Outputs))
    kind, place = cast(Outputs, outputs), device_of(device)
    if source.startswith(("http://", "https://")):
        raise RequestError(f"{source} is an endpoint: `mohs probe` audits those, with --describe endpoint.toml")
    if source == "demo" or source.startswith("demo:"):
        return as_model(_demo(source), x, bounds, outputs=kind, device=place, name=source)
    suffix = Path(source).suffix.lower()
    if suffix == ".onnx":
        return OnnxModel(_file(source), x, bounds=bounds, outputs=kind, device=place)
    if suffix == ".pt2":
        graph, batch = load_exported(_file(source), place, trust_pickle)
        return as_model(graph, x, bounds, outputs=kind, device=place, batch=batch, name=Path(source).name)
    if suffix in (".ts", ".pt", ".pth"):
        module = load_torchscript(_file(source), place, trust_pickle)
        return as_model(module, x, bounds, outputs=kind, device=place, name=Path(source).name)
    if suffix == ".safetensors":
        raise RequestError(f"{source} holds weights without the network: write a factory that builds it and loads them")
    if is_factory(source):
        return as_model(call_factory(source), x, bounds, outputs=kind, device=place, name=source)
    raise RequestError(f"{source!r} is no model that mohs knows; {ACCEPTED}")


def load_module(source: str, device: torch.device, trust_pickle: bool = False) -> nn.Module:
    """A module that is no classifier: `package.module:factory`, a .pt2 file of any batch size or TorchScript."""
    suffix = Path(source).suffix.lower()
    if suffix == ".pt2":
        graph, batch = load_exported(_file(source), device, trust_pickle)
        if batch is not None:
            raise ModelError(f"{source} takes {batch} rows alone; export it with a dynamic batch size")
        return graph
    if suffix in (".ts", ".pt", ".pth"):
        return load_torchscript(_file(source), device, trust_pickle)
    if source.count(":") != 1:
        raise RequestError(f"{source!r} is no module that mohs knows: give package.module:factory, a .pt2 or a TorchScript file")
    module = call_factory(source)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{source} is a {type(module).__name__}; expected a torch.nn.Module")
    return _on(module, device)


def as_model(
    model: Model | nn.Module,
    x: Tensor,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    outputs: Outputs = "logits",
    device: torch.device | None = None,
    batch: int | None = None,
    name: str | None = None,
) -> Model:
    """A Model as it is; a module in evaluation mode as a TorchModel, its classes counted on the first rows of x.

    device: where it should be (by default where it is); a module elsewhere is copied. batch: the one number of rows an
    exported graph takes. Raises ModelError for a module in training mode, or one that does not take x.
    """
    if isinstance(model, Model):
        return model
    for finding in training(model):
        raise ModelError(finding.message)
    if isinstance(model, fx.GraphModule) and hasattr(model, "_in_spec"):  # ExportedProgram.module()
        model, batch = plain(model)
    wrapped = TorchModel(_on(model, device), classes=0, bounds=bounds, outputs=outputs, batch=batch, name=name)
    wrapped.example = x[:2].float().to(wrapped.device)
    wrapped.classes = first_answer(wrapped.logits, wrapped.example, wrapped.module).shape[1]
    return wrapped


def _on(module: nn.Module, device: torch.device | None) -> nn.Module:
    """The module on a device; the caller's own is never moved."""
    tensors = [*module.parameters(), *module.buffers()]
    if device is None or all(tensor.device.type == device.type for tensor in tensors):
        return module
    return copy.deepcopy(module).to(device)


def device_of(name: str) -> torch.device:
    """UnknownName, and RequestError where there are fewer."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnknownName("device", name, ("cpu", "cuda", "cuda:0")) from None
    with warnings.catch_warnings():  # a driver that is missing or too old is told of by a warning
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise RequestError(f"there is no device {name}: torch {torch.__version__} sees {count} GPUs")
    return device


def _demo(source: str) -> nn.Module:
    load_demo: Callable[[str], nn.Module] = importlib.import_module("mohs.demo").load_demo  # which imports this package
    return load_demo(source)


def _file(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if not path.parent.is_dir():
        raise RequestError(f"there is no folder {path.parent}, and so no file {source}")
    names = [beside.name for beside in path.parent.iterdir() if beside.is_file()]
    raise UnknownName(f"file in {path.parent.resolve()}", path.name, names)
