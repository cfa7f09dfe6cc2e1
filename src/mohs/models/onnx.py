"""ONNX files through onnxruntime: scores, no gradients."""

from __future__ import annotations

import hashlib
import importlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mohs.errors import Missing, ModelError
from mohs.models.base import Model
from mohs.models.probe import first_answer
from mohs.models.raised import is_own, raised
from mohs.models.torch_model import Outputs, as_logits
from mohs.threat import Knowledge

_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
THREADS = 2  # sums on a CPU depend on how many threads share them: fixed, so that numbers repeat


class OnnxModel(Model):
    """A classifier of one float input; its scores are the output `output`, [rows, classes].

    x: a few inputs [n, *input], by which the output and the number of classes are found. A file of one batch size is
    padded to it.
    """

    gives = Knowledge.SCORES

    def __init__(
        self,
        path: Path,
        x: Tensor,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        outputs: Outputs = "logits",
        device: torch.device | None = None,
    ) -> None:
        self.name = path.name
        self.bounds = bounds
        self.outputs: Outputs = outputs
        self.device = device or torch.device("cpu")
        self.session = _open(path, self.device)
        self._sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _FLOATS:
            found = ", ".join(f"{i.name} {i.type}" for i in inputs)
            raise ModelError(f"{path} takes {found}; mohs audits classifiers of one float tensor")
        self.input = inputs[0].name
        self.dtype = _FLOATS[inputs[0].type]
        size = inputs[0].shape[0] if inputs[0].shape else None
        self.batch = size if isinstance(size, int) else None
        self.output = self._scores(path, x[:2])
        self.classes = first_answer(self.logits, x[:2]).shape[1]

    def logits(self, x: Tensor) -> Tensor:
        return as_logits(self._run(x, self.output), self.outputs)

    def fingerprint(self) -> str:
        """sha256 of the file."""
        return self._sha256

    def _run(self, x: Tensor, output: str) -> Tensor:
        parts = x.split(self.batch) if self.batch else (x,)
        return torch.cat([self._call(part, output) for part in parts])

    def _call(self, x: Tensor, output: str) -> Tensor:
        rows = len(x)
        if self.batch and rows < self.batch:
            x = torch.cat([x, x[:1].expand(self.batch - rows, *x.shape[1:])])
        array = np.ascontiguousarray(x.detach().cpu().numpy(), dtype=self.dtype)
        try:
            (out,) = self.session.run([output], {self.input: array})
        except Exception as error:  # onnxruntime has a class for each failure and no common one
            if not is_own(error):
                raise
            raise raised(self.name, error) from error
        return torch.from_numpy(np.asarray(out, dtype=np.float32))[:rows].to(self.device)

    def _scores(self, path: Path, x: Tensor) -> str:
        """The name of the first float output with a row of scores an example: scikit-learn files give labels first."""
        outputs = self.session.get_outputs()
        found = [f"{o.name} {o.type}" for o in outputs if o.type not in _FLOATS]
        names: list[str] = [o.name for o in outputs if o.type in _FLOATS]
        for name in names:
            answer = first_answer(partial(self._run, output=name), x)
            if answer.ndim == 2 and len(answer) == len(x):
                return name
            found.append(f"{name} {list(answer.shape)}")
        how = "; convert it with options={'zipmap': False}" if any("map" in text for text in found) else ""
        raise ModelError(f"{path} gives {', '.join(found)}; expected a float output [rows, classes] of scores{how}")


def _open(path: Path, device: torch.device) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise Missing("onnxruntime", "onnx", f"the ONNX file {path.name}") from None
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in runtime.get_available_providers():
        raise ModelError(f"this onnxruntime has no {provider}: use --device cpu, or install onnxruntime-gpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime has a class for each failure and no common one
        raise ModelError(f"{path} cannot be opened as ONNX: {str(error).strip().splitlines()[0][:200]}") from error
