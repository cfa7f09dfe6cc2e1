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
    """

    decay: float = 0.0
    diversity: float = 0.5

    paper = "Xie et al., CVPR 2019, arXiv:1803.06978"


@dataclass(frozen=True, kw_only=True)
class TIFGSM(MIFGSM):
    """TI-FGSM: gradients smoothed over translations, by a Gaussian of 15 pixels a side; decay=1 makes it TI-MI-FGSM, and
    diversity=0.5 TI-DIM. The side is the paper's for images of 299 pixels; take less for small ones.

    Dong, Pang, Su, Zhu, CVPR 2019, arXiv:1904.02884.
    """

    decay: float = 0.0
    kernel: int = 15

    paper = "Dong et al., CVPR 2019, arXiv:1904.02884"


@dataclass(frozen=True, kw_only=True)
class SIFGSM(MIFGSM):
    """SI-NI-FGSM: the look-ahead gradient, averaged over five halvings of the values. Linf.

    Gradients are with respect to x, as the paper's objective has it, so that x / 2^i counts 2^-i.
    Lin, Song, He, Wang, Hopcroft, ICLR 2020, arXiv:1908.06281.
    """

    lookahead: bool = True
    scales: int = 5

    paper = "Lin et al., ICLR 2020, arXiv:1908.06281"
    sets = ("linf",)


@dataclass(frozen=True, kw_only=True)
class VMIFGSM(MIFGSM):
    """Gradients tuned by their variance: what the mean gradient around the last point differed by is added to the next.

    Wang & He, CVPR 2021, arXiv:2103.15571.
    """

    neighbours: int = 20

    paper = "Wang & He, CVPR 2021, arXiv:2103.15571"


@dataclass(frozen=True, kw_only=True)
class VNIFGSM(MIFGSM):
    """VMI-FGSM whose gradient is that of where the momentum leads. Linf.

    Wang & He, CVPR 2021, arXiv:2103.15571.
    """

    neighbours: int = 20
    lookahead: bool = True

    paper = "Wang & He, CVPR 2021, arXiv:2103.15571"
    sets = ("linf",)
