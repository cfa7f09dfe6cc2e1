"""The geometry of the norms a threat may use: distance, exact projection, steepest step, random point, hyperplane."""

from mohs.geometry.base import Norm, Number, per_row
from mohs.geometry.l0 import L0Norm
from mohs.geometry.l1 import L1Norm
from mohs.geometry.l2 import L2Norm
from mohs.geometry.linf import LinfNorm

LINF = LinfNorm()
L2 = L2Norm()
L1 = L1Norm()
L0 = L0Norm()
L0_PIXELS = L0Norm(pixels=True)

__all__ = [
    "L0",
    "L0_PIXELS",
    "L1",
    "L2",
    "LINF",
    "L0Norm",
    "L1Norm",
    "L2Norm",
    "LinfNorm",
    "Norm",
    "Number",
    "per_row",
]
