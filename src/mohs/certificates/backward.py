"""Backward substitution: a linear lower bound of some outputs, carried through the network to its input.

Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866, in the general form of Xu et al., NeurIPS 2020,
arXiv:2002.12920.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.certificates.graph import Network
from mohs.certificates.operators import Activation, Affine, Box, Concat, Input, Line, Relaxation, Sum, gamma
from mohs.certificates.region import Region, dot, summed

Alphas = dict[int, Tensor]


@dataclass
class Bounds:
    """Boxes of the nodes of a network over a region, as far as they are known. alone [node]: its entries are independent of
    one another, so that the box of an affine map of it is exact."""

    network: Network
    region: Region
    boxes: dict[int, Box] = field(default_factory=dict)
    alone: dict[int, bool] = field(default_factory=dict)
    flows: dict[int, Tensor] = field(default_factory=dict)
    relaxed: dict[int, Relaxation] = field(default_factory=dict)

    def reach(self, i: int, known: Bounds | None = None) -> bool:
        """Put the box of node i from those of the nodes before it, met with a known one; whether it is exact."""
        node = self.network.nodes[i]
        inputs = [self.boxes[j] for j in node.inputs]
        self.boxes[i] = node.operator.box(*inputs) if inputs else self.region.box
        if known is not None:
            self.boxes[i] = self.boxes[i].meet(known.boxes[i])
        if isinstance(node.operator, Affine):
            self.flows[i] = node.operator.flow(inputs[0])
        if isinstance(node.operator, Activation):
            self.relaxed[i] = node.operator.relax(inputs[0])
        exact = all(self.alone[j] for j in node.inputs) and not isinstance(node.operator, Sum)
        self.alone[i] = exact and node.operator.elementwise and self.region.ball is None
        return exact and self.region.ball is None

    def put(self, rows: Tensor, other: Bounds) -> None:
        """Boxes of some rows, in place of those known so far."""
        for i, box in other.boxes.items():
            for mine, new in zip(self.boxes[i], box, strict=True):
                mine[rows] = new

    def rows(self, part: slice | Tensor) -> Bounds:
        """The same of some rows."""
        return Bounds(
            self.network,
            self.region.rows(part),
            {i: box.rows(part) for i, box in self.boxes.items()},
            self.alone,
            {i: flow[part] for i, flow in self.flows.items()},
            {i: _relaxation(relaxed, part) for i, relaxed in self.relaxed.items()},
        )


def _relaxation(relaxed: Relaxation, part: slice | Tensor) -> Relaxation:
    lower, upper = (Line._make(None if t is None else t[part] for t in line) for line in relaxed[:2])
    alpha, loose, flow = (t[part] for t in relaxed[2:])
    return Relaxation(lower, upper, alpha, loose, flow)


class Functions(NamedTuple):
    """Linear functions of nodes, summed: the coefficients by node, [rows or 1, S, *shape], and the constant.

    Where `pick` [rows, S] is given, the coefficients [1, U, *shape] and the constant [rows or 1, U] are of functions that rows
    share, and pick says which are whose."""

    coefficients: dict[int, Tensor]
    constant: Tensor | float = 0.0
    pick: Tensor | None = None


def carry(bounds: Bounds, functions: Functions, *, sound: bool = True) -> Functions:
    """The same functions in terms of earlier nodes, back to where an activation comes next: as long as all rows share them."""
    coefficients, constant = dict(functions.coefficients), functions.constant
    nodes = bounds.network.nodes
    while not isinstance(nodes[last := max(coefficients)].operator, Activation | Input):
        A, node = coefficients.pop(last), nodes[last]
        if isinstance(node.operator, Affine):
            constant = constant + _left(A, node.operator, bounds.flows[last], sound)
            parts = [node.operator.back(A)]
        else:
            parts = node.operator.back(A) if isinstance(node.operator, Concat) else [A] * len(node.inputs)
        for i, part in zip(node.inputs, parts, strict=True):
            coefficients[i] = coefficients[i] + part if i in coefficients else part
    return Functions(coefficients, constant, functions.pick)


def substitute(
    bounds: Bounds,
    functions: Functions,
    alphas: Alphas | None = None,
    *,
    relax: bool = True,
    sound: bool = True,
    seen: dict[int, Tensor] | None = None,
) -> Tensor:
    """[rows, S]: what the functions come to at least over the region.

    alphas: by activation, [rows, S, *shape]; CROWN's own where there is none. relax: False stops at the first activations,
    with the boxes of their outputs. sound: with rounding taken off. seen: takes the coefficients of activations' outputs and of
    the input.
    """
    coefficients, constant = _own(carry(bounds, functions, sound=sound))
    while coefficients:
        last = max(coefficients)
        A, operator = coefficients.pop(last), bounds.network.nodes[last].operator
        if seen is not None:
            seen[last] = A
        if isinstance(operator, Input):
            constant = constant + bounds.region.lower(A, sound=sound)
        elif not relax:
            constant = constant + Region(bounds.boxes[last]).lower(A, sound=sound)
        else:
            A, left = through(A, bounds.relaxed[last], (alphas or {}).get(last), sound)
            (before,) = bounds.network.nodes[last].inputs
            coefficients[before] = coefficients[before] + A if before in coefficients else A
            constant = constant + left
        if coefficients:
            coefficients, constant, _ = carry(bounds, Functions(coefficients, constant), sound=sound)
    assert isinstance(constant, Tensor)
    return constant - torch.finfo(constant.dtype).eps * constant.abs() if sound else constant


def _own(functions: Functions) -> tuple[dict[int, Tensor], Tensor | float]:
    """Coefficients and constant of each row's own functions."""
    coefficients, constant, pick = functions
    if pick is None:
        return coefficients, constant
    if isinstance(constant, Tensor):
        constant = constant.expand(len(pick), -1).gather(1, pick)
    return {i: A[0][pick] for i, A in coefficients.items()}, constant


