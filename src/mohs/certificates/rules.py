"""What an operator of ATen becomes: a rule for each, which adds nodes to a graph under construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mohs.certificates import affine
from mohs.certificates.activations import ELU, GELU, RELU, SIGMOID, SILU, TANH, LeakyReLU, softplus
from mohs.certificates.operators import Concat, Input, Operator, Sum

aten = torch.ops.aten


@dataclass(frozen=True)
class Node:
    """An operator on earlier nodes; shape: of its output, a row."""

    operator: Operator
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """A node, where an argument of the traced graph depends on the input; sample: its value on the traced rows."""

    node: int
    sample: Tensor


class Builder:
    """The nodes so far, the first of them the input, of which x [rows, *input] is traced. live: normalisation by the statistics
    of its batch is by those of x; without it, such a layer has no bound."""

    def __init__(self, x: Tensor, live: bool = False) -> None:
        self.nodes = [Node(Input(), (), tuple(x.shape[1:]))]
        self.input, self.live = Ref(0, x), live

    def add(self, operator: Operator, *inputs: Ref) -> Ref:
        sample = operator.forward(*(part.sample for part in inputs))
        if len(sample) != len(self.input.sample):
            raise NotImplementedError("across the rows")
        self.nodes.append(Node(operator, tuple(part.node for part in inputs), tuple(sample.shape[1:])))
        return Ref(len(self.nodes) - 1, sample)


def _constant(value: Any, x: Ref) -> Tensor:
    """A number or tensor that meets x, without the dimension of the rows."""
    tensor = torch.as_tensor(value).to(x.sample)
    if tensor.ndim == x.sample.ndim:
        if len(tensor) != 1:
            raise NotImplementedError("a constant for every row")
        tensor = tensor[0]
    if torch.broadcast_shapes(tensor.shape, x.sample.shape[1:]) != x.sample.shape[1:]:
        raise NotImplementedError("a constant that makes its operand larger")
    return tensor


def _scaled(build: Builder, x: Ref, scale: Any) -> Ref:
    return build.add(affine.scale(_constant(scale, x)), x)


def _shifted(build: Builder, x: Ref, shift: Any) -> Ref:
    return build.add(affine.shift(_constant(shift, x)), x)


def _add(build: Builder, a: Any, b: Any, alpha: float = 1) -> Ref:
    if isinstance(a, Ref) and isinstance(b, Ref):
        if a.sample.shape != b.sample.shape:
            raise NotImplementedError("of tensors of two shapes")
        return build.add(Sum(), a, b if alpha == 1 else _scaled(build, b, alpha))
    if isinstance(a, Ref):
        return _shifted(build, a, alpha * b)
    return _shifted(build, b if alpha == 1 else _scaled(build, b, alpha), a)


def _sub(build: Builder, a: Any, b: Any, alpha: float = 1) -> Ref:
    return _add(build, a, b, -alpha)


def _rsub(build: Builder, a: Any, b: Any, alpha: float = 1) -> Ref:
    return _add(build, b, a, -alpha)


def _mul(build: Builder, a: Any, b: Any) -> Ref:
    if isinstance(a, Ref) and isinstance(b, Ref):
        raise NotImplementedError("of two tensors that both depend on the input")
    return _scaled(build, a, b) if isinstance(a, Ref) else _scaled(build, b, a)


def _div(build: Builder, a: Any, b: Any) -> Ref:
    if isinstance(b, Ref):
        raise NotImplementedError("by a tensor that depends on the input")
    return _scaled(build, a, 1 / torch.as_tensor(b).to(a.sample))


def _neg(build: Builder, x: Ref) -> Ref:
    return _scaled(build, x, -1.0)


def _same(build: Builder, x: Ref, *_: Any, **__: Any) -> Ref:
    return x


def _convolution(build: Builder, x: Ref, weight: Any, bias: Any, *geometry: Any) -> Ref:
    if isinstance(weight, Ref):
        raise NotImplementedError("with a weight that depends on the input")
    return build.add(affine.convolution(weight, bias, build.nodes[x.node].shape, *geometry), x)


def _addmm(build: Builder, bias: Any, x: Any, weight: Any) -> Ref:
    return _mm(build, x, weight, bias)


def _mm(build: Builder, x: Any, weight: Any, bias: Tensor | None = None) -> Ref:
    if isinstance(weight, Ref) or not isinstance(x, Ref) or isinstance(bias, Ref):
        raise NotImplementedError("of two tensors that both depend on the input")
    return build.add(affine.linear(weight.t(), bias), x)


def _batch_norm(build: Builder, x: Ref, weight: Tensor | None, bias: Tensor | None, mean: Any, var: Any, *rest: Any) -> list[Any]:
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


def _moved(target: Callable[..., Tensor]) -> Callable[..., Ref]:
    """A linear map without negative coefficients: entries moved about, left out, repeated or averaged."""

    def rule(build: Builder, x: Ref, *args: Any, **kwargs: Any) -> Ref:
        def move(z: Tensor) -> Tensor:
            return target(z, *args, **kwargs)

        return build.add(affine.moved(move, build.nodes[x.node].shape, x.sample), x)

    return rule


def _summed(target: Callable[..., Tensor]) -> Callable[..., Ref]:
    """A linear map that averages or adds up entries of an example, none of them negatively."""

    def rule(build: Builder, x: Ref, *args: Any, **kwargs: Any) -> Ref:
        shape = build.nodes[x.node].shape
        terms = max(2, x.sample[0].numel() // min(shape[0], target(x.sample, *args, **kwargs)[0].numel()))
        return build.add(affine.moved(lambda z: target(z, *args, **kwargs), shape, x.sample, terms), x)

    return rule


def _along(target: Callable[..., Tensor], default: int | None = None, kind: Any = _moved) -> Callable[..., Ref]:
    """The same along dimensions named first, none of them the rows."""

    def rule(build: Builder, x: Ref, *args: Any, **kwargs: Any) -> Ref:
        named = args[0] if args else default
        dims = named if isinstance(named, list | tuple) else [named]
        if not dims or any(d is None or d % x.sample.ndim == 0 for d in dims):
            raise NotImplementedError("across the rows")
        return kind(target)(build, x, *args, **kwargs)  # type: ignore[no-any-return]

    return rule


def _view(build: Builder, x: Ref, sizes: Sequence[int]) -> Ref:
    shape = x.sample.reshape(*sizes).shape
    if len(shape) < 2 or shape[0] != len(x.sample):
        raise NotImplementedError("across the rows")
    return _moved(lambda z: z.reshape(len(z), *shape[1:]))(build, x)


def _transpose(build: Builder, x: Ref, a: int, b: int) -> Ref:
    if 0 in (a % x.sample.ndim, b % x.sample.ndim):
        raise NotImplementedError("across the rows")
    return _moved(aten.transpose.int)(build, x, a, b)


def _permute(build: Builder, x: Ref, dims: Sequence[int]) -> Ref:
    if dims[0] != 0:
        raise NotImplementedError("across the rows")
    return _moved(aten.permute.default)(build, x, list(dims))


def _cat(build: Builder, parts: Sequence[Any], dim: int = 0) -> Ref:
    if not all(isinstance(part, Ref) for part in parts) or dim % parts[0].sample.ndim == 0:
        raise NotImplementedError("with a constant, or across the rows")
    dim %= parts[0].sample.ndim
    return build.add(Concat(dim, tuple(part.sample.shape[dim] for part in parts)), *parts)


def _activation(activation: Operator) -> Callable[..., Ref]:
    def rule(build: Builder, x: Ref) -> Ref:
        return build.add(activation, x)

    return rule


def _leaky_relu(build: Builder, x: Ref, slope: float = 0.01) -> Ref:
    if not 0 <= slope < 1:
        raise NotImplementedError(f"with slope {slope:g}, outside [0, 1)")
    return build.add(LeakyReLU(slope), x)


def _softplus(build: Builder, x: Ref, beta: float = 1.0, threshold: float = 20.0) -> Ref:
    return build.add(softplus(beta, threshold), x)


def _elu(build: Builder, x: Ref, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Ref:
    if (alpha, scale, input_scale) != (1.0, 1.0, 1.0):
        raise NotImplementedError("with scales other than 1")
    return build.add(ELU, x)


def _gelu(build: Builder, x: Ref, *, approximate: str = "none") -> Ref:
    if approximate != "none":
        raise NotImplementedError(f"approximate {approximate}")
    return build.add(GELU, x)


def _clamp(build: Builder, x: Ref, low: float | None = None, high: float | None = None) -> Ref:
    """low + relu(x - low), and high - relu(high - x)."""
    if low is not None:
        x = _shifted(build, build.add(RELU, _shifted(build, x, -low)), low)
    if high is not None:
        over = build.add(RELU, _shifted(build, _neg(build, x), high))
        x = _shifted(build, _neg(build, over), high)
    return x


def _hardtanh(build: Builder, x: Ref, low: float = -1.0, high: float = 1.0) -> Ref:
    return _clamp(build, x, low, high)


def _max_pool(
    build: Builder,
    x: Ref,
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


def _largest(build: Builder, x: Ref, places: list[Tensor], dim: int) -> Ref:
    """The largest of x at several places along a dimension; halves of them first, where the second starts from x too."""
    if len(places) == 1:
        return _moved(lambda z: z.index_select(dim, places[0]))(build, x)
    half = len(places) // 2
    a, b = _largest(build, x, places[:half], dim), _largest(build, x, places[half:], dim)
    over = build.add(RELU, _sub(build, b, a))
    return build.add(Sum(), a, over)


RANKING = {aten._softmax.default, aten._log_softmax.default, aten.log.default, aten.sigmoid.default}

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
