"""The family of MI-FGSM that is made to transfer: to a model that is never asked, from a surrogate that is."""

from __future__ import annotations

from dataclasses import dataclass

from mohs.attacks.gradient.mifgsm import MIFGSM


@dataclass(frozen=True, kw_only=True)
class DIFGSM(MIFGSM):
    """DI^2-FGSM: gradients of randomly resized and padded inputs, without momentum; decay=1 makes it M-DI^2-FGSM.

    Every row draws a size and a place of its own. Inputs keep their size: they are shown smaller, at 0.9 or more of it,
    where the paper enlarges them.
    Xie, Zhang, Zhou, Bai, Wang, Ren, Yuille, CVPR 2019, arXiv:1803.06978.

    When to use: to transfer to models of another architecture: inputs that are resized at random keep the attack from fitting
    one network's grid. It costs nothing more than `mi-fgsm`, and on the surrogate itself it is weaker. Set `decay=1` unless the
    paper's plain form is wanted. Public code draws one size for a whole batch and never the last place; here every row draws.

    >>> from mohs import attacks, demo
    >>> prepared, x, y = demo.transfer_example()
    >>> bool(attacks.DIFGSM(decay=1)(prepared, x, y, threat="linf:0.2+knowledge:transfer").broken.any())
    True
    """

    decay: float = 0.0
    diversity: float = 0.5

    paper = "Xie et al., CVPR 2019, arXiv:1803.06978"
    random = True


@dataclass(frozen=True, kw_only=True)
class TIFGSM(MIFGSM):
    """TI-FGSM: gradients smoothed over translations, by a Gaussian of 15 pixels a side; decay=1 makes it TI-MI-FGSM, and
    diversity=0.5 TI-DIM. The side is the paper's for images of 299 pixels; take less for small ones.

    Dong, Pang, Su, Zhu, CVPR 2019, arXiv:1904.02884.

    When to use: to transfer to models that were hardened or that look at other places of an image: smoothed gradients shift
    little. On small images take a small `kernel`, as 15 pixels blur a digit away; on the surrogate itself it is weaker than
    `mi-fgsm`.

    >>> from mohs import attacks, demo
    >>> prepared, x, y = demo.transfer_example()
    >>> wide, narrow = (attacks.TIFGSM(kernel=side)(prepared, x, y, threat="linf:0.2+knowledge:transfer") for side in (15, 3))
    >>> bool(narrow.broken.sum() >= wide.broken.sum())  # these images have eight pixels a side
    True
    """

    decay: float = 0.0
    kernel: int = 15

    paper = "Dong et al., CVPR 2019, arXiv:1904.02884"


@dataclass(frozen=True, kw_only=True)
class SIFGSM(MIFGSM):
    """SI-NI-FGSM: the look-ahead gradient, averaged over five halvings of the values. Linf.

    Gradients are with respect to x, as the paper's objective has it, so that x / 2^i counts 2^-i.
    Lin, Song, He, Wang, Hopcroft, ICLR 2020, arXiv:1908.06281.

    When to use: to transfer where a surrogate and the victim differ in how bright they expect an input to be; five times the
    passes of `mi-fgsm`. For the passes `vmi-fgsm` mostly transfers better.

    >>> from mohs import attacks, demo
    >>> attacks.MIFGSM().passes(10), attacks.SIFGSM().passes(10)  # five copies a step
    ((10, 10), (50, 50))
    >>> prepared, x, y = demo.transfer_example()
    >>> bool(attacks.SIFGSM()(prepared, x, y, threat="linf:0.2+knowledge:transfer").broken.any())
    True
    """

    lookahead: bool = True
    scales: int = 5

    paper = "Lin et al., ICLR 2020, arXiv:1908.06281"
    sets = ("linf",)


@dataclass(frozen=True, kw_only=True)
class VMIFGSM(MIFGSM):
    """Gradients tuned by their variance: what the mean gradient around the last point differed by is added to the next.

    Wang & He, CVPR 2021, arXiv:2103.15571.

    When to use: the best of the family for a model that is never asked, and what the transfer profiles run; with several
    surrogates better still. It costs 21 times the passes of `mi-fgsm`, all of them the surrogate's. Where the model answers,
    any attack that asks it is stronger.

    >>> from mohs import attacks, demo
    >>> attacks.VMIFGSM().passes(10)  # ten steps, of 21 gradients each
    (210, 210)
    >>> prepared, x, y = demo.transfer_example()
    >>> bool(attacks.VMIFGSM(neighbours=5)(prepared, x, y, threat="linf:0.2+knowledge:transfer").broken.any())
    True
    """

    neighbours: int = 20

    paper = "Wang & He, CVPR 2021, arXiv:2103.15571"
    random = True


@dataclass(frozen=True, kw_only=True)
class VNIFGSM(MIFGSM):
    """VMI-FGSM whose gradient is that of where the momentum leads. Linf.

    Wang & He, CVPR 2021, arXiv:2103.15571.

    When to use: as `vmi-fgsm`, with the look-ahead of `ni-fgsm` on top, for the same passes; which of the two transfers better
    depends on the pair of models, so try both.

    >>> from mohs import attacks, demo
    >>> prepared, x, y = demo.transfer_example()
    >>> bool(attacks.VNIFGSM(neighbours=5)(prepared, x, y, threat="linf:0.2+knowledge:transfer").broken.any())
    True
    """

    neighbours: int = 20
    lookahead: bool = True

    paper = "Wang & He, CVPR 2021, arXiv:2103.15571"
    random = True
    sets = ("linf",)
