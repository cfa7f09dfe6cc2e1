"""Attacks, by name. The table is lazy: a name costs an import only when it is used.

A new attack is one file and one line here. Packages add theirs through the entry-point group `mohs.attacks`, as
`name = "package.module:Class"`. Those of Foolbox, ART and torchattacks are `foolbox:Class`, `art:Class`, `torchattacks:Class`.
"""

from __future__ import annotations

import shlex
from functools import cache
from importlib import import_module, metadata
from typing import TYPE_CHECKING

from mohs.attacks import interop
from mohs.errors import RequestError, UnknownName

if TYPE_CHECKING:
    from mohs.attacks.base import Attack
    from mohs.attacks.blackbox.bandits import Bandits
    from mohs.attacks.blackbox.boundary import Boundary
    from mohs.attacks.blackbox.gen_attack import GenAttack
    from mohs.attacks.blackbox.geoda import GeoDA
    from mohs.attacks.blackbox.hop_skip_jump import HopSkipJump
    from mohs.attacks.blackbox.hybrid import Hybrid, HybridLabel
    from mohs.attacks.blackbox.nes import NES
    from mohs.attacks.blackbox.opt import OPT, SignOPT
    from mohs.attacks.blackbox.parsimonious import Parsimonious
    from mohs.attacks.blackbox.qeba import QEBA
    from mohs.attacks.blackbox.rays import RayS
    from mohs.attacks.blackbox.simba import SimBA, SimBADCT
    from mohs.attacks.blackbox.spsa import SPSA
    from mohs.attacks.blackbox.square import Square
    from mohs.attacks.blackbox.surfree import SurFree
    from mohs.attacks.blackbox.zoo import ZOO
    from mohs.attacks.gradient.acg import ACG
    from mohs.attacks.gradient.anneal_flip import AnnealFlip
    from mohs.attacks.gradient.apgd import APGD, APGDTargeted
    from mohs.attacks.gradient.fgsm import FGSM
    from mohs.attacks.gradient.from_bound import FromBound
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
    from mohs.attacks.minimal.squeeze import Squeeze
    from mohs.attacks.minimal.superdeepfool import SuperDeepFool
    from mohs.attacks.perceptual.lpa import LPA, FastLPA
    from mohs.attacks.perceptual.on_manifold import OnManifold
    from mohs.attacks.perceptual.ppgd import PPGD
    from mohs.attacks.perceptual.recoloradv import ReColorAdv
    from mohs.attacks.sparse.one_pixel import OnePixel
    from mohs.attacks.sparse.pgd_l0 import PGDL0
    from mohs.attacks.sparse.pointwise import Pointwise
    from mohs.attacks.sparse.sigma_zero import SigmaZero
    from mohs.attacks.sparse.sparse_rs import SparseRS
    from mohs.attacks.spatial.grid import SpatialGrid
    from mohs.attacks.spatial.patch import AdversarialPatch
    from mohs.attacks.spatial.sinkhorn import ProjectedSinkhorn
    from mohs.attacks.spatial.stadv import StAdv
    from mohs.attacks.spatial.wasserstein import WassersteinDual, WassersteinFrankWolfe
    from mohs.attacks.spatial.worst_of_k import WorstOfK
    from mohs.attacks.transfer.fgsm import DIFGSM, SIFGSM, TIFGSM, VMIFGSM, VNIFGSM
    from mohs.attacks.transfer.noisy_copies import NoisyCopies
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
    "anneal-flip": "mohs.attacks.gradient.anneal_flip:AnnealFlip",
    "slide": "mohs.attacks.gradient.slide:SLIDE",
    "pgd-l0": "mohs.attacks.sparse.pgd_l0:PGDL0",
    "sparse-rs": "mohs.attacks.sparse.sparse_rs:SparseRS",
    "pointwise": "mohs.attacks.sparse.pointwise:Pointwise",
    "di-fgsm": "mohs.attacks.transfer.fgsm:DIFGSM",
    "ti-fgsm": "mohs.attacks.transfer.fgsm:TIFGSM",
    "si-fgsm": "mohs.attacks.transfer.fgsm:SIFGSM",
    "vmi-fgsm": "mohs.attacks.transfer.fgsm:VMIFGSM",
    "vni-fgsm": "mohs.attacks.transfer.fgsm:VNIFGSM",
    "from-bound": "mohs.attacks.gradient.from_bound:FromBound",
    "noisy-copies": "mohs.attacks.transfer.noisy_copies:NoisyCopies",
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
    "squeeze": "mohs.attacks.minimal.squeeze:Squeeze",
    "bisection": "mohs.attacks.minimal.bisection:Bisection",
    "replay": "mohs.attacks.universal.replay:Replay",
    "spatial-grid": "mohs.attacks.spatial.grid:SpatialGrid",
    "worst-of-k": "mohs.attacks.spatial.worst_of_k:WorstOfK",
    "stadv": "mohs.attacks.spatial.stadv:StAdv",
    "wasserstein-sinkhorn": "mohs.attacks.spatial.sinkhorn:ProjectedSinkhorn",
    "wasserstein-dual": "mohs.attacks.spatial.wasserstein:WassersteinDual",
    "wasserstein-frank-wolfe": "mohs.attacks.spatial.wasserstein:WassersteinFrankWolfe",
    "recoloradv": "mohs.attacks.perceptual.recoloradv:ReColorAdv",
    "ppgd": "mohs.attacks.perceptual.ppgd:PPGD",
    "lpa": "mohs.attacks.perceptual.lpa:LPA",
    "fast-lpa": "mohs.attacks.perceptual.lpa:FastLPA",
    "on-manifold": "mohs.attacks.perceptual.on_manifold:OnManifold",
    "adversarial-patch": "mohs.attacks.spatial.patch:AdversarialPatch",
    "one-pixel": "mohs.attacks.sparse.one_pixel:OnePixel",
    "nes": "mohs.attacks.blackbox.nes:NES",
    "spsa": "mohs.attacks.blackbox.spsa:SPSA",
    "simba": "mohs.attacks.blackbox.simba:SimBA",
    "simba-dct": "mohs.attacks.blackbox.simba:SimBADCT",
    "parsimonious": "mohs.attacks.blackbox.parsimonious:Parsimonious",
    "bandits": "mohs.attacks.blackbox.bandits:Bandits",
    "zoo": "mohs.attacks.blackbox.zoo:ZOO",
    "gen-attack": "mohs.attacks.blackbox.gen_attack:GenAttack",
    "hybrid": "mohs.attacks.blackbox.hybrid:Hybrid",
    "hybrid-label": "mohs.attacks.blackbox.hybrid:HybridLabel",
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
    if interop.is_foreign(name):
        return interop.find(name)
    if name not in table():
        raise UnknownName("attack", name, table())
    return _load(table()[name])


