"""A network as a list of operators that bounds cover, from torch.fx: modules and exported graphs alike are traced to ATen."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from mohs.certificates import affine
from mohs.certificates.activations import ELU, GELU, RELU, SIGMOID, SILU, TANH, LeakyReLU, softplus
from mohs.certificates.operators import Activation, Concat, Input, Operator, Sum
from mohs.errors import ModelError
from mohs.models import Model, TorchModel

aten = torch.ops.aten
AGREE = 1e-4  # of the scale of the logits: graph and model may differ by so much
TRACED = 2  # rows that a network is traced with
DEEP = 6  # activations one after the other from which on what rounding in float32 may add up to costs proofs


@dataclass(frozen=True)
class Node:
    """An operator on earlier nodes; shape: of its output, a row."""

    operator: Operator
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


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
        network = _Builder(x).build(captured(module, x), [w.detach() for w in weights(module).values()], ranking)
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
        return _Builder(x, live=True).build(self.captured[key], weights(self.network).values())


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


@dataclass(frozen=True)
class _Ref:
    """A node, where an argument of the traced graph depends on the input; sample: its value on the traced rows."""

    node: int
    sample: Tensor


class _Builder:
    """live: normalisation by the statistics of its batch is by those of x; without it, such a layer has no bound."""

    def __init__(self, x: Tensor, live: bool = False) -> None:
        self.nodes = [Node(Input(), (), tuple(x.shape[1:]))]
        self.input, self.live = _Ref(0, x), live

    def build(self, graph: fx.GraphModule, weights: Iterable[Tensor], ranking: bool = False) -> Network:
        env: dict[fx.Node, Any] = {}
        given: Iterator[Tensor | _Ref] = iter((self.input, *weights))
        end = graph.graph.output_node().args[0]
        while ranking and isinstance(end, fx.Node) and end.target in _RANKING:
            end = end.args[0]
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                env[node] = next(given)
            elif node.op == "get_attr":
                env[node] = operator.attrgetter(str(node.target))(graph).detach()
            elif node.op == "call_function":
                env[node] = self._call(node, *fx.node.map_arg((node.args, node.kwargs), env.__getitem__))
            if node is end:
                break
        out = env[end] if isinstance(end, fx.Node) else None
        if not isinstance(out, _Ref) or out.sample.ndim != 2:
            raise ModelError("the model's output should be one tensor [rows, classes] that depends on its input")
        return Network(tuple(self.nodes[: out.node + 1]), out.sample.dtype)

    def _call(self, node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        target = node.target
        assert callable(target)
        if not any(isinstance(part, _Ref) for part in _flat((args, kwargs))):
            return target(*args, **kwargs)
        if target is operator.getitem:
            return args[0][args[1]]
        rule = RULES.get(target)
        try:
            if rule is None:
                raise NotImplementedError
            return rule(self, *args, **kwargs)
        except (NotImplementedError, TypeError) as reason:
            said = f" ({reason})" if str(reason) else ""
            raise Unsupported(
                f"no bound covers the operator {_name(node)}{said}; covered are linear layers, convolutions, normalisation by "
                "constants, average and max pooling, sums, concatenation, reshaping, and ReLU, LeakyReLU, sigmoid, tanh, SiLU, "
                "Softplus, GELU, ELU and clipping"
            ) from None

    def add(self, operator: Operator, *inputs: _Ref) -> _Ref:
        sample = operator.forward(*(part.sample for part in inputs))
        if len(sample) != len(self.input.sample):
            raise NotImplementedError("across the rows")
        self.nodes.append(Node(operator, tuple(part.node for part in inputs), tuple(sample.shape[1:])))
        return _Ref(len(self.nodes) - 1, sample)


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


# rules: what an operator of ATen becomes


def _constant(value: Any, x: _Ref) -> Tensor:
    """A number or tensor that meets x, without the dimension of the rows."""
    tensor = torch.as_tensor(value).to(x.sample)
    if tensor.ndim == x.sample.ndim:
        if len(tensor) != 1:
            raise NotImplementedError("a constant for every row")
        tensor = tensor[0]
    if torch.broadcast_shapes(tensor.shape, x.sample.shape[1:]) != x.sample.shape[1:]:
        raise NotImplementedError("a constant that makes its operand larger")
    return tensor


def _scaled(build: _Builder, x: _Ref, scale: Any) -> _Ref:
    return build.add(affine.scale(_constant(scale, x)), x)


def _shifted(build: _Builder, x: _Ref, shift: Any) -> _Ref:
    return build.add(affine.shift(_constant(shift, x)), x)


def _add(build: _Builder, a: Any, b: Any, alpha: float = 1) -> _Ref:
    if isinstance(a, _Ref) and isinstance(b, _Ref):
        if a.sample.shape != b.sample.shape:
            raise NotImplementedError("of tensors of two shapes")
        return build.add(Sum(), a, b if alpha == 1 else _scaled(build, b, alpha))
    if isinstance(a, _Ref):
        return _shifted(build, a, alpha * b)
    return _shifted(build, b if alpha == 1 else _scaled(build, b, alpha), a)


def _sub(build: _Builder, a: Any, b: Any, alpha: float = 1) -> _Ref:
    return _add(build, a, b, -alpha)


def _rsub(build: _Builder, a: Any, b: Any, alpha: float = 1) -> _Ref:
    return _add(build, b, a, -alpha)


def _mul(build: _Builder, a: Any, b: Any) -> _Ref:
    if isinstance(a, _Ref) and isinstance(b, _Ref):
        raise NotImplementedError("of two tensors that both depend on the input")
    return _scaled(build, a, b) if isinstance(a, _Ref) else _scaled(build, b, a)


def _div(build: _Builder, a: Any, b: Any) -> _Ref:
    if isinstance(b, _Ref):
        raise NotImplementedError("by a tensor that depends on the input")
    return _scaled(build, a, 1 / torch.as_tensor(b).to(a.sample))


def _neg(build: _Builder, x: _Ref) -> _Ref:
    return _scaled(build, x, -1.0)


def _same(build: _Builder, x: _Ref, *_: Any, **__: Any) -> _Ref:
    return x


def _convolution(build: _Builder, x: _Ref, weight: Any, bias: Any, *geometry: Any) -> _Ref:
    if isinstance(weight, _Ref):
        raise NotImplementedError("with a weight that depends on the input")
    return build.add(affine.convolution(weight, bias, build.nodes[x.node].shape, *geometry), x)


def _addmm(build: _Builder, bias: Any, x: Any, weight: Any) -> _Ref:
    return _mm(build, x, weight, bias)


def _mm(build: _Builder, x: Any, weight: Any, bias: Tensor | None = None) -> _Ref:
    if isinstance(weight, _Ref) or not isinstance(x, _Ref) or isinstance(bias, _Ref):
        raise NotImplementedError("of two tensors that both depend on the input")
    return build.add(affine.linear(weight.t(), bias), x)


def _batch_norm(
    build: _Builder, x: _Ref, weight: Tensor | None, bias: Tensor | None, mean: Any, var: Any, *rest: Any
) -> list[Any]:
    training, eps = (rest[0], rest[2]) if isinstance(rest[0], bool) else (False, rest[1])
    if training and build.live:
        over = [0, *range(2, x.sample.ndim)]
        mean, var = x.sample.mean(over), x.sample.var(over, correction=0)
    elif training or mean is None:
        raise NotImplementedError("by the statistics of its batch")
    scale = (var.double() + eps).rsqrt() * (1.0 if weight is None else weight.double())
    shift = -mean.double() * scale + (0.0 if bias is None else bias.double())
    wide = (-1, *[1] * (x.sample.ndim - 2))
    moved = affine.scale(scale.to(x.sample).view(wide))
    return [build.add(replace(moved, bias=shift.to(x.sample).view(wide)), x), None, None]


def _moved(target: Callable[..., Tensor]) -> Callable[..., _Ref]:
    """A linear map without negative coefficients: entries moved about, left out, repeated or averaged."""

    def rule(build: _Builder, x: _Ref, *args: Any, **kwargs: Any) -> _Ref:
        def move(z: Tensor) -> Tensor:
            return target(z, *args, **kwargs)

        return build.add(affine.moved(move, build.nodes[x.node].shape, x.sample), x)

    return rule


def _summed(target: Callable[..., Tensor]) -> Callable[..., _Ref]:
    """A linear map that averages or adds up entries of an example, none of them negatively."""

    def rule(build: _Builder, x: _Ref, *args: Any, **kwargs: Any) -> _Ref:
        shape = build.nodes[x.node].shape
        terms = max(2, x.sample[0].numel() // min(shape[0], target(x.sample, *args, **kwargs)[0].numel()))
        return build.add(affine.moved(lambda z: target(z, *args, **kwargs), shape, x.sample, terms), x)

    return rule


def _along(target: Callable[..., Tensor], default: int | None = None, kind: Any = _moved) -> Callable[..., _Ref]:
    """The same along dimensions named first, none of them the rows."""

    def rule(build: _Builder, x: _Ref, *args: Any, **kwargs: Any) -> _Ref:
        named = args[0] if args else default
        dims = named if isinstance(named, list | tuple) else [named]
        if not dims or any(d is None or d % x.sample.ndim == 0 for d in dims):
            raise NotImplementedError("across the rows")
        return kind(target)(build, x, *args, **kwargs)  # type: ignore[no-any-return]

    return rule


def _view(build: _Builder, x: _Ref, sizes: Sequence[int]) -> _Ref:
    shape = x.sample.reshape(*sizes).shape
    if len(shape) < 2 or shape[0] != len(x.sample):
        raise NotImplementedError("across the rows")
    return _moved(lambda z: z.reshape(len(z), *shape[1:]))(build, x)


def _transpose(build: _Builder, x: _Ref, a: int, b: int) -> _Ref:
    if 0 in (a % x.sample.ndim, b % x.sample.ndim):
        raise NotImplementedError("across the rows")
    return _moved(aten.transpose.int)(build, x, a, b)


def _permute(build: _Builder, x: _Ref, dims: Sequence[int]) -> _Ref:
    if dims[0] != 0:
        raise NotImplementedError("across the rows")
    return _moved(aten.permute.default)(build, x, list(dims))


def _cat(build: _Builder, parts: Sequence[Any], dim: int = 0) -> _Ref:
    if not all(isinstance(part, _Ref) for part in parts) or dim % parts[0].sample.ndim == 0:
        raise NotImplementedError("with a constant, or across the rows")
    dim %= parts[0].sample.ndim
    return build.add(Concat(dim, tuple(part.sample.shape[dim] for part in parts)), *parts)


def _activation(activation: Operator) -> Callable[..., _Ref]:
    def rule(build: _Builder, x: _Ref) -> _Ref:
        return build.add(activation, x)

    return rule


def _leaky_relu(build: _Builder, x: _Ref, slope: float = 0.01) -> _Ref:
    if not 0 <= slope < 1:
        raise NotImplementedError(f"with slope {slope:g}, outside [0, 1)")
    return build.add(LeakyReLU(slope), x)


def _softplus(build: _Builder, x: _Ref, beta: float = 1.0, threshold: float = 20.0) -> _Ref:
    return build.add(softplus(beta, threshold), x)


def _elu(build: _Builder, x: _Ref, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> _Ref:
    if (alpha, scale, input_scale) != (1.0, 1.0, 1.0):
        raise NotImplementedError("with scales other than 1")
    return build.add(ELU, x)


def _gelu(build: _Builder, x: _Ref, *, approximate: str = "none") -> _Ref:
    if approximate != "none":
        raise NotImplementedError(f"approximate {approximate}")
    return build.add(GELU, x)


def _clamp(build: _Builder, x: _Ref, low: float | None = None, high: float | None = None) -> _Ref:
    """low + relu(x - low), and high - relu(high - x)."""
    if low is not None:
        x = _shifted(build, build.add(RELU, _shifted(build, x, -low)), low)
    if high is not None:
        over = build.add(RELU, _shifted(build, _neg(build, x), high))
        x = _shifted(build, _neg(build, over), high)
    return x


def _hardtanh(build: _Builder, x: _Ref, low: float = -1.0, high: float = 1.0) -> _Ref:
    return _clamp(build, x, low, high)


def _max_pool(
    build: _Builder,
    x: _Ref,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> list[Any]:
    """The largest of each window, one direction after the other, by pairs: max(a, b) = a + relu(b - a)."""
    if ceil_mode:
        raise NotImplementedError("in ceil mode")
    dims = x.sample.ndim - 2

    def wide(value: Sequence[int]) -> Sequence[int]:
        return list(value) * dims if len(value) == 1 else value

    kernel, padding, dilation = wide(kernel), wide(padding), wide(dilation)
    stride = wide(stride) if len(stride) else kernel
    for d in range(dims):
        size = x.sample.shape[2 + d]
        windows = (size + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        first = torch.arange(windows) * stride[d] - padding[d]
        if padding[d] and dilation[d] > 1:
            raise NotImplementedError("padded and dilated")
        # past an edge, the edge itself: it lies in the window
        places = [(first + k * dilation[d]).clamp(0, size - 1).to(x.sample.device) for k in range(kernel[d])]
        x = _largest(build, x, places, 2 + d)
    return [x, None]


def _largest(build: _Builder, x: _Ref, places: list[Tensor], dim: int) -> _Ref:
    """The largest of x at several places along a dimension; halves of them first, where the second starts from x too."""
    if len(places) == 1:
        return _moved(lambda z: z.index_select(dim, places[0]))(build, x)
    half = len(places) // 2
    a, b = _largest(build, x, places[:half], dim), _largest(build, x, places[half:], dim)
    over = build.add(RELU, _sub(build, b, a))
    return build.add(Sum(), a, over)


_RANKING = {aten._softmax.default, aten._log_softmax.default, aten.log.default, aten.sigmoid.default}

RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.cudnn_batch_norm.default: _batch_norm,
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: _sub,
    aten.sub.Scalar: _sub,
    aten.rsub.Tensor: _rsub,
    aten.rsub.Scalar: _rsub,
    aten.mul.Tensor: _mul,
    aten.mul.Scalar: _mul,
    aten.div.Tensor: _div,
    aten.div.Scalar: _div,
    aten.neg.default: _neg,
    aten.cat.default: _cat,
    aten.relu.default: _activation(RELU),
    aten.leaky_relu.default: _leaky_relu,
    aten.sigmoid.default: _activation(SIGMOID),
    aten.tanh.default: _activation(TANH),
    aten.silu.default: _activation(SILU),
    aten.softplus.default: _softplus,
    aten.gelu.default: _gelu,
    aten.elu.default: _elu,
    aten.hardtanh.default: _hardtanh,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: lambda build, x, high: _clamp(build, x, None, high),
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.avg_pool2d.default: _summed(aten.avg_pool2d.default),
    aten._adaptive_avg_pool2d.default: _summed(aten._adaptive_avg_pool2d.default),
    aten.constant_pad_nd.default: _moved(aten.constant_pad_nd.default),
    aten.upsample_nearest2d.default: _moved(aten.upsample_nearest2d.default),
    aten.mean.dim: _along(aten.mean.dim, kind=_summed),
    aten.sum.dim_IntList: _along(aten.sum.dim_IntList, kind=_summed),
    aten.slice.Tensor: _along(aten.slice.Tensor, 0),
    aten.select.int: _along(aten.select.int),
    aten.squeeze.dim: _along(aten.squeeze.dim),
    aten.squeeze.dims: _along(aten.squeeze.dims),
    aten.unsqueeze.default: _along(aten.unsqueeze.default),
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.clone.default: _same,
    aten.detach.default: _same,
    aten.alias.default: _same,
    aten.lift_fresh_copy.default: _same,
}
