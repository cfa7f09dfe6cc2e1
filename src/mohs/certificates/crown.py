"""Lower bounds of margins over a region: by intervals, by CROWN, by CROWN with optimised slopes.

interval: Gowal et al., ICCV 2019, arXiv:1810.12715, the last layers fused with the margin. CROWN: Zhang et al., NeurIPS 2018,
arXiv:1811.00866. alpha-CROWN: Xu et al., ICLR 2021, arXiv:2011.13824; there the slopes of all bounds follow the gradient of the
last one, here each bound has its own slopes and follows its own gradient, layer after layer: in the optimum no bound is worse
for it, and only one layer's coefficients are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mohs.certificates.backward import Bounds, Functions, carry, substitute
from mohs.certificates.graph import Network
from mohs.certificates.operators import Activation, Box
from mohs.certificates.region import Region

ELEMENTS = 2**20  # numbers in the largest tensor of coefficients: what fits into caches is done soonest
Lower = Callable[[Bounds, Functions], Tensor]


@dataclass(frozen=True)
class Ascent:
    """Adam on slopes. lr is multiplied by decay each step."""

    steps: int = 20
    lr: float = 0.5
    decay: float = 0.98


def margins(classes: int, y: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, classes - 1, classes]: the rows of z_y - z_j, by rising j."""
    identity = torch.eye(classes, dtype=dtype, device=y.device)
    others = torch.stack([torch.cat([torch.arange(k), torch.arange(k + 1, classes)]) for k in range(classes)]).to(y.device)
    return identity[y].unsqueeze(1) - identity[others[y]]


def interval(network: Network, region: Region, A: Tensor) -> tuple[Tensor, Bounds]:
    """[rows, S]: the least of A [rows, S, classes] times the logits, from boxes carried forward."""
    bounds = Bounds(network, region)
    for i in range(len(network.nodes)):
        bounds.reach(i)
    return substitute(bounds, Functions({len(network.nodes) - 1: A}), relax=False), bounds


def crown(
    network: Network, region: Region, A: Tensor, lower: Lower = substitute, known: Bounds | None = None
) -> tuple[Tensor, Bounds]:
    """The same by substitution, the boxes of activations' inputs too: each is met with that of intervals, and so is the result.

    lower: how a linear function of a node is bounded from below. known: of the same rows, whose boxes are met too."""
    bounds, wanted = Bounds(network, region), set(network.bounded())
    for i in range(len(network.nodes)):
        exact = bounds.reach(i, known)
        if i in wanted and not exact:
            tighten(bounds, i, lower)
    last = len(network.nodes) - 1
    found = [lower(bounds, Functions({last: part})) for part in A.split(chunk(bounds, len(A)), 1)]
    return torch.maximum(torch.cat(found, 1), substitute(bounds, Functions({last: A}), relax=False)), bounds


def alpha_crown(network: Network, region: Region, A: Tensor, ascent: Ascent = Ascent()) -> tuple[Tensor, Bounds]:
    """CROWN, then with every slope optimised what that leaves at 0 or below, of the entries that it leaves bent."""

    def lower(bounds: Bounds, functions: Functions) -> Tensor:
        return optimised(bounds, functions, ascent)

    found, bounds = crown(network, region, A)
    left = (found <= 0).any(1).nonzero()[:, 0]
    if len(left) == 0:
        return found, bounds
    better, narrow = crown(network, region.rows(left), A[left], lower, bounds.rows(left))
    found[left] = torch.maximum(found[left], better)
    bounds.put(left, narrow)
    return found, bounds


def attained(network: Network, region: Region, A: Tensor) -> tuple[Tensor, Tensor]:
    """CROWN's bounds [rows, S] of functions A [rows, S, classes], and where they would be attained: the inputs
    [rows, S, *input] at which the linear functions below them are least."""
    with torch.no_grad():
        found, bounds = crown(network, region, A)
        seen = dict[int, Tensor]()
        substitute(bounds, Functions({len(network.nodes) - 1: A}), sound=False, seen=seen)
        return found, region.minimiser(seen[0])


