"""QEBA: HopSkipJump whose probes are low frequencies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mohs.attacks.blackbox.frequency import image, lowest
from mohs.attacks.blackbox.hop_skip_jump import HopSkipJump
from mohs.attacks.blackbox.labels import Labels, units
from mohs.rng import Stream


@dataclass(frozen=True, kw_only=True)
class QEBA(HopSkipJump):
    """HopSkipJump with probes out of a subspace, here the lowest part 1 / reduction of the frequencies of height and of
    width (QEBA-F of the paper, whose factor is 4): with fewer dimensions, as many probes tell more of the normal's part in
    them, which for images is most of it. Probes, steps and bisections are HopSkipJump's. The paper's other subspaces, of
    pixels enlarged and of a surrogate's gradients, are left out. Li, Xu, Zhang, Yang, Li, CVPR 2020, arXiv:2005.14137.

    When to use: on large images, in place of `hop-skip-jump`; on small ones with `reduction=2`, where it came nearer on digits of
    28 x 28 and not on photographs of 32 x 32. What the normal has of high frequencies no probe sees: run `hop-skip-jump`
    after it, which goes on from the success it finds.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(8)
    >>> outcome = attacks.QEBA(queries=500, reduction=2)(model, x, y, threat="l2:inf+knowledge:label")
    >>> int(outcome.broken.sum()), int(outcome.backwards.sum())
    (8, 0)
    """

    reduction: float = 4.0

    paper = "Li et al., CVPR 2020, arXiv:2005.14137"

    def directions(self, labels: Labels, n: int, stream: Stream) -> Tensor:
        shape = labels.oracle.x0.shape[1:]
        return image(units(stream.bulk().normal(n, *lowest(shape, 1 / self.reduction))), shape)
