"""The same function in fewer passes over memory, by torch.fx: batch norm folded into the convolution before it, the
normalisation of the input into one multiply-add."""

from __future__ import annotations

import copy
import operator
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_PAIRS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold_batch_norm(module: nn.Module) -> tuple[nn.Module, int]:
    """A folded copy and how many batch norms went away.

    Folds only a convolution that is called once and whose sole consumer is an evaluation-mode batch norm that is
    called once, neither under hooks or parametrisations. Raises what torch.fx raises where the module cannot be traced.
    """
    graph = traced(module)
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    folded = 0
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        if not _foldable(conv, norm) or calls[before.target] != 1 or calls[node.target] != 1:
            continue
        put(graph, str(before.target), fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
        folded += 1
    graph.graph.lint()
    graph.recompile()
    return graph, folded


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        _PAIRS.get(type(conv)) is type(norm)  # type: ignore[arg-type]
        and not norm.training
        and getattr(norm, "running_var", None) is not None
        and not hooked(conv)
        and not hooked(norm)
    )


def hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its forward: hooks, or weights that are computed."""
    return any(getattr(module, hooks, None) for hooks in _HOOKS) or hasattr(module, "parametrizations")


def put(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def fold_normalisation(module: nn.Module) -> tuple[nn.Module, int]:
    """A copy in which (x - mean) / std of constant tensors is one multiply-add, and how many there were."""
    graph = traced(module)
    folded = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target not in (operator.truediv, torch.div) or node.kwargs:
            continue
        shifted, std = node.args
        if not isinstance(shifted, fx.Node) or shifted.target not in (operator.sub, torch.sub) or shifted.kwargs:
            continue
        if len(shifted.users) != 1:
            continue
        x, mean = shifted.args
        constants = [_constant(graph, part) for part in (mean, std)]
        if not isinstance(x, fx.Node) or constants[0] is None or constants[1] is None:
            continue
        names = [f"_affine{folded}_scale", f"_affine{folded}_shift"]
        for name, value in zip(names, (1 / constants[1], -constants[0] / constants[1]), strict=True):
            graph.register_buffer(name, value)
        with graph.graph.inserting_before(node):
            scale, shift = (graph.graph.get_attr(name) for name in names)
            fused = graph.graph.call_function(torch.addcmul, (shift, x, scale))
        node.replace_all_uses_with(fused)
        graph.graph.erase_node(node)
        graph.graph.erase_node(shifted)
        folded += 1
    graph.graph.lint()
    graph.recompile()
    return graph, folded


def count_convolutions(module: nn.Module) -> int:
    """Convolution layers, of modules and of exported graphs."""
    layers = sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in module.modules())
    kinds = (torch.ops.aten.conv2d.default, torch.ops.aten.convolution.default)
    graphs = [m.graph for m in module.modules() if isinstance(m, fx.GraphModule)]
    return layers + sum(node.target in kinds for graph in graphs for node in graph.nodes)


def traced(module: nn.Module) -> fx.GraphModule:
    """A graph of its own around the module's weights, which folding replaces and never writes to."""
    graph = copy.deepcopy(module.graph) if isinstance(module, fx.GraphModule) else fx.Tracer().trace(module)
    return fx.GraphModule(module, graph)


def _constant(graph: fx.GraphModule, node: object) -> torch.Tensor | None:
    """The buffer behind a node of the graph."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(graph)
    return value.detach() if isinstance(value, torch.Tensor) else None
