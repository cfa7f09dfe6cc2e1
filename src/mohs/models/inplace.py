"""Additions and ReLUs that write over their operand, where it is fresh and nobody else reads it: half the memory of a pass."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn
from torch.nn import functional

from mohs.models.convolution import FUNCTIONS, CheapConv2d
from mohs.models.fold import hooked, traced

_ADD = (operator.add, torch.add, torch.ops.aten.add.Tensor)
_RELU = (torch.relu, functional.relu, torch.ops.aten.relu.default)


def in_place(module: nn.Module) -> tuple[nn.Module, int]:
    """A graph of the module with such additions and ReLUs, and how many they are."""
    graph = traced(module)
    layers = dict(graph.named_modules())
    fresh: set[fx.Node] = set()  # convolutions and what was written over them: no gradient needs their output
    count = 0
    for node in graph.graph.nodes:
        layer = layers[str(node.target)] if node.op == "call_module" else None
        if (isinstance(layer, nn.Conv2d | CheapConv2d) and not hooked(layer)) or node.target in FUNCTIONS:
            fresh.add(node)
            continue
        over = [part for part in node.args if isinstance(part, fx.Node) and part in fresh and len(part.users) == 1]
        if not over:
            continue
        if node.op == "call_function" and node.target in _ADD and len(node.args) == 2 and not node.kwargs:
            other = node.args[1] if node.args[0] is over[0] else node.args[0]
            node.target, node.args = torch.Tensor.add_, (over[0], other)
            fresh.add(node)
        elif (node.op == "call_function" and node.target in _RELU) or (type(layer) is nn.ReLU and not hooked(layer)):
            node.op, node.target, node.args, node.kwargs = "call_function", torch.relu_, (over[0],), {}
        else:
            continue
        count += 1
    graph.recompile()
    return graph, count
