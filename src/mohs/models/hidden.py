"""What a layer inside a module says, as if it were the model's answer."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mohs.errors import ModelError, UnknownName
from mohs.models.base import Model
from mohs.models.fold import traced
from mohs.models.torch_model import TorchModel

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_FUNCTIONS = (
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    functional.linear,
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten.linear.default,
    torch.ops.aten.addmm.default,
)


class Hidden(Model):
    """The output of one layer, flattened to [rows, features]; what comes after it is not computed.

    layer: as in `layers`, or as the module names it (`features.3`). Raises UnknownName, and ModelError where the module
    cannot be traced.
    """

    def __init__(self, model: TorchModel, layer: str) -> None:
        graph = _graph(model)
        nodes = {node.name: node for node in graph.graph.nodes if node.op in ("call_module", "call_function", "call_method")}
        name = layer.replace(".", "_")
        found = nodes.get(name) or nodes.get(f"_{name}")  # names may not begin with a digit
        if found is None:
            raise UnknownName(f"layer of {model.name}", layer, nodes)
        for node in graph.graph.nodes:
            if node.op == "output":
                node.args = (found,)
        graph.graph.eliminate_dead_code()
        graph.delete_all_unused_submodules()
        graph.recompile()
        self.module, self.name = graph, f"{model.name}:{layer}"
        self.bounds, self.classes, self.device = model.bounds, model.classes, model.device
        self.gives, self.batch, self.random = model.gives, model.batch, model.random

    def logits(self, x: Tensor) -> Tensor:
        parts = [x] if self.batch is None else x.split(self.batch)
        return torch.cat([self.module(part).flatten(1) for part in parts])


def layers(model: TorchModel) -> list[str]:
    """The names of the convolutions and linear layers inside a module, in the order of the computation; not the last, which
    gives the scores."""
    graph = _graph(model)
    names = [node.name for node in graph.graph.nodes if _weighted(graph, node)]
    if len(names) < 2:
        raise ModelError(f"the model {model.name} has no hidden layer: found {', '.join(names) or 'none'}")
    return names[:-1]


def _weighted(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), _LAYERS)
    return node.op == "call_function" and node.target in _FUNCTIONS


def _graph(model: TorchModel) -> fx.GraphModule:
    try:
        return traced(model.module)
    except Exception as error:  # tracing may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the layers of {model.name} cannot be told apart: torch.fx cannot trace it ({reason})") from error