def _left(A: Tensor, operator: Affine, flow: Tensor, sound: bool) -> Tensor | float:
    """The constant that an affine operator leaves, less what rounding may add to it."""
    left: Tensor | float = 0.0
    if operator.bias is not None:
        channels, *sides = A.shape[2:]
        if sides and operator.bias.shape == (channels, *[1] * len(sides)):  # one a channel
            left = dot(A.flatten(3).sum(3), operator.bias.flatten()[None], sound)
        else:
            left = dot(A, operator.bias.expand(A.shape[2:])[None], sound)
    terms = operator.uses + (0 if operator.bias is None else summed(A.shape[2:]))
    if sound and terms:
        left = left - gamma(terms, A.dtype) * dot(A.abs(), flow)
    return left


def through(A: Tensor, relaxed: Relaxation, alpha: Tensor | None, sound: bool) -> tuple[Tensor, Tensor]:
    """Coefficients before an activation, and the constant: its lower line where they are positive, its upper where not."""
    negative = A.clamp(max=0)
    alpha = relaxed.alpha if alpha is None else alpha
    (low, below), (high, above) = relaxed.lower.at(alpha), relaxed.upper.at(alpha)
    constant = _sum(negative, above, sound)
    if below is not None:
        constant = constant + _sum(A - negative, below, sound)
    if sound:  # |A| is A - 2 negative
        rounding = dot(A, relaxed.flow[:, 0]) - 2 * dot(negative, relaxed.flow[:, 0])
        constant = constant - 1.01 * gamma(8 + summed(A.shape[2:]), A.dtype) * rounding
    return torch.addcmul(A * low, negative, high - low), constant


def _sum(A: Tensor, intercept: Tensor | None, sound: bool) -> Tensor:
    """[rows, S]: A times an intercept [rows, 1 or S, *shape]."""
    if intercept is None:
        return A.new_zeros(1)
    return dot(A, intercept[:, 0], sound) if intercept.shape[1] == 1 else (A * intercept).flatten(2).sum(2)
