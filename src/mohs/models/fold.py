"""Batch norm folded into the convolution before it, by torch.fx: the same function in fewer passes over memory."""

from __future__ import annotations

import copy
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
    if isinstance(module, fx.GraphModule):
        traced = copy.deepcopy(module)
    else:
        traced = fx.GraphModule(copy.deepcopy(module), fx.Tracer().trace(module))
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    folded = 0
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        if not _foldable(conv, norm) or calls[before.target] != 1 or calls[node.target] != 1:
            continue
        _replace(traced, str(before.target), fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var]
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
        folded += 1
    traced.graph.lint()
    traced.recompile()
    return traced, folded


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    hooked = any(getattr(m, hooks, None) for m in (conv, norm) for hooks in _HOOKS)
    plain = not hasattr(conv, "parametrizations") and not hasattr(norm, "parametrizations")
    return (
        _PAIRS.get(type(conv)) is type(norm)  # type: ignore[arg-type]
        and not norm.training
        and getattr(norm, "running_var", None) is not None
        and plain
        and not hooked
    )


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def has_convolution(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in module.modules()) or any(
        getattr(node, "target", None) in (torch.ops.aten.conv2d.default, torch.ops.aten.convolution.default)
        for m in module.modules()
        if isinstance(m, fx.GraphModule)
        for node in m.graph.nodes
    )
