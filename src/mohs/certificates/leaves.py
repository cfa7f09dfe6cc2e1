"""Subdomains without a bent neuron: the network is linear there, and a linear program decides."""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linprog
from torch import Tensor

from mohs.certificates.beta import Subdomains, bound, lines
from mohs.certificates.reduced import Reduced


def decided(net: Reduced, leaf: Subdomains) -> tuple[Subdomains, Tensor | None]:
    """One subdomain (R = 1) of a box on which no neuron is bent, with the multipliers that bound its function best; and the
    input [*input] at which it is least, None where none lies in the subdomain. In float64.

    The multipliers are the dual solution of min f(x) for s z(x) >= 0, which attains the minimum. Where no x is left, they are
    that of min t for s z(x) + t >= 0, as often as it takes: that takes any function above 0."""
    z, constant = folded(net, leaf.sign)
    n, sign = net.neurons, leaf.sign[0]
    side = {"A_ub": (-sign.unsqueeze(1) * z[:n]).cpu().numpy(), "b_ub": (sign * constant[:n]).cpu().numpy()}
    box = [(float(low), float(high)) for low, high in torch.stack([end.flatten() for end in net.region.box], 1)]
    found: Any = linprog(z[n + leaf.spec[0]].cpu().numpy(), **side, bounds=box)
    if found.status == 0:
        beta = -torch.from_numpy(found.ineqlin.marginals)
        return _with(net, leaf, beta), torch.from_numpy(found.x).view(net.region.box.lower.shape[1:]).to(leaf.beta)
    wide = torch.nn.functional.pad(torch.from_numpy(side["A_ub"]), (0, 1), value=-1.0).numpy()
    cost = torch.nn.functional.one_hot(torch.tensor(z.shape[1]), z.shape[1] + 1).numpy()
    found = linprog(cost, wide, side["b_ub"], bounds=[*box, (0.0, None)])
    if found.status != 0 or found.fun <= 0:
        return leaf, None
    free = leaf._replace(beta=torch.zeros_like(leaf.beta))
    short = 1 + float(bound(net, lines(net, leaf.sign), free).lower.abs())
    return _with(net, leaf, -2 * short / found.fun * torch.from_numpy(found.ineqlin.marginals)), None


def folded(net: Reduced, sign: Tensor) -> tuple[Tensor, Tensor]:
    """The neurons and functions in terms of the input, [U + S, d] and [U + S], where every neuron is on its side, sign [1, U]."""
    z, constant, n = net.W.clone(), (net.low + net.high) / 2, net.neurons
    slope = torch.cat([line.lower.slope[0, 0] for line in lines(net, sign)])
    for rows in (*(at for _, at in net.layers), slice(n, None)):
        before = slice(0, min(rows.start, n))
        M = net.M[rows, before] * slope[before]
        z[rows] += M @ z[before]
        constant[rows] += M @ constant[before]
    return z, constant


def _with(net: Reduced, leaf: Subdomains, beta: Tensor) -> Subdomains:
    """The subdomain with multipliers, and the bound that they give where it is better."""
    leaf = leaf._replace(beta=beta.clamp(min=0).to(leaf.beta).unsqueeze(0))
    return leaf._replace(lower=torch.maximum(leaf.lower, bound(net, lines(net, leaf.sign), leaf).lower))