def name_of(attack: Attack | type[Attack]) -> str:
    """The name of an attack's class in the table."""
    kind = attack if isinstance(attack, type) else type(attack)
    if (title := getattr(kind, "title", None)) is not None:
        return str(title)
    path = f"{kind.__module__}:{kind.__qualname__}"
    for name, known in table().items():
        if known == path:
            return name
    raise RequestError(f"the attack {path} is not in the table; register it in the entry-point group mohs.attacks")


def make(spec: dict[str, object]) -> Attack:
    """An attack from {"attack": name, option: value, ...}."""
    options = {key: value for key, value in spec.items() if key != "attack"}
    return find(str(spec["attack"])).from_spec(options)


def parse(text: str) -> Attack:
    """An attack from a line: its name, and options as `steps=100`, apart by spaces."""
    name, *words = shlex.split(text) or [""]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    if len(options) < len(words):
        raise RequestError(f"the attack {text!r} should read NAME option=value ..., such as 'pgd steps=100'")
    return make({"attack": name, **{key.replace("-", "_"): value for key, value in options.items()}})


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
    "LPA",
    "MIFGSM",
    "NES",
    "NIFGSM",
    "OPT",
    "PDPGD",
    "PGD",
    "PGDL0",
    "PPGD",
    "QEBA",
    "SIFGSM",
    "SLIDE",
    "SPSA",
    "TABLE",
    "TIFGSM",
    "VMIFGSM",
    "VNIFGSM",
    "ZOO",
    "APGDTargeted",
    "AdversarialPatch",
    "AnnealFlip",
    "Bandits",
    "Bisection",
    "Boundary",
    "BrendelBethge",
    "CWLinf",
    "DeepFool",
    "FastLPA",
    "FromBound",
    "GenAttack",
    "GeoDA",
    "HopSkipJump",
    "Hybrid",
    "HybridLabel",
    "Jitter",
    "NoisyCopies",
    "OnManifold",
    "OnePixel",
    "OptimizerPGD",
    "Parsimonious",
    "Pointwise",
    "ProjectedSinkhorn",
    "RayS",
    "ReColorAdv",
    "Replay",
    "SigmaZero",
    "SignOPT",
    "SimBA",
    "SimBADCT",
    "SparseRS",
    "SpatialGrid",
    "Square",
    "Squeeze",
    "StAdv",
    "SuperDeepFool",
    "SurFree",
    "WassersteinDual",
    "WassersteinFrankWolfe",
    "WorstOfK",
    "find",
    "make",
    "name_of",
    "parse",
    "table",
]
