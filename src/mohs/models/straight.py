"""A network as straight-line code: its layers called as the functions they are.

A module call looks up attributes and hooks, which takes as long as the arithmetic of a small layer on a few rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.models.convolution import CheapConv2d, conv2d
from mohs.models.fold import hooked, traced

Function = Callable[[Tensor], Tensor]


def _conv(layer: nn.Conv2d, function: Callable[..., Tensor]) -> Function:
    weight, bias, geometry = layer.weight, layer.bias, (layer.stride, layer.padding, layer.dilation, layer.groups)

    def conv(x: Tensor) -> Tensor:
        return function(x, weight, bias, *geometry)

    return conv


def _linear(layer: nn.Linear) -> Function:
    weight, bias = layer.weight, layer.bias

    def linear(x: Tensor) -> Tensor:
        return functional.linear(x, weight, bias)

    return linear


def _flatten(layer: nn.Flatten) -> Function:
    start, end = layer.start_dim, layer.end_dim

    def flatten(x: Tensor) -> Tensor:
        return x.flatten(start, end)

    return flatten


def _function(layer: nn.Module) -> Function | None:
    """What the layer does, or None where that is left to itself."""
    if hooked(layer):
        return None
    if type(layer) is CheapConv2d and not layer.in_half:
        return None if hooked(layer.conv) else _conv(layer.conv, conv2d)
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
        return _conv(layer, torch.conv2d)
    if type(layer) is nn.Linear:
        return _linear(layer)
    if type(layer) is nn.Flatten:
        return _flatten(layer)
    return torch.relu if type(layer) is nn.ReLU else None


def straighten(module: nn.Module) -> tuple[nn.Module, int]:
    """A graph of the module in which such layers are functions of constant weights, and how many they are."""
    graph = traced(module)
    count = 0
    for node in list(graph.graph.nodes):
        function = _function(graph.get_submodule(str(node.target))) if node.op == "call_module" else None
        if function is not None and len(node.args) == 1 and not node.kwargs:
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.call_function(function, node.args))
            graph.graph.erase_node(node)
            count += 1
    graph.recompile()
    return graph, count
