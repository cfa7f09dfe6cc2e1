"""beta-CROWN: linear bounds over subdomains, in which some neurons are known to be active and others to be inactive.

A neuron z that is split at 0 adds the constraint s z >= 0, s = 1 or -1. For any multiplier beta >= 0, the least of f - beta s z
over the whole region is at most the least of f where the constraint holds: the constraints join the substitution, and alpha and
beta follow the gradient of the bound together. Wang, Zhang, Xu, Lin, Jana, Hsieh, Kolter, NeurIPS 2021, arXiv:2103.06624.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mohs.certificates.activations import LeakyReLU
from mohs.certificates.backward import through
from mohs.certificates.operators import Box, Relaxation, gamma
from mohs.certificates.reduced import Reduced


class Subdomains(NamedTuple):
    """R parts of a region, each with the function that is bounded there, spec [R].

    sign [R, U]: 1 where a neuron is active, -1 where it is inactive, 0 where it is not split. alpha, beta [R, U]: slopes and
    multipliers. lower [R]: what the function comes to at least, as far as it is known."""

    spec: Tensor
    sign: Tensor
    alpha: Tensor
    beta: Tensor
    lower: Tensor

    @property
    def size(self) -> int:
        return len(self.spec)

    @staticmethod
    def whole(net: Reduced) -> Subdomains:
        """The region itself, for each function, with CROWN's slopes."""
        none = torch.zeros_like(net.M[net.neurons :])
        alpha = torch.cat([none[:1, :0], *(line.alpha[:, 0] for line in lines(net, none[:1]))], 1).expand_as(none)
        return Subdomains(
            torch.arange(len(none), device=none.device), none, alpha, none, torch.full_like(net.low[net.neurons :], -torch.inf)
        )

    @staticmethod
    def cat(parts: list[Subdomains]) -> Subdomains:
        return Subdomains(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def rows(self, part: slice | Tensor) -> Subdomains:
        return Subdomains(*(column[part] for column in self))

    def to(self, dtype: torch.dtype) -> Subdomains:
        return Subdomains(self.spec, *(column.to(dtype) for column in self[1:]))

    def split(self, neuron: Tensor) -> Subdomains:
        """[2 R]: where a neuron [R] of each is active, then where it is inactive."""
        at = neuron.unsqueeze(1)
        return Subdomains.cat([self._replace(sign=self.sign.scatter(1, at, side)) for side in (1.0, -1.0)])


class Linear(NamedTuple):
    """A bound [R] and what it was drawn from: the coefficients of the activations' outputs, after [R, U], and of the input,
    x [R, *input]."""

    lower: Tensor
    after: Tensor
    x: Tensor


def boxes(net: Reduced, sign: Tensor) -> Box:
    """What goes into the neurons [R, U] on subdomains: the region's, cut where neurons are split."""
    low, high = net.box
    return Box(torch.where(sign > 0, low.clamp(min=0), low), torch.where(sign < 0, high.clamp(max=0), high))


def lines(net: Reduced, sign: Tensor) -> list[Relaxation]:
    """The relaxation of each layer on subdomains."""
    low, high = boxes(net, sign)
    return [operator.relax(Box(low[:, at], high[:, at])) for operator, at in net.layers]


def bound(net: Reduced, relaxed: list[Relaxation], part: Subdomains, *, sound: bool = False) -> Linear:
    """What the functions come to at least on subdomains. sound: with rounding taken off."""
    n, own = net.neurons, net.neurons + part.spec
    after, constant = net.M[own], net.low[own]
    behind, before = [after[:, n:]], [after[:, n:]]
    for (_, at), line in zip(reversed(net.layers), reversed(relaxed), strict=True):
        behind.insert(0, after[:, at])
        A, left = through(behind[0].unsqueeze(1), line, part.alpha[:, at].unsqueeze(1), sound)
        before.insert(0, A[:, 0] - part.beta[:, at] * part.sign[:, at])
        constant = constant + left[:, 0]
        after = after[:, : at.start] + before[0] @ net.M[at, : at.start]
    A = torch.cat(before, 1)
    constant = constant + A @ net.low[:n] + A.clamp(max=0) @ (net.high - net.low)[:n]
    x = (net.W[own] + A @ net.W[:n]).view(-1, *net.region.box.lower.shape[1:])
    found = constant + net.region.lower(x[None], sound=sound)[0]
    if sound:
        flow = net.flow[own] + A.abs() @ net.flow[:n] + part.beta @ net.box.magnitude[0]
        found = found - 2 * gamma(sum(net.W.shape), x.dtype) * flow - torch.finfo(x.dtype).eps * (constant.abs() + found.abs())
    return Linear(found, torch.cat(behind, 1), x)


def ascend(net: Reduced, part: Subdomains, steps: int, lr: float) -> Subdomains:
    """The best slopes and multipliers that Adam meets, and the bounds there, none below what was known."""
    relaxed, best, steps = lines(net, part.sign), part, steps if net.neurons else 0
    here = part._replace(alpha=part.alpha.clone().requires_grad_(), beta=part.beta.clone().requires_grad_())
    adam = torch.optim.Adam([here.alpha, here.beta], lr=lr, maximize=True)
    for step in range(steps + 1):
        with torch.enable_grad():
            found = bound(net, relaxed, here).lower
            if step < steps:
                here.alpha.grad, here.beta.grad = torch.autograd.grad(found.sum(), [here.alpha, here.beta])
        better = found.detach() > best.lower
        kept = (
            torch.where(better.unsqueeze(1), new.detach(), old) for new, old in ((here.alpha, best.alpha), (here.beta, best.beta))
        )
        alpha, beta = kept
        best = best._replace(alpha=alpha, beta=beta, lower=torch.where(better, found.detach(), best.lower))
        if step < steps:
            adam.step()
            with torch.no_grad():
                here.alpha.clamp_(0, 1)
                here.beta.clamp_(min=0)
    return best


def intercepts(net: Reduced, part: Subdomains, after: Tensor) -> Tensor:
    """[R, U]: what the intercept of a neuron's upper line takes off the bound, the second score of Bunel et al. and of filtered
    smart branching (De Palma et al., 2021, arXiv:2104.06718); -inf where a split at 0 makes nothing straight."""
    found = [torch.full_like(after[:, :0], 0.0)]
    for (operator, at), line in zip(net.layers, lines(net, part.sign), strict=True):
        kinked = line.loose[:, 0] & isinstance(operator, LeakyReLU)
        taken_off = 0.0 if line.upper.intercept is None else -after[:, at].clamp(max=0) * line.upper.intercept[:, 0]
        found.append(torch.where(kinked, taken_off, -torch.inf))
    return torch.cat(found, 1)
