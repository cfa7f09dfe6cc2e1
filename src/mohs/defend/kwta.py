"""k-winners-take-all activations."""

from __future__ import annotations

import copy
import math

from torch import Tensor, fx, nn
from torch.nn import functional

from mohs.errors import ModelError
from mohs.models import Model, TorchModel
from mohs.models.fold import traced
from mohs.models.smooth import RELUS


class KWTA(nn.Module):
    """Of a row's activations [n, ...] the ceil(ratio * size) largest stay, the others become zero. Rows do not meet.

    Its gradient is exact and of little use: another input has other winners, and so another linear piece.
    Xiao, Zhong, Zheng, ICLR 2020, arXiv:1905.10510.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, z: Tensor) -> Tensor:
        flat = z.flatten(1)
        least = flat.topk(math.ceil(self.ratio * flat.shape[1]), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(z)


def swap_relus(module: nn.Module, ratio: float = 0.1) -> nn.Module:
    """A copy of the module in which every ReLU is a k-winners-take-all of that ratio, to be trained or fine-tuned: without,
    little of the accuracy is left. Layers `nn.ReLU` are replaced where they stand; a module that calls relu as a function is
    traced by torch.fx, and is a graph from then on. ModelError where no ReLU is found."""
    if not 0 < ratio <= 1:
        raise ModelError(f"a k-winners-take-all of ratio {ratio} should keep a part in (0, 1]")
    changed = _as_layers(copy.deepcopy(module))
    if isinstance(changed, nn.ReLU):
        return KWTA(ratio)
    layers = [name for name, part in changed.named_modules() if isinstance(part, nn.ReLU)]
    if not layers:
        raise ModelError(f"{type(module).__name__} has no ReLU to swap for k-winners-take-all")
    for name in layers:
        parent, _, last = name.rpartition(".")
        setattr(changed.get_submodule(parent), last, KWTA(ratio))
    return changed


def _as_layers(module: nn.Module) -> nn.Module:
    """The module, as a graph whose every ReLU is a layer where it calls some as functions; as it is where it cannot be traced."""
    try:
        graph = traced(module)
    except Exception:  # a module may refuse to be traced in any way
        return module
    calls = [node for node in graph.graph.nodes if _is_relu(node)]
    if not calls:
        return module
    graph.add_submodule("relu_called", nn.ReLU())
    for node in calls:
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.call_module("relu_called", node.args[:1]))
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def with_kwta(model: Model, *, ratio: float = 0.1) -> TorchModel:
    """The model with k-winners-take-all in place of every ReLU, for weights that were trained so: of a layer's activations the
    `ratio` largest stay, the others become zero.

    When to use: to see an exact gradient that is of no use. Steps as large as the budget, scores or labels see past it.
    """
    if not isinstance(model, TorchModel):
        raise ModelError(f"k-winners-take-all replaces the ReLUs of a torch module, and {model.name} is a {type(model).__name__}")
    twin = model.twin(swap_relus(model.module, ratio))
    twin.name = f"k-winners-take-all {ratio:g} in {model.name}"
    return twin


def _is_relu(node: fx.Node) -> bool:
    return (node.op == "call_function" and node.target in (*RELUS, functional.relu)) or (
        node.op == "call_method" and node.target in ("relu", "relu_")
    )
