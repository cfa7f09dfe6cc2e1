"""A network as a list of operators that bounds cover, from torch.fx: modules and exported graphs alike are traced to ATen."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from mohs.certificates import affine
from mohs.certificates.operators import Activation
from mohs.certificates.rules import RANKING, RULES, Builder, Node, Ref
from mohs.errors import ModelError
from mohs.models import Model, TorchModel

AGREE = 1e-4  # of the scale of the logits: graph and model may differ by so much
TRACED = 2  # rows that a network is traced with
DEEP = 6  # activations one after the other from which on what rounding in float32 may add up to costs proofs


@dataclass(frozen=True)
class Network:
    """Nodes in order: the first is the input, the last are the logits [rows, classes]. dtype: what it computes in. exact: the
    same network in float64, where that is another and to be had."""

    nodes: tuple[Node, ...]
    dtype: torch.dtype = torch.float32
    exact: Network | None = None

    @property
    def classes(self) -> int:
        return self.nodes[-1].shape[0]

    def logits(self, x: Tensor) -> Tensor:
        """What the network computes, for [rows, *input]."""
        values = [x]
        for node in self.nodes[1:]:
            values.append(node.operator.forward(*(values[i] for i in node.inputs)))
        return values[-1]

    @property
    def depth(self) -> int:
        """The most activations one after the other."""
        depth: list[int] = []
        for node in self.nodes:
            depth.append(max((depth[i] for i in node.inputs), default=0) + isinstance(node.operator, Activation))
        return depth[-1]

    def bounded(self) -> list[int]:
        """The nodes whose boxes matter: those that go into an activation."""
        users = [node for node in self.nodes if isinstance(node.operator, Activation)]
        return sorted({i for node in users for i in node.inputs})


class Unsupported(ModelError):
    """An operator that no bound covers."""


def network_of(model: Model, x: Tensor) -> Network:
    """The network behind a model's logits, traced on examples x [n, *input] in the model's bounds.

    In float32 with its twin, or in float64 where the network is deep. Of a model that gives probabilities, the logits before
    the last softmax or sigmoid, which rank the classes alike; one that gives a margin z gets the logits (0, z). Raises
    ModelError for what is not a deterministic torch module, and Unsupported, which names the first operator that no bound covers.
    """
    if not isinstance(model, TorchModel) or isinstance(model.module, torch.jit.ScriptModule):
        raise ModelError(f"{model.name} cannot be certified: bounds are computed of torch modules and .pt2 files")
    if model.random:
        raise ModelError(f"{model.name} is random: a bound of a network that draws says nothing; take out what draws")
    rows, ranking = model.batch or TRACED, model.outputs == "probabilities"
    network = _two(trace(model.module, x, rows=rows, ranking=ranking), model)
    double = model.double()
    if network.dtype == torch.float64 or double is None:
        return network
    exact = _two(trace(double.module, x.double(), rows=rows, ranking=ranking), model)
    return exact if network.depth >= DEEP else replace(network, exact=exact)


def _two(network: Network, model: TorchModel) -> Network:
    """The logits (0, z) of a network that gives one value a row."""
    if network.classes != 1 or model.outputs == "logits":
        return network
    weight = torch.tensor([[0.0], [1.0]], dtype=network.dtype, device=model.device)
    return replace(network, nodes=(*network.nodes, Node(affine.linear(weight), (len(network.nodes) - 1,), (2,))))


def trace(module: nn.Module, x: Tensor, *, rows: int = TRACED, ranking: bool = False) -> Network:
    """The operators of a module in evaluation mode. rows: that it is called with; ranking: leave out what comes last and
    keeps the order of the classes. Raises Unsupported."""
    x = x[torch.arange(rows) % len(x)].detach()

    with torch.no_grad():
        network = _build(captured(module, x), Builder(x), [w.detach() for w in weights(module).values()], ranking)
        here, there = network.logits(x), _logits(module(x))
    if not ranking and float((here - there).abs().max()) > AGREE * float(there.abs().max().clamp_min(1e-12)):
        raise ModelError("the graph of the model does not compute what the model does: its code depends on its input's values")
    return network


class Live(nn.Module):
    """The operators of a network as it is at each call: bounds of them are differentiable in its weights. In training mode,
    layers normalise by the statistics of the examples that it is called with."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.captured: dict[tuple[torch.Size, bool], fx.GraphModule] = {}

    def forward(self, x: Tensor) -> Network:
        """x: [n, *input]. Raises Unsupported, or ModelError where the network cannot be traced, or draws."""
        key = x.shape, self.network.training
        if key not in self.captured:
            graph = captured(self.network, x)
            drawn = next((node for node in graph.graph.nodes if torch.Tag.nondeterministic_seeded in _tags(node)), None)
            if drawn is not None:
                raise ModelError(
                    f"the network draws ({_name(drawn)}), as dropout does, and a bound of it says nothing: take that out"
                )
            self.captured[key] = graph
        return _build(self.captured[key], Builder(x, live=True), weights(self.network).values())


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def captured(module: nn.Module, x: Tensor) -> fx.GraphModule:
    """What a module in its mode computes of its weights and of x [n, *input], for n rows; nothing of it is changed."""
    copies = {name: weight.detach().clone() for name, weight in weights(module).items()}

    def call(x: Tensor, *given: Tensor) -> Tensor:
        return _logits(functional_call(module, dict(zip(copies, given, strict=True)), (x,)))

    try:
        with torch.no_grad():
            return make_fx(functionalize(call, remove="mutations"), record_module_stack=True)(x, *copies.values())
    except Exception as error:  # tracing runs the caller's code, which may raise anything
        raise ModelError(f"the model cannot be traced to operators: {str(error).splitlines()[0][:200]}") from error


