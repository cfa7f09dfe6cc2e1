"""ReColorAdv: one smooth map of all colours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.attacks.adam import adam
from mohs.attacks.base import Attack
from mohs.geometry.solve import total
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class ReColorAdv(Attack):
    """min -margin + smooth sum_c sum_{c' next to c} sqrt(||g(c) - g(c')||^2 + tiny) over the grid g by Adam, projected onto the
    set after every step, from g = 0.

    smooth: the paper's lambda. rate: Adam's, in units of the colour space. One forward and backward pass a step. tiny,
    the authors' 1e-10, gives the root a slope at g = 0; in their code a point at the rim is compared with itself on the
    far side, which adds a constant and is left out.
    Laidlaw & Feizi, NeurIPS 2019, arXiv:1906.00001.

    When to use: for one change of all colours that leaves shapes and textures whole, in colour images alone. At 100 passes it
    is cheap; `pgd` on the same set takes larger steps and breaks more, with less smooth colours, and moves a norm beside them:
    `recolor:0.06+linf:8/255`.

    >>> import torch
    >>> from mohs import attacks
    >>> linear = torch.nn.Linear(3, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 1]])), linear.bias.zero_()
    >>> redder = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear).eval()  # red or blue on average
    >>> x, y = torch.tensor([0.52, 0.5, 0.5]).view(1, 3, 1, 1).expand(1, 3, 8, 8).contiguous(), torch.tensor([0])
    >>> [bool(attacks.ReColorAdv(rate=0.005)(redder, x, y, threat=f"recolor:{epsilon}").broken) for epsilon in (0.001, 0.06)]
    [False, True]
    """

    steps: int = 100
    rate: float = 0.001
    smooth: float = 0.05

    paper = "Laidlaw & Feizi, NeurIPS 2019, arXiv:1906.00001"
    random = False
    sets = ("recolor",)

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        g = threat.origin(x0)
        first, second = torch.zeros_like(g), torch.zeros_like(g)
        for k in oracle.steps(self.steps):
            slope = self.smooth * roughness(g)[1] - oracle.gradient(g, oracle.goal.margin).gradient
            direction, metric = adam(slope, first, second, k)
            g = threat.project(g.addcdiv(direction, metric, value=-self.rate), x0)
            x0, g, first, second = oracle.compact(x0, g, first, second)
        return g


def roughness(g: Tensor) -> tuple[Tensor, Tensor]:
    """The smoothness loss [n] of grids [n, 3, a, b, c] and its gradient. Every pair of neighbours counts twice, from both of
    its ends."""
    value, slope = torch.zeros(len(g), dtype=torch.float64, device=g.device), torch.zeros_like(g)
    for dim in (2, 3, 4):
        difference = g.diff(dim=dim)
        size = difference.square().sum(1, keepdim=True).add_(1e-10).sqrt_()
        value += 2 * total(size)
        pull = difference.mul_(2).div_(size)
        slope.narrow(dim, 1, g.shape[dim] - 1).add_(pull)
        slope.narrow(dim, 0, g.shape[dim] - 1).sub_(pull)
    return value, slope
