"""A torch module as a Model. The caller's module is never changed."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, fx, nn

from mohs.errors import ModelError
from mohs.models.base import Model
from mohs.models.raised import is_own, raised

if TYPE_CHECKING:
    from mohs.models.perception import Perception

Outputs = Literal["logits", "probabilities", "margin"]
DISAGREE = 1e-2  # of the scale of the logits: a float64 twin that is further off computes something else


def as_logits(out: object, outputs: Outputs) -> Tensor:
    """What a module returned, as logits [rows, classes].

    probabilities: their logarithm; one a row is that of class 1. margin: one decision value a row, positive for
    class 1; one-logit binary models are `margin` too. Objects with a `.logits` (Hugging Face) are opened.
    """
    z = getattr(out, "logits", out)
    if not isinstance(z, Tensor):
        raise ModelError(f"the model returned {type(out).__name__}; it should return a tensor of one score a class")
    if outputs == "margin":
        z = z.reshape(len(z), -1)
        if z.shape[1] != 1:
            raise ModelError(f"outputs 'margin' means one value a row, and the model returned {list(z.shape)}")
        return torch.cat([torch.zeros_like(z), z], 1)
    if outputs == "probabilities" and z.shape[1:] in ((), (1,)):
        z = torch.stack([1 - z.reshape(-1), z.reshape(-1)], 1)
    if z.ndim != 2:
        raise ModelError(f"the model returned shape {list(z.shape)}; one score a class is [rows, classes]")
    if z.shape[1] == 1:
        raise ModelError(
            "the model returned one value a row: say --outputs margin where it is a decision value or a logit, "
            "--outputs probabilities where it is the probability of class 1"
        )
    if outputs == "probabilities":
        return z.clamp_min(torch.finfo(z.dtype).tiny).log()
    return z


class TorchModel(Model):
    """A module in evaluation mode that takes inputs in `bounds`.

    outputs: what it returns. classes: how many it tells apart (`as_model` counts). batch: for exported graphs of one
    size. example: a few inputs, on which a float64 twin must agree to be of use.
    """

    forks = True

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
        example: Tensor | None = None,
    ) -> None:
        self.module = module
        self.classes = classes
        self.bounds = bounds
        self.outputs: Outputs = outputs
        self.batch = batch
        self.random = random
        self.example = example
        self.name = name or type(module).__name__
        parameter = next(module.parameters(), next(module.buffers(), None))
        self.device = torch.device("cpu") if parameter is None else parameter.device

    def logits(self, x: Tensor) -> Tensor:
        if self.batch is None:
            return self._asked(x)
        return torch.cat([self._fixed(part, self.batch) for part in x.split(self.batch)])

    def _fixed(self, x: Tensor, batch: int) -> Tensor:
        """A static-batch graph: pad with copies of the first row, keep the rows asked for."""
        padded = torch.cat([x, x[:1].expand(batch - len(x), *x.shape[1:])]) if len(x) < batch else x
        return self._asked(padded)[: len(x)]

    def _asked(self, x: Tensor) -> Tensor:
        try:
            out = self.module(x)
        except Exception as error:  # the caller's code may raise anything
            if not is_own(error):
                raise
            raise raised(self.name, error) from error
        return as_logits(out, self.outputs)

    def twin(self, module: nn.Module) -> TorchModel:
        """The same contract around another module."""
        other = copy.copy(self)
        other.module = module
        return other

    def fingerprint(self) -> str:
        """sha256 of the names and values of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def double(self) -> TorchModel | None:
        if isinstance(self.module, torch.jit.ScriptModule):
            return None
        try:
            twin = self.twin(in_double(self.module))
            return twin if self.random or self.example is None or self._agrees(twin, self.example) else None
        except Exception:  # a module may refuse to be copied, or to compute in float64, in any way
            return None

    def perception(self, layers: tuple[str, ...] = ()) -> Perception:
        from mohs.models.perception import Perception

        if self.random:
            raise ModelError(
                f"{self.name} is random, and a distance by what it sees would be another at every look: give a "
                "network that is not by --perceptual-model"
            )
        return Perception(self.module, layers, name=self.name, batch=self.batch, example=self.example)

    @torch.no_grad()
    def _agrees(self, twin: TorchModel, x: Tensor) -> bool:
        """Whether the twin computes the same function, in float64: layers may cast inside, or hold constants."""
        here, there = self.logits(x), twin.logits(x.double())
        gap = (there - here).abs().max() / here.abs().max().clamp_min(1e-12)
        return there.dtype == torch.float64 and bool(gap <= DISAGREE)


def in_double(module: nn.Module) -> nn.Module:
    """A float64 copy; where graphs name a narrower type, they name float64 instead."""
    copied = copy.deepcopy(module).double().requires_grad_(False)
    for part in copied.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                node.args = fx.node.map_aggregate(node.args, _widened)  # type: ignore[arg-type]
                node.kwargs = fx.node.map_aggregate(node.kwargs, _widened)  # type: ignore[arg-type]
            part.recompile()
    return copied


def _widened(value: object) -> object:
    return torch.float64 if value in (torch.float32, torch.float16, torch.bfloat16) else value


_BY_MODE = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU)


def in_training(module: nn.Module) -> list[str]:
    """The names of layers in training mode whose output depends on it, in TorchScript too."""
    return [name or type(part).__name__ for name, part in module.named_modules() if part.training and _has_modes(part)]


def _has_modes(part: nn.Module) -> bool:
    scripted = getattr(part, "original_name", "")
    return isinstance(part, _BY_MODE) or scripted == "RReLU" or "Dropout" in scripted or "BatchNorm" in scripted
