"""A torch module as a Model. The caller's module is never changed."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from mohs.errors import ModelError
from mohs.models.base import Model

Outputs = Literal["logits", "probabilities", "margin"]


def as_logits(out: object, outputs: Outputs) -> Tensor:
    """What a module returned, as logits [rows, classes].

    probabilities: their logarithm. margin: one decision value a row, positive for class 1. One-logit binary models
    are `margin` too. Objects with a `.logits` (Hugging Face) are opened.
    """
    z = getattr(out, "logits", out)
    if not isinstance(z, Tensor):
        raise ModelError(f"the model returned {type(out).__name__}; it should return a tensor of one score a class")
    if outputs == "margin":
        z = z.reshape(len(z), -1)
        if z.shape[1] != 1:
            raise ModelError(f"outputs 'margin' means one value a row, and the model returned {list(z.shape)}")
        return torch.cat([torch.zeros_like(z), z], 1)
    if z.ndim != 2:
        raise ModelError(f"the model returned shape {list(z.shape)}; one score a class is [rows, classes]")
    if z.shape[1] == 1:
        raise ModelError("the model returned one value a row: say --outputs margin if it is a decision value or a logit")
    if outputs == "probabilities":
        return z.clamp_min(torch.finfo(z.dtype).tiny).log()
    return z


class TorchModel(Model):
    """A module in evaluation mode that takes inputs in `bounds`.

    outputs: what it returns. classes: found by a probe where not given. batch: for exported graphs of one batch size.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        classes: int,
        bounds: tuple[float, float] = (0.0, 1.0),
        outputs: Outputs = "logits",
        batch: int | None = None,
        random: bool = False,
        name: str | None = None,
    ) -> None:
        self.module = module
        self.classes = classes
        self.bounds = bounds
        self.outputs: Outputs = outputs
        self.batch = batch
        self.random = random
        self.name = name or type(module).__name__
        parameter = next(module.parameters(), next(module.buffers(), None))
        self.device = torch.device("cpu") if parameter is None else parameter.device

    def logits(self, x: Tensor) -> Tensor:
        if self.batch is None:
            return as_logits(self.module(x), self.outputs)
        return torch.cat([self._fixed(part, self.batch) for part in x.split(self.batch)])

    def _fixed(self, x: Tensor, batch: int) -> Tensor:
        """A static-batch graph: pad with copies of the first row, keep the rows asked for."""
        padded = torch.cat([x, x[:1].expand(batch - len(x), *x.shape[1:])]) if len(x) < batch else x
        return as_logits(self.module(padded), self.outputs)[: len(x)]

    def twin(self, module: nn.Module) -> TorchModel:
        """The same contract around another module."""
        other = copy.copy(self)
        other.module = module
        return other

    def double(self) -> TorchModel | None:
        if isinstance(self.module, torch.jit.ScriptModule):
            return None
        try:
            return self.twin(copy.deepcopy(self.module).double().requires_grad_(False))
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None


def in_training(module: nn.Module) -> list[str]:
    """The names of layers in training mode whose output depends on it."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU)
    return [name or type(m).__name__ for name, m in module.named_modules() if m.training and isinstance(m, kinds)]
