"""Branch and bound over unstable neurons, on the network that is left where the others are folded.

Bunel, Lu, Turkaslan, Torr, Kohli, Kumar, JMLR 2020, arXiv:1909.06588, with the bounds of beta-CROWN (Wang et al., NeurIPS 2021,
arXiv:2103.06624): the bounds of neurons stay the region's, but for what is split. Where it is cheap, they are sharpened first.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.certificates.beta import Subdomains, ascend, bound, intercepts, lines
from mohs.certificates.leaves import decided
from mohs.certificates.neurons import affordable, sharpened
from mohs.certificates.reduced import Reduced

ELEMENTS = 2**20  # numbers in the largest tensor of a batch of subdomains: what fits into caches is done soonest


class Tree(NamedTuple):
    """What branch and bound comes to. lower [S]: what each function comes to at least over the region; point [*input]: where one
    of them is below 0, None where none was met; subdomains: that were bounded."""

    lower: Tensor
    point: Tensor | None
    subdomains: int


def branch_and_bound(net: Reduced, seconds: float, steps: int, lr: float) -> Tree:
    """Bound every function above 0, or meet an input where one is not; in so much processor time, and a round at least.

    Where a quarter of the time leaves any open and it is cheap, the boxes of neurons are sharpened, and it begins anew."""
    began, pays = time.process_time(), affordable(net, seconds / 2)
    tree = searched(net, torch.ones_like(net.low[net.neurons :]) > 0, began + (seconds / 4 if pays else seconds), steps, lr)
    open_ = tree.lower <= 0
    if not pays or tree.point is not None or not open_.any():
        return tree
    again = searched(sharpened(net, seconds / 2, steps, lr), open_, began + seconds, steps, lr)
    return Tree(torch.maximum(tree.lower, again.lower.where(open_, tree.lower)), again.point, tree.subdomains + again.subdomains)


def searched(net: Reduced, wanted: Tensor, end: float, steps: int, lr: float) -> Tree:
    """The functions `wanted` [S], until the processor time `end`; a round at least.

    Bounds are drawn in float32, and count once they are sound in the precision of the network. Depth first: every subdomain has
    to be proved, in whatever order."""
    fast, most = net.to(torch.float32), max(1, ELEMENTS // max(net.W.shape))
    waiting, stuck = [Subdomains.whole(fast).rows(wanted)], list[Subdomains]()
    least = torch.full_like(net.low[net.neurons :], torch.inf)
    subdomains, point = 0, None
    while waiting and point is None and (subdomains == 0 or time.process_time() < end):
        part = ascend(fast, taken(waiting, most), steps, lr)
        subdomains += part.size
        part = unproved(net, part, least)
        drawn = bound(fast, lines(fast, part.sign), part)
        point = counterexample(fast, fast.region.minimiser(drawn.x[None])[0])
        score = intercepts(fast, part, drawn.after)
        leaf = score.isneginf().all(1)
        if not leaf.all():
            waiting.append(part.rows(~leaf).split(score[~leaf].argmax(1)))
        if net.region.ball is not None:
            stuck.append(part.rows(leaf))
        for i in leaf.nonzero()[:, 0].tolist() if net.region.ball is None else ():
            one, at = decided(net, part.rows(slice(i, i + 1)).to(net.W.dtype))
            stuck.append(unproved(net, one, least))
            point = counterexample(net, at[None]) if point is None and at is not None else point
    for part in (*waiting, *stuck):
        least.scatter_reduce_(0, part.spec, part.lower.clamp(max=0).to(least.dtype), "amin")
    return Tree(least, None if point is None else point.to(least.dtype), subdomains)


def taken(waiting: list[Subdomains], most: int) -> Subdomains:
    """So many of the last ones at most, taken away."""
    found, room = list[Subdomains](), most
    while waiting and room:
        last = waiting.pop()
        if last.size > room:
            waiting.append(last.rows(slice(room, None)))
            last = last.rows(slice(0, room))
        found.append(last)
        room -= last.size
    return Subdomains.cat(found)


def unproved(net: Reduced, part: Subdomains, least: Tensor) -> Subdomains:
    """What is left of them where bounds are not above 0 for certain; least [S] takes note of those that are."""
    sure = part.lower > 0
    exact = part.rows(sure).to(net.W.dtype)
    lower = bound(net, lines(net, exact.sign), exact, sound=True).lower
    least.scatter_reduce_(0, exact.spec[lower > 0], lower[lower > 0], "amin")
    return part.rows(~sure.masked_scatter(sure, lower > 0))


def counterexample(net: Reduced, x: Tensor) -> Tensor | None:
    """Of inputs x [R, *input], the one at which a function is lowest, if it is below 0."""
    if len(x) == 0:
        return None
    lowest = net.values(x).amin(1)
    return x[lowest.argmin()] if bool(lowest.min() < 0) else None
