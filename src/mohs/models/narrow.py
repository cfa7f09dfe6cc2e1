"""The gradient of a convolution with respect to an input of few channels, such as an image, as one matrix product.

Libraries tune a convolution's gradients for the many channels inside a network. Of the first layer training needs none, and
on a CPU it costs two to five times what W^T g and a fold do (col2im: Chellapilla, Puri, Simard, IWFHR 2006).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.models.fold import hooked, put, traced

Sides = int | Sequence[int]
CHANNELS = 4  # at most
_FUNCTIONS = (torch.conv2d, functional.conv2d, torch.ops.aten.conv2d.default)


class _NarrowConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(weight)
        ctx.geometry = tuple(x.shape[2:]), tuple(weight.shape[2:]), stride, padding
        return functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        (weight,) = ctx.saved_tensors
        size, kernel, stride, padding = ctx.geometry
        columns = torch.matmul(weight.flatten(1).t(), g.flatten(2))
        return functional.fold(columns, size, kernel, padding=padding, stride=stride), None, None, None, None


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sides = 1,
    padding: Sides | str = 0,
    dilation: Sides = 1,
    groups: int = 1,
) -> Tensor:
    """torch's conv2d of constant weights, whose gradient for a narrow input is a matrix product."""
    narrow = weight.shape[1] <= CHANNELS and groups == 1 and x.ndim == 4
    if not (narrow and x.requires_grad) or isinstance(padding, str) or _pair(dilation) != (1, 1):
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    out: Tensor = _NarrowConv2d.apply(x, weight, bias, _pair(stride), _pair(padding))  # type: ignore[no-untyped-call]
    return out


def _pair(value: Sides) -> tuple[int, int]:
    """Height's and width's; graphs write one number for both, bare or in a list."""
    both = (value,) if isinstance(value, int) else tuple(value)
    return both[0], both[-1]


class NarrowConv2d(nn.Module):
    """An nn.Conv2d with the gradient above."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        c = self.conv
        return conv2d(x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups)


def narrow_gradients(module: nn.Module) -> tuple[nn.Module, int]:
    """A graph of the module in which convolutions of narrow inputs have that gradient, and how many they are."""
    graph = traced(module)
    count = 0
    for node in graph.graph.nodes:
        if node.op == "call_module":
            layer = graph.get_submodule(str(node.target))
            if type(layer) is nn.Conv2d and layer.in_channels <= CHANNELS and layer.padding_mode == "zeros" and not hooked(layer):
                put(graph, str(node.target), NarrowConv2d(layer))
                count += 1
        elif node.op == "call_function" and node.target in _FUNCTIONS and not node.kwargs:
            node.target = conv2d
            count += 1
    graph.recompile()
    return graph, count
