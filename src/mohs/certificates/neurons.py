"""Boxes of neurons by branch and bound: layer after layer, each bound of a neuron is a function of the neurons before it.

In a network of many layers what is lost in the boxes of one is lost in all that follow, and no split of a later neuron brings it
back. Singh, Gehr, Pueschel, Vechev ("Boosting Robustness Certification of Neural Networks", ICLR 2019) tighten the boxes of the
first layers by mixed-integer programming; here each bound has a tree of subdomains of its own, the trees of a layer grow at
once, and beta-CROWN bounds their leaves.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from mohs.certificates.beta import Subdomains, ascend, bound, intercepts, lines
from mohs.certificates.operators import Box
from mohs.certificates.reduced import Reduced

ROUNDS = 64  # in each the worst leaf of every tree is split
FIRST = 4  # times as many steps for the roots, from which the leaves take their slopes


def affordable(net: Reduced, seconds: float) -> bool:
    """Whether so much processor time is worth spending on the boxes: in wide networks a tree has hardly begun by then."""
    return sum(_work(net)) < 2**24 * seconds


def sharpened(net: Reduced, seconds: float, steps: int, lr: float) -> Reduced:
    """The network with boxes of its neurons that hold over the region, in about so much processor time."""
    work, end = _work(net), time.process_time()
    for layer, (_, at) in enumerate(net.layers[1:], 1):
        end += seconds * work[layer] / sum(work)
        before = net.before(layer)
        low, opposite = grown(before, end, steps, lr).to(net.low).chunk(2)
        box = Box(net.box.lower.clone(), net.box.upper.clone())
        box.lower[0, at] = torch.maximum(box.lower[0, at], low)
        box.upper[0, at] = torch.minimum(box.upper[0, at], -opposite)
        net = replace(net, box=box)
    return net


def grown(net: Reduced, end: float, steps: int, lr: float) -> Tensor:
    """[S]: what each function comes to at least, once the worst leaf of its tree has been split in every round, until it is 0 or
    no neuron is left to split. Drawn in float32, sound in the precision of the network."""
    fast = net.to(torch.float32)
    leaves, rounds = ascend(fast, Subdomains.whole(fast), FIRST * steps, lr), 0
    while rounds < ROUNDS and time.process_time() < end:
        worst = (leaves.lower < 0) & (leaves.lower <= _least(leaves, net.functions)[leaves.spec])
        chosen, others = leaves.rows(worst), leaves.rows(~worst)
        score = intercepts(fast, chosen, bound(fast, lines(fast, chosen.sign), chosen).after)
        bent = ~score.isneginf().all(1)
        if not bent.any():
            break
        both = ascend(fast, chosen.rows(bent).split(score[bent].argmax(1)), steps, lr)
        leaves, rounds = Subdomains.cat([others, chosen.rows(~bent), both]), rounds + 1
    exact = leaves.to(net.W.dtype)
    return _least(exact._replace(lower=bound(net, lines(net, exact.sign), exact, sound=True).lower), net.functions)


def _least(leaves: Subdomains, functions: int) -> Tensor:
    """[S]: the least bound of each function's leaves."""
    return leaves.lower.new_full((functions,), torch.inf).scatter_reduce(0, leaves.spec, leaves.lower, "amin")


def _work(net: Reduced) -> list[int]:
    """Of each layer, the multiplications that bound its neurons once."""
    return [0, *(2 * (at.stop - at.start) * at.start * (at.start + net.W.shape[1]) for _, at in net.layers[1:])]
