"""Attacks, by name. The table is lazy: a name costs an import only when it is used.

A new attack is one file and one line here. Packages add theirs through the entry-point group `mohs.attacks`, as
`name = "package.module:Class"`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module, metadata
from typing import TYPE_CHECKING

from mohs.errors import RequestError, UnknownName

if TYPE_CHECKING:
    from mohs.attacks.base import Attack
    from mohs.attacks.blackbox.boundary import Boundary
    from mohs.attacks.blackbox.gen_attack import GenAttack
    from mohs.attacks.blackbox.geoda import GeoDA
    from mohs.attacks.blackbox.hop_skip_jump import HopSkipJump
    from mohs.attacks.blackbox.opt import OPT, SignOPT
    from mohs.attacks.blackbox.qeba import QEBA
    from mohs.attacks.blackbox.rays import RayS
    from mohs.attacks.blackbox.square import Square
    from mohs.attacks.blackbox.surfree import SurFree
    from mohs.attacks.gradient.acg import ACG
    from mohs.attacks.gradient.apgd import APGD, APGDTargeted
    from mohs.attacks.gradient.fgsm import FGSM
    from mohs.attacks.gradient.gama import GAMA
    from mohs.attacks.gradient.jitter import Jitter
    from mohs.attacks.gradient.mifgsm import MIFGSM, NIFGSM
    from mohs.attacks.gradient.optimizer import OptimizerPGD
    from mohs.attacks.gradient.pgd import BIM, PGD
    from mohs.attacks.gradient.slide import SLIDE
    from mohs.attacks.minimal.alma import ALMA
    from mohs.attacks.minimal.bisection import Bisection
    from mohs.attacks.minimal.brendel_bethge import BrendelBethge
    from mohs.attacks.minimal.cw import CW
    from mohs.attacks.minimal.cw_l0 import CWL0
    from mohs.attacks.minimal.cw_linf import CWLinf
    from mohs.attacks.minimal.ddn import DDN
    from mohs.attacks.minimal.deepfool import DeepFool
    from mohs.attacks.minimal.ead import EAD
    from mohs.attacks.minimal.fab import FAB, FABT
    from mohs.attacks.minimal.fmn import FMN
    from mohs.attacks.minimal.jsma import JSMA
    from mohs.attacks.minimal.lbfgs import LBFGS
    from mohs.attacks.minimal.pdpgd import PDPGD
    from mohs.attacks.minimal.superdeepfool import SuperDeepFool
    from mohs.attacks.perceptual.recoloradv import ReColorAdv
    from mohs.attacks.sparse.one_pixel import OnePixel
    from mohs.attacks.sparse.pgd_l0 import PGDL0
    from mohs.attacks.sparse.sigma_zero import SigmaZero
    from mohs.attacks.sparse.sparse_rs import SparseRS
    from mohs.attacks.spatial.grid import SpatialGrid
    from mohs.attacks.spatial.sinkhorn import ProjectedSinkhorn
    from mohs.attacks.spatial.stadv import StAdv
    from mohs.attacks.spatial.wasserstein import WassersteinDual, WassersteinFrankWolfe
    from mohs.attacks.spatial.worst_of_k import WorstOfK
    from mohs.attacks.transfer.fgsm import DIFGSM, SIFGSM, TIFGSM, VMIFGSM, VNIFGSM
    from mohs.attacks.universal.replay import Replay

TABLE: dict[str, str] = {
    "fgsm": "mohs.attacks.gradient.fgsm:FGSM",
    "bim": "mohs.attacks.gradient.pgd:BIM",
    "pgd": "mohs.attacks.gradient.pgd:PGD",
    "apgd": "mohs.attacks.gradient.apgd:APGD",
    "apgd-t": "mohs.attacks.gradient.apgd:APGDTargeted",
    "fab": "mohs.attacks.minimal.fab:FAB",
    "fab-t": "mohs.attacks.minimal.fab:FABT",
    "square": "mohs.attacks.blackbox.square:Square",
    "deepfool": "mohs.attacks.minimal.deepfool:DeepFool",
    "mi-fgsm": "mohs.attacks.gradient.mifgsm:MIFGSM",
    "ni-fgsm": "mohs.attacks.gradient.mifgsm:NIFGSM",
    "acg": "mohs.attacks.gradient.acg:ACG",
    "pgd-optimizer": "mohs.attacks.gradient.optimizer:OptimizerPGD",
    "jitter": "mohs.attacks.gradient.jitter:Jitter",
    "gama": "mohs.attacks.gradient.gama:GAMA",
    "slide": "mohs.attacks.gradient.slide:SLIDE",
    "pgd-l0": "mohs.attacks.sparse.pgd_l0:PGDL0",
    "sparse-rs": "mohs.attacks.sparse.sparse_rs:SparseRS",
    "di-fgsm": "mohs.attacks.transfer.fgsm:DIFGSM",
    "ti-fgsm": "mohs.attacks.transfer.fgsm:TIFGSM",
    "si-fgsm": "mohs.attacks.transfer.fgsm:SIFGSM",
    "vmi-fgsm": "mohs.attacks.transfer.fgsm:VMIFGSM",
    "vni-fgsm": "mohs.attacks.transfer.fgsm:VNIFGSM",
    "cw": "mohs.attacks.minimal.cw:CW",
    "cw-linf": "mohs.attacks.minimal.cw_linf:CWLinf",
    "cw-l0": "mohs.attacks.minimal.cw_l0:CWL0",
    "ead": "mohs.attacks.minimal.ead:EAD",
    "lbfgs": "mohs.attacks.minimal.lbfgs:LBFGS",
    "jsma": "mohs.attacks.minimal.jsma:JSMA",
    "superdeepfool": "mohs.attacks.minimal.superdeepfool:SuperDeepFool",
    "ddn": "mohs.attacks.minimal.ddn:DDN",
    "fmn": "mohs.attacks.minimal.fmn:FMN",
    "alma": "mohs.attacks.minimal.alma:ALMA",
    "sigma-zero": "mohs.attacks.sparse.sigma_zero:SigmaZero",
    "pdpgd": "mohs.attacks.minimal.pdpgd:PDPGD",
    "brendel-bethge": "mohs.attacks.minimal.brendel_bethge:BrendelBethge",
    "bisection": "mohs.attacks.minimal.bisection:Bisection",
    "replay": "mohs.attacks.universal.replay:Replay",
    "spatial-grid": "mohs.attacks.spatial.grid:SpatialGrid",
    "worst-of-k": "mohs.attacks.spatial.worst_of_k:WorstOfK",
    "stadv": "mohs.attacks.spatial.stadv:StAdv",
    "wasserstein-sinkhorn": "mohs.attacks.spatial.sinkhorn:ProjectedSinkhorn",
    "wasserstein-dual": "mohs.attacks.spatial.wasserstein:WassersteinDual",
    "wasserstein-frank-wolfe": "mohs.attacks.spatial.wasserstein:WassersteinFrankWolfe",
    "recoloradv": "mohs.attacks.perceptual.recoloradv:ReColorAdv",
    "one-pixel": "mohs.attacks.sparse.one_pixel:OnePixel",
    "gen-attack": "mohs.attacks.blackbox.gen_attack:GenAttack",
    "hop-skip-jump": "mohs.attacks.blackbox.hop_skip_jump:HopSkipJump",
    "qeba": "mohs.attacks.blackbox.qeba:QEBA",
    "geoda": "mohs.attacks.blackbox.geoda:GeoDA",
    "surfree": "mohs.attacks.blackbox.surfree:SurFree",
    "boundary": "mohs.attacks.blackbox.boundary:Boundary",
    "opt": "mohs.attacks.blackbox.opt:OPT",
    "sign-opt": "mohs.attacks.blackbox.opt:SignOPT",
    "rays": "mohs.attacks.blackbox.rays:RayS",
}

_CLASSES = {path.rpartition(":")[2]: path for path in TABLE.values()}


@cache
def table() -> dict[str, str]:
    """Every attack known here: name -> "module:Class"."""
    found = {entry.name: entry.value for entry in metadata.entry_points(group="mohs.attacks")}
    return {**found, **TABLE}


def find(name: str) -> type[Attack]:
    """The class of an attack by its name; UnknownName gives the nearest ones."""
    if name not in table():
        raise UnknownName("attack", name, table())
    return _load(table()[name])


def name_of(attack: Attack | type[Attack]) -> str:
    """The name of an attack's class in the table."""
    kind = attack if isinstance(attack, type) else type(attack)
    path = f"{kind.__module__}:{kind.__qualname__}"
    for name, known in table().items():
        if known == path:
            return name
    raise RequestError(f"the attack {path} is not in the table; register it in the entry-point group mohs.attacks")


