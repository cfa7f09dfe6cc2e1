"""A network over one region without its stable neurons: what is left is linear between those that bend.

A neuron that is active, or inactive, on the whole region computes a line, and lines fold. Each unstable neuron k is then
z_k = M_k a + W_k x + c_k in the activations a of unstable neurons before it and the input x, and so is each function that is to
be bounded: a few dense matrices, whatever the layers were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mohs.certificates.backward import Bounds, Functions, substitute
from mohs.certificates.crown import chunk
from mohs.certificates.graph import Network
from mohs.certificates.operators import Activation, Box, Line, Relaxation
from mohs.certificates.region import Region


@dataclass(frozen=True, eq=False)
class Reduced:
    """U unstable neurons over the region [1, *input] of one example, and S functions.

    layers: activations, and which neurons are theirs. box: of what goes into the neurons, [1, U]. M [U + S, U], W [U + S, d]: the
    coefficients of the neurons, then of the functions; low, high [U + S]: bounds of the constants, which rounding parts; flow
    [U + S]: the magnitude of what a row adds up."""

    layers: tuple[tuple[Activation, slice], ...]
    region: Region
    box: Box
    M: Tensor
    W: Tensor
    low: Tensor
    high: Tensor
    flow: Tensor

    @property
    def neurons(self) -> int:
        return self.M.shape[1]

    @property
    def functions(self) -> int:
        return len(self.M) - self.neurons

    def values(self, x: Tensor) -> Tensor:
        """[R, S]: the functions at inputs x [R, *input] of the region."""
        n, z = self.neurons, x.flatten(1) @ self.W.t() + self.low
        a = z[:, :0]
        for operator, at in self.layers:
            a = torch.cat([a, operator.forward(z[:, at] + a @ self.M[at, : at.start].t())], 1)
        return z[:, n:] + a @ self.M[n:].t()

    def before(self, layer: int) -> Self:
        """The network up to a layer, whose neurons, and then their opposites, are the functions."""
        _, at = self.layers[layer]
        n = slice(0, at.start)

        def with_opposites(rows: Tensor, opposite: Tensor) -> Tensor:
            return torch.cat([rows[n], rows[at], opposite[at]])

        return replace(
            self,
            layers=self.layers[:layer],
            box=Box(*(side[:, n] for side in self.box)),
            M=with_opposites(self.M[:, n], -self.M[:, n]),
            W=with_opposites(self.W, -self.W),
            low=with_opposites(self.low, -self.high),
            high=with_opposites(self.high, -self.low),
            flow=with_opposites(self.flow, self.flow),
        )

    def to(self, dtype: torch.dtype) -> Self:
        """The same in another precision, to which it is rounded."""
        parts = {name: getattr(self, name).to(dtype) for name in ("M", "W", "low", "high", "flow")}
        return replace(self, region=self.region.to(dtype), box=self.box.to(dtype), **parts)


def reduced(network: Network, known: Bounds, A: Tensor) -> Reduced:
    """A network over the region of one example, whose boxes are known. A [S, classes]: functions of its logits. In the dtype of
    A, which is the network's, with what rounding may add to a constant in the bounds of the constant."""
    bounds = _again(network, known, A.dtype)
    bent, count = list[_Bent](), 0
    for i, relaxed in bounds.relaxed.items():
        entries = relaxed.loose.flatten().nonzero()[:, 0]
        if len(entries):
            bent.append(_Bent(i, network.nodes[i].inputs[0], entries, slice(count, count := count + len(entries))))
    nothing = Region(Box(*(torch.zeros_like(side) for side in bounds.region.box)))
    plain = replace(bounds, region=nothing, relaxed={i: _without(relaxed) for i, relaxed in bounds.relaxed.items()})

    low, high, reach = (A.new_zeros(1, count) for _ in range(3))
    rows = []
    for layer in bent:
        box, shape = bounds.boxes[layer.before], torch.Size(network.nodes[layer.before].shape)
        low[:, layer.at], high[:, layer.at] = (side.flatten(1)[:, layer.entries] for side in box)
        reach[:, layer.at] = bounds.boxes[layer.activation].magnitude.flatten(1)[:, layer.entries]
        for part in layer.entries.split(max(1, chunk(bounds, 1) // 2)):
            one = torch.zeros(1, len(part), shape.numel(), dtype=A.dtype, device=A.device)
            one[0, torch.arange(len(part)), part] = 1.0
            rows.append(_rows(plain, Functions({layer.before: one.unflatten(2, shape)}), bent, reach, bounds.region))
    rows.append(_rows(plain, Functions({len(network.nodes) - 1: A[None]}), bent, reach, bounds.region))
    layers = tuple((network.nodes[layer.activation].operator, layer.at) for layer in bent)
    return Reduced(layers, bounds.region, Box(low, high), *(torch.cat(parts) for parts in zip(*rows, strict=True)))  # type: ignore[arg-type]


class _Bent(NamedTuple):
    """What is bent of an activation: entries of the node before it, and which neurons they are."""

    activation: int
    before: int
    entries: Tensor
    at: slice


def _again(network: Network, known: Bounds, dtype: torch.dtype) -> Bounds:
    """Known boxes with what substitution needs, in the precision of a network."""
    known = replace(known, boxes={i: box.to(dtype) for i, box in known.boxes.items()})
    bounds = Bounds(network, known.region.to(dtype))
    for i in range(len(network.nodes)):
        bounds.reach(i, known)
    return bounds


def _without(relaxed: Relaxation) -> Relaxation:
    """Lines that end where an entry is bent: nothing goes on from there."""

    def ended(part: Tensor | None) -> Tensor | None:
        return None if part is None else torch.where(relaxed.loose, 0.0, part)

    lower, upper = (Line._make(map(ended, line)) for line in relaxed[:2])
    return relaxed._replace(lower=lower, upper=upper, flow=torch.where(relaxed.loose, 0.0, relaxed.flow))


def _rows(plain: Bounds, functions: Functions, bent: list[_Bent], reach: Tensor, region: Region) -> tuple[Tensor, ...]:
    """M, W, low, high and flow of linear functions of one node: of them and of their opposites, as rounding goes one way.
    reach [1, U]: the magnitude of the neurons' outputs."""
    seen = dict[int, Tensor]()
    both = {i: torch.cat([A, -A], 1) for i, A in functions.coefficients.items()}
    constant, W = substitute(plain, Functions(both), seen=seen)[0], seen[0].flatten(2)[0]
    M = torch.zeros(len(W), reach.shape[1], dtype=W.dtype, device=W.device)
    for layer in bent:
        if layer.activation in seen:
            M[:, layer.at] = seen[layer.activation].flatten(2)[0][:, layer.entries]
    (M, other), (W, opposite), (low, high) = M.chunk(2), W.chunk(2), constant.chunk(2)
    size = region.box.magnitude.flatten()
    differ = (M + other).abs() @ reach[0] + (W + opposite).abs() @ size
    return M, W, low, differ - high, M.abs() @ reach[0] + W.abs() @ size + torch.maximum(low.abs(), high.abs())
