"""Backward substitution: a linear lower bound of some outputs, carried through the network to its input.

Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866, in the general form of Xu et al., NeurIPS 2020,
arXiv:2002.12920.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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

    def reach(self, i: int) -> bool:
        """Put the box of node i from those of the nodes before it; whether it is exact."""
        node = self.network.nodes[i]
        inputs = [self.boxes[j] for j in node.inputs]
        self.boxes[i] = node.operator.box(*inputs) if inputs else self.region.box
        if isinstance(node.operator, Affine):
            self.flows[i] = node.operator.flow(inputs[0])
        if isinstance(node.operator, Activation):
            self.relaxed[i] = node.operator.relax(inputs[0])
        exact = all(self.alone[j] for j in node.inputs) and not isinstance(node.operator, Sum)
        self.alone[i] = exact and node.operator.elementwise and self.region.ball is None
        return exact and self.region.ball is None

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


def substitute(
    bounds: Bounds, start: int, A: Tensor, alphas: Alphas | None = None, *, relax: bool = True, sound: bool = True
) -> Tensor:
    """[rows, S]: what A [rows or 1, S, *shape] times the output of node `start` comes to at least over the region.

    One row of A serves all where it meets no activation. alphas: by activation, [rows, S, *shape]; CROWN's own where there
    is none. relax: False stops at the first activations, with the boxes of their outputs. sound: with rounding taken off.
    """
    nodes, waiting = bounds.network.nodes, {start: A}
    total: Tensor | float = 0.0
    for i in range(start, -1, -1):
        if i not in waiting:
            continue
        A, operator, inputs = waiting.pop(i), nodes[i].operator, nodes[i].inputs
        if isinstance(operator, Input):
            total = total + bounds.region.lower(A, sound=sound)
            continue
        if isinstance(operator, Affine):
            if operator.bias is not None:
                total = total + dot(A, operator.bias.expand(nodes[i].shape).unsqueeze(0), sound)
            if sound:
                total = total - gamma(operator.uses + summed(nodes[i].shape), A.dtype) * dot(A.abs(), bounds.flows[i])
            parts = [operator.back(A)]
        elif isinstance(operator, Activation) and not relax:
            total = total + Region(bounds.boxes[i]).lower(A, sound=sound)
            continue
        elif isinstance(operator, Activation):
            part, constant = _through(A, bounds.relaxed[i], (alphas or {}).get(i), sound)
            parts, total = [part], total + constant
        elif isinstance(operator, Concat):
            parts = operator.back(A)
        else:
            parts = [A] * len(inputs)
        for j, part in zip(inputs, parts, strict=True):
            waiting[j] = waiting[j] + part if j in waiting else part
    assert isinstance(total, Tensor)
    dtype = bounds.region.box.lower.dtype
    return (total - torch.finfo(dtype).eps * total.abs()).to(dtype) if sound else total


def _through(A: Tensor, relaxed: Relaxation, alpha: Tensor | None, sound: bool) -> tuple[Tensor, Tensor]:
    """Coefficients before an activation, and the constant: its lower line where they are positive, its upper where not."""
    positive = A.clamp(min=0)
    negative = A - positive
    alpha = relaxed.alpha if alpha is None else alpha
    (low, below), (high, above) = relaxed.lower.at(alpha), relaxed.upper.at(alpha)
    constant = A.new_zeros(1)
    for part, intercept in ((positive, below), (negative, above)):
        if intercept is not None:
            shared = intercept.shape[1] == 1
            constant = constant + (dot(part, intercept[:, 0], sound) if shared else (part * intercept).flatten(2).sum(2))
    if sound:
        constant = constant - gamma(8 + summed(A.shape[2:]), A.dtype) * dot(A.abs(), relaxed.flow[:, 0])
    return positive * low + negative * high, constant