def chunk(bounds: Bounds, rows: int) -> int:
    """How many outputs at once."""
    widest = max(torch.Size(node.shape).numel() for node in bounds.network.nodes)
    return max(1, ELEMENTS // (rows * widest))


def tighten(bounds: Bounds, i: int, lower: Lower) -> None:
    """Meet the box of node i with bounds by substitution, of the entries that some activation bends: first on the side that
    is nearer to 0, then on the other where that did not settle it."""
    users = [node.operator for node in bounds.network.nodes if i in node.inputs]
    bending = [user for user in users if isinstance(user, Activation)]
    shape = bounds.network.nodes[i].shape
    for first in (True, False):
        box = bounds.boxes[i]
        loose = torch.stack([user.loose(box) for user in bending]).any(0).flatten(1)
        if first:
            below = (box.center >= 0).flatten(1)
        low, high = box.lower.flatten(1), box.upper.flatten(1)
        for sign, wanted in ((1.0, loose & (below == first)), (-1.0, loose & (below != first))):
            for block in wanted.any(0).nonzero()[:, 0].split(8 * chunk(bounds, 1)):
                A = torch.zeros(1, len(block), low.shape[1], dtype=low.dtype, device=low.device)
                A[0, torch.arange(len(block)), block] = sign
                functions = carry(bounds, Functions({i: A.unflatten(2, shape)}))
                for pick in places(wanted[:, block]).split(chunk(bounds, len(low)), 1):
                    found = sign * lower(bounds, functions._replace(pick=pick))
                    side, meet, entries = (low, torch.maximum, block[pick]) if sign > 0 else (high, torch.minimum, block[pick])
                    met = side.scatter(1, entries, meet(side.gather(1, entries), found))
                    low, high = (met, high) if sign > 0 else (low, met)
        bounds.boxes[i] = Box(low.unflatten(1, shape), high.unflatten(1, shape))


def places(wanted: Tensor) -> Tensor:
    """[rows, S]: where wanted [rows, entries] is true, padded with some places where it is not."""
    order = wanted.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return order[:, : int(wanted.sum(1).max())]


def ancestors(network: Network, i: int) -> Iterator[int]:
    """Node i and all it depends on."""
    seen, waiting = {i}, [i]
    while waiting:
        j = waiting.pop()
        yield j
        for k in network.nodes[j].inputs:
            if k not in seen:
                seen.add(k)
                waiting.append(k)


def optimised(bounds: Bounds, functions: Functions, ascent: Ascent) -> Tensor:
    """[rows, S] as `substitute`, at the best slopes that gradient ascent finds; each of S has its own. Never below CROWN's."""
    plain = substitute(bounds, functions)
    within = {j for start in functions.coefficients for j in ancestors(bounds.network, start)}
    bent = [j for j in sorted(within) if j in bounds.relaxed and bool(bounds.relaxed[j].loose.any())]
    if not bent:
        return plain
    alphas = {j: bounds.relaxed[j].alpha.expand(*plain.shape, *bounds.network.nodes[j].shape).clone() for j in bent}
    best = torch.full_like(plain, -torch.inf)
    kept = {j: alpha.clone() for j, alpha in alphas.items()}
    leaves = [alpha.requires_grad_() for alpha in alphas.values()]
    adam = torch.optim.Adam(leaves, lr=ascent.lr, maximize=True)
    for _ in range(ascent.steps):
        with torch.enable_grad():
            found = substitute(bounds, functions, alphas, sound=False)
            gradients = torch.autograd.grad(found.sum(), leaves)
        better = found.detach() > best
        best = torch.where(better, found.detach(), best)
        for j, alpha in alphas.items():
            kept[j] = torch.where(_like(better, alpha), alpha.detach(), kept[j])
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        adam.step()
        for group in adam.param_groups:
            group["lr"] *= ascent.decay
        with torch.no_grad():
            for leaf in leaves:
                leaf.clamp_(0, 1)
    return torch.maximum(plain, substitute(bounds, functions, kept))


def _like(flags: Tensor, wide: Tensor) -> Tensor:
    return flags.view(*flags.shape, *[1] * (wide.ndim - 2))
