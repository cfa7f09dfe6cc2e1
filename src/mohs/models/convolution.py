"""Cheaper gradients of a convolution of constant weights with respect to its input; the forward pass stays torch's.

Narrow: of few channels, such as an image's. Libraries tune a convolution's gradients for the many channels inside a network; of
the first layer training needs none, and on a CPU it costs two to five times what W^T g and a fold do (col2im: Chellapilla,
Puri, Simard, IWFHR 2006). Half: of all others in bfloat16, which takes half the time where the processor computes in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mohs.models.fold import hooked, put, traced

Sides = int | Sequence[int]
CHANNELS = 4  # of a narrow input, at most


def computes_in_bfloat16() -> bool:
    """Whether this processor has instructions for it; elsewhere it is emulated, and slow."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(weight)
        ctx.geometry = tuple(x.shape[2:]), tuple(weight.shape[2:]), stride, padding
        return functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        (weight,) = ctx.saved_tensors
        gradient = _narrow if weight.shape[1] <= CHANNELS else _half
        return gradient(g, weight, *ctx.geometry), None, None, None, None


def _narrow(g: Tensor, weight: Tensor, size: Sides, kernel: Sides, stride: Sides, padding: Sides) -> Tensor:
    columns = torch.matmul(weight.flatten(1).t(), g.flatten(2))
    return functional.fold(columns, size, kernel, padding=padding, stride=stride)  # type: ignore[arg-type]


def _half(
    g: Tensor, weight: Tensor, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    covered = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(g.shape[2:], stride, padding, kernel, strict=True)]
    unseen = [n - m for n, m in zip(size, covered, strict=True)]  # entries at the far sides that no window reaches
    return functional.conv_transpose2d(g.bfloat16(), weight.bfloat16(), None, stride, padding, unseen).float()


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sides = 1,
    padding: Sides | str = 0,
    dilation: Sides = 1,
    groups: int = 1,
    *,
    half: bool = False,
) -> Tensor:
    """torch's conv2d with the gradient above for a narrow input and, where `half` and in float32, for any other."""
    cheap = weight.shape[1] <= CHANNELS or (half and weight.dtype == torch.float32)
    cheap = cheap and not torch.is_autocast_enabled(x.device.type)  # whose gradients are of another precision than the weight
    if not (cheap and x.requires_grad and x.ndim == 4 and groups == 1) or isinstance(padding, str) or _pair(dilation) != (1, 1):
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    out: Tensor = _Conv2d.apply(x, weight, bias, _pair(stride), _pair(padding))  # type: ignore[no-untyped-call]
    return out


def _pair(value: Sides) -> tuple[int, int]:
    """Height's and width's; graphs write one number for both, bare or in a list."""
    both = (value,) if isinstance(value, int) else tuple(value)
    return both[0], both[-1]


FUNCTIONS = (torch.conv2d, functional.conv2d, torch.ops.aten.conv2d.default, conv2d)  # of a graph


class NarrowGradients(TorchFunctionMode):
    """While it is entered, convolutions of narrow inputs have the gradient above, whatever network calls them; their weights
    gather none. Only of use on a CPU, and in full precision."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return (conv2d if func in FUNCTIONS else func)(*args, **(kwargs or {}))


class CheapConv2d(nn.Module):
    """An nn.Conv2d with the gradient above."""

    def __init__(self, conv: nn.Conv2d, half: bool = False) -> None:
        super().__init__()
        self.conv, self.in_half = conv, half

    def forward(self, x: Tensor) -> Tensor:
        c = self.conv
        return conv2d(x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups, half=self.in_half)


def narrow_gradients(module: nn.Module) -> tuple[nn.Module, int]:
    """A graph of the module in which convolutions of narrow inputs have that gradient, and how many they are."""
    return _cheap(module, half=False)


def half_gradients(module: nn.Module) -> tuple[nn.Module, int]:
    """A graph of the module in which the others have theirs in bfloat16, and how many they are."""
    return _cheap(module, half=True)


def _cheap(module: nn.Module, half: bool) -> tuple[nn.Module, int]:
    graph = traced(module)
    count = 0
    for node in graph.graph.nodes:
        if node.op == "call_module":
            layer = graph.get_submodule(str(node.target))
            wide = isinstance(layer, nn.Conv2d) and layer.in_channels > CHANNELS
            if type(layer) is nn.Conv2d and wide == half and layer.padding_mode == "zeros" and not hooked(layer):
                put(graph, str(node.target), CheapConv2d(layer, half))
                count += 1
        elif node.op == "call_function" and node.target in FUNCTIONS and not node.kwargs:
            node.target, node.kwargs = conv2d, {"half": True} if half else {}
            count += 1
    graph.recompile()
    return graph, count