def _logits(out: Any) -> Tensor:
    return getattr(out, "logits", out)  # type: ignore[no-any-return]


def _build(graph: fx.GraphModule, build: Builder, weights: Iterable[Tensor], ranking: bool = False) -> Network:
    env: dict[fx.Node, Any] = {}
    given: Iterator[Tensor | Ref] = iter((build.input, *weights))
    end = graph.graph.output_node().args[0]
    while ranking and isinstance(end, fx.Node) and end.target in RANKING:
        end = end.args[0]
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            env[node] = operator.attrgetter(str(node.target))(graph).detach()
        elif node.op == "call_function":
            env[node] = _call(build, node, *fx.node.map_arg((node.args, node.kwargs), env.__getitem__))
        if node is end:
            break
    out = env[end] if isinstance(end, fx.Node) else None
    if not isinstance(out, Ref) or out.sample.ndim != 2:
        raise ModelError("the model's output should be one tensor [rows, classes] that depends on its input")
    return Network(tuple(build.nodes[: out.node + 1]), out.sample.dtype)


def _call(build: Builder, node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    target = node.target
    assert callable(target)
    if not any(isinstance(part, Ref) for part in _flat((args, kwargs))):
        return target(*args, **kwargs)
    if target is operator.getitem:
        return args[0][args[1]]
    rule = RULES.get(target)
    try:
        if rule is None:
            raise NotImplementedError
        return rule(build, *args, **kwargs)
    except (NotImplementedError, TypeError) as reason:
        said = f" ({reason})" if str(reason) else ""
        raise Unsupported(
            f"no bound covers the operator {_name(node)}{said}; covered are linear layers, convolutions, normalisation by "
            "constants, average and max pooling, sums, concatenation, reshaping, and ReLU, LeakyReLU, sigmoid, tanh, SiLU, "
            "Softplus, GELU, ELU and clipping"
        ) from None


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return _flat(list(value.values()))
    return [leaf for part in value for leaf in _flat(part)] if isinstance(value, list | tuple) else [value]


def _tags(node: fx.Node) -> Sequence[torch.Tag]:
    return getattr(node.target, "tags", ())


def _name(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    where = [path for path, *_ in (stack[key] for key in stack)]
    return f"{node.target}" + (f" of the layer {where[-1]}" if where and where[-1] else "")