def make(spec: dict[str, object]) -> Attack:
    """An attack from {"attack": name, option: value, ...}."""
    options = {key: value for key, value in spec.items() if key != "attack"}
    return find(str(spec["attack"])).from_spec(options)


def _load(path: str) -> type[Attack]:
    module, _, name = path.partition(":")
    loaded: type[Attack] = getattr(import_module(module), name)
    return loaded


def __getattr__(name: str) -> type[Attack]:
    if name in _CLASSES:
        return _load(_CLASSES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ACG",
    "ALMA",
    "APGD",
    "BIM",
    "CW",
    "CWL0",
    "DDN",
    "DIFGSM",
    "EAD",
    "FAB",
    "FABT",
    "FGSM",
    "FMN",
    "GAMA",
    "JSMA",
    "LBFGS",
    "MIFGSM",
    "NIFGSM",
    "OPT",
    "PDPGD",
    "PGD",
    "PGDL0",
    "QEBA",
    "SIFGSM",
    "SLIDE",
    "TABLE",
    "TIFGSM",
    "VMIFGSM",
    "VNIFGSM",
    "APGDTargeted",
    "Bisection",
    "Boundary",
    "BrendelBethge",
    "CWLinf",
    "DeepFool",
    "GenAttack",
    "GeoDA",
    "HopSkipJump",
    "Jitter",
    "OnePixel",
    "OptimizerPGD",
    "ProjectedSinkhorn",
    "RayS",
    "ReColorAdv",
    "Replay",
    "SigmaZero",
    "SignOPT",
    "SparseRS",
    "SpatialGrid",
    "Square",
    "StAdv",
    "SuperDeepFool",
    "SurFree",
    "WassersteinDual",
    "WassersteinFrankWolfe",
    "WorstOfK",
    "find",
    "make",
    "name_of",
    "table",
]
