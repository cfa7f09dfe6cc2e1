"""A Lipschitz constant of a whole network: the product of those of its layers, sums over branches.

It holds everywhere, and is far above what the network does around an input: what follows from it is small. In l2 it is no proof
to the last digit: Lanczos' iteration ends a little below the true spectral norm. Szegedy et al., ICLR 2014, arXiv:1312.6199;
of convolutions the operator itself, not the reshaped kernel: Gouk, Frank, Pfahringer, Cree, Machine Learning 2021,
arXiv:1804.04368.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor, fx, nn
from torch.nn import functional

from mohs.errors import ModelError
from mohs.models.fold import traced
from mohs.rng import Stream

ATEN = torch.ops.aten
Affine = Callable[[Tensor], Tensor]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    functional.linear,
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
)
_WEIGHTED_ATEN = (ATEN.linear.default, ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d)
_POOLS_ATEN = (ATEN.avg_pool2d.default, ATEN.adaptive_avg_pool2d.default, ATEN.mean.dim, torch.mean, "mean")
# At most 1 in each coordinate, or a rearrangement.
_STILL = {
    nn.ReLU, nn.ReLU6, nn.Tanh, nn.Softplus, nn.Hardtanh, nn.Sigmoid, nn.Flatten, nn.Identity, nn.Dropout,
    nn.Dropout2d, nn.Unflatten, torch.relu, functional.relu, functional.relu_, functional.tanh, torch.tanh,
    functional.softplus, torch.sigmoid, functional.sigmoid, torch.flatten, functional.dropout, "flatten", "view", "reshape",
    "contiguous", "relu", "tanh", "sigmoid", "permute", "size", nn.ZeroPad2d, ATEN.slice.Tensor,
    ATEN.constant_pad_nd.default, ATEN.relu.default, ATEN.relu_.default, ATEN.tanh.default,
    ATEN.sigmoid.default, ATEN.softplus.default, ATEN.flatten.using_ints, ATEN.view.default,
    ATEN.reshape.default, ATEN.permute.default, ATEN.clone.default, ATEN.contiguous.default, ATEN.dropout.default,
}  # fmt: skip
_COPIES = {functional.pad, ATEN.pad.default, operator.getitem}  # every output is an input, which may come up several times
_LEAKY = {functional.leaky_relu, ATEN.leaky_relu.default}
_ADD = {operator.add, operator.iadd, torch.add, ATEN.add.Tensor, ATEN.add_.Tensor, "add", "add_"}
_SUB = {operator.sub, torch.sub, ATEN.sub.Tensor, "sub"}
_MUL = {operator.mul, torch.mul, ATEN.mul.Tensor, "mul"}
_DIV = {operator.truediv, torch.div, ATEN.div.Tensor, "div"}


def network_bound(module: nn.Module, x: Tensor, norm: str) -> float:
    """A constant K with ||f(x) - f(x')|| <= K ||x - x'||, both in `norm` (linf, l2 or l1), of the logits of inputs such as
    x [n, *input]. ModelError names the first operation that is not covered."""
    graph = traced(module)
    try:
        return float(_Constants(graph, norm).run(x[:1].float()))
    except ModelError as error:  # fx adds where it was in its own words
        raise ModelError(str(error).partition("\n")[0]) from None


class _Constants(fx.Interpreter):
    """Runs the graph on one input, with the constant of every node beside its value: None of what does not depend on x."""

    def __init__(self, graph: fx.GraphModule, norm: str) -> None:
        super().__init__(graph)
        self.norm = norm
        self.constants: dict[fx.Node, Any] = {}

    @torch.no_grad()
    def run_node(self, node: fx.Node) -> Any:
        if node.op == "output":
            return self.constants[node.all_input_nodes[0]]
        value = super().run_node(node)
        self.constants[node] = 1.0 if node.op == "placeholder" else self._constant(node, value)
        return value

    def _constant(self, node: fx.Node, value: Any) -> float | None:
        moving = [n for n in node.all_input_nodes if self.constants[n] is not None]
        if not moving:
            return None
        kind: Any = type(self.fetch_attr(str(node.target))) if node.op == "call_module" else node.target
        if (kind in _ADD or kind in _SUB) and not node.kwargs:
            parts: Any = [n for n in node.args if n in moving]
            return float(sum(self.constants[n] * self._broadcast(n, value) for n in parts))
        if kind in (torch.cat, ATEN.cat.default):  # linf: the largest; else at most the sum, in l2 its root of squares
            order = {"linf": math.inf, "l2": 2.0, "l1": 1.0}[self.norm]
            parts = node.args[0] if node.args else node.kwargs["tensors"]
            return float(torch.tensor([self.constants[n] for n in parts if n in moving]).norm(order))
        if len(moving) == 1:
            return float(self.constants[moving[0]] * self._gain(node, kind, moving[0], value))
        raise self._uncovered(node, kind)

    def _copied(self, seen: float) -> float:
        """The constant of a map that puts every entry to so many places, at most."""
        return float({"linf": 1.0, "l2": math.sqrt(seen), "l1": seen}[self.norm])

    def _broadcast(self, source: fx.Node, value: Tensor) -> float:
        """That of an operand of an entrywise operation, which comes up as often as the shape of the value wants it."""
        return self._copied(value.numel() / self.env[source].numel())

    def _gain(self, node: fx.Node, kind: Any, source: fx.Node, value: Any) -> float:
        if kind in _STILL:
            return 1.0
        args: Any = self.map_nodes_to_values(node.args, node)
        kwargs: Any = node.kwargs
        first = node.args[:1] == (source,)
        if kind is nn.LeakyReLU or kind in _LEAKY:
            slope = [*args[1:], 0.01][0] if kind in _LEAKY else getattr(self.fetch_attr(str(node.target)), "negative_slope", 0.01)
            return max(1.0, abs(float(kwargs.get("negative_slope", slope))))
        if kind is nn.ELU:
            return max(1.0, abs(float(self.fetch_attr(str(node.target)).alpha)))
        if (kind in _MUL or (kind in _DIV and first)) and node.args.count(source) == 1 and not kwargs:
            size = torch.as_tensor(args[1] if first else args[0]).abs()
            return float(size.max() if kind in _MUL else 1 / size.min()) * self._broadcast(source, value)
        if kind in _NORMS:
            layer = self.fetch_attr(str(node.target))
            scale = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight)
            return float(scale.abs().max())
        if kind is ATEN.batch_norm.default:
            _, weight, _, _, variance, _, _, eps, *_ = args
            return float(((variance + eps).rsqrt() * (1 if weight is None else weight)).abs().max())
        if kind is nn.MaxPool2d:
            layer = self.fetch_attr(str(node.target))
            sides = (v if isinstance(v, tuple) else (v, v) for v in (layer.kernel_size, layer.stride, layer.dilation))
            return self._copied(math.prod(windows(*side) for side in zip(*sides, strict=True)))
        if first and (kind in _WEIGHTED or kind in _WEIGHTED_ATEN or kind in _POOLS or kind in _POOLS_ATEN or kind in _COPIES):
            return self._operator(node, kind, args[0])
        raise self._uncovered(node, kind)

    def _operator(self, node: fx.Node, kind: Any, x: Tensor) -> float:
        """Of the linear part: by Lanczos' iteration for l2, by sums of absolute weights for linf (rows) and l1 (columns), which
        are the copies where it copies."""
        args: Any = self.map_nodes_to_values(node.args, node)
        kwargs: Any = self.map_nodes_to_values(node.kwargs, node)
        rest = list(args[1:])
        absolute = self.norm != "l2"
        if node.op == "call_module":
            layer = copy.deepcopy(self.fetch_attr(str(node.target)))
            if absolute and getattr(layer, "weight", None) is not None:
                layer.weight.copy_(layer.weight.abs())

            def f(v: Tensor) -> Tensor:
                out: Tensor = layer(v)
                return out
        else:
            if absolute and rest and isinstance(rest[0], Tensor):
                rest[0] = rest[0].abs()
            if absolute and "weight" in kwargs:
                kwargs = {**kwargs, "weight": kwargs["weight"].abs()}
            call: Any = node.target if node.op == "call_function" else getattr(Tensor, str(node.target))

            def f(v: Tensor) -> Tensor:
                out: Tensor = call(v, *rest, **kwargs)
                return out

        zero = f(torch.zeros_like(x))
        if self.norm == "linf":
            return float((f(torch.ones_like(x)) - zero).max())
        if self.norm == "l1" or kind in _COPIES:
            columns = float(_transposed(f, x, torch.ones_like(zero)).max())
            return self._copied(columns) if kind in _COPIES else columns
        return spectral_norm(f, x)

    def _uncovered(self, node: fx.Node, kind: Any) -> ModelError:
        name = getattr(kind, "__name__", kind)
        return ModelError(f"no Lipschitz constant of the operation {name} ({node.name}) is known here in {self.norm}")


def windows(size: int, stride: int, dilation: int) -> int:
    """In how many windows of a side of a pool a value is, at most: its places in them are of one class modulo what is left of
    the stride."""
    return math.ceil(size / (stride // math.gcd(stride, dilation)))


def spectral_norm(f: Affine, x: Tensor) -> float:
    """The largest singular value of an affine f's linear part on inputs like x [1, *input], by Lanczos' iteration: from below."""
    zero = f(torch.zeros_like(x))
    if zero.numel() == 1:
        return float(_transposed(f, x, torch.ones_like(zero)).norm())
    if x.numel() == 1:
        return float((f(torch.ones_like(x)) - zero).norm())

    def there(v: NDArray[Any]) -> NDArray[Any]:
        return (f(torch.from_numpy(v).to(x).view_as(x)) - zero).flatten().double().cpu().numpy()

    def back(u: NDArray[Any]) -> NDArray[Any]:
        return _transposed(f, x, torch.from_numpy(u).to(x).view_as(zero)).flatten().double().cpu().numpy()

    start = Stream.of(0, torch.zeros(1, dtype=torch.int64)).at("lanczos").normal(x.numel()).double().numpy()[0]
    if not there(start).any():  # of a layer of zeros, with which the iteration cannot begin
        return 0.0
    part = LinearOperator((zero.numel(), x.numel()), matvec=there, rmatvec=back, dtype=np.float64)
    return float(svds(part, k=1, v0=start[: min(part.shape)], return_singular_vectors=False)[0])


def _transposed(f: Affine, x: Tensor, u: Tensor) -> Tensor:
    """The transpose of f's linear part on u."""
    with torch.enable_grad():
        v = torch.zeros_like(x).requires_grad_()
        (back,) = torch.autograd.grad(f(v), v, u)
    return back
