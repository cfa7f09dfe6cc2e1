"""Gradients that pass a ReLU as they pass a smooth function, while its values stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mohs.geometry import per_row
from mohs.geometry.solve import total
from mohs.models.base import Model
from mohs.rng import Stream

RELUS = {
    torch.relu,
    torch.relu_,
    torch.Tensor.relu,
    torch.Tensor.relu_,
    functional.relu,
    functional.relu_,
    torch.ops.aten.relu.default,
    torch.ops.aten.relu_.default,
}


class SmoothReLUs(Model):
    """A model whose scores are as they were, and the derivative of whose k-th ReLU is (1 + u / sqrt(1 + u^2)) / 2, with
    u = k z / (temperature mean |z|), in place of the step [z > 0]; mean |z| is taken over the layer, row by row. An inactive
    unit then tells how to wake it. Later layers, whose gradients come smoothed already, are smoothed less.

    It is the derivative of squareplus (Barron, 2021, arXiv:2112.11687), which unlike a sigmoid has the same bits at every
    place in memory. Only what torch's own functions compute is seen, not TorchScript or compiled graphs, whose gradients
    stay what they are.
    """

    def __init__(self, model: Model, temperature: float) -> None:
        self.model, self.temperature = model, temperature
        self.name, self.bounds, self.classes, self.device = model.name, model.bounds, model.classes, model.device
        self.gives, self.batch, self.random = model.gives, model.batch, model.random
        self.rejected, self.abstained = model.rejected, model.abstained

    def logits(self, x: Tensor) -> Tensor:
        with _Smoothing(self.temperature):
            return self.model.logits(x)

    def drawn(self, stream: Stream) -> Model:
        return SmoothReLUs(self.model.drawn(stream), self.temperature)


class _Smoothing(TorchFunctionMode):
    """During one forward pass."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature, self.seen = temperature, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in RELUS:
            return func(*args, **(kwargs or {}))
        self.seen += 1
        return _SmoothReLU.apply(args[0], self.temperature / self.seen)  # type: ignore[no-untyped-call]


class _SmoothReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.temperature = temperature
        return z.relu()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        mean = total(z.abs()).div_(z[0].numel()).float().clamp_(min=1e-12)
        u = z / per_row(mean.mul_(ctx.temperature), z)
        return u.div_((u * u).add_(1).sqrt_()).add_(1).mul_(0.5).mul_(grads[0]), None
