"""Profiles: named, versioned batteries. Every printed number is stamped with one.

A `decide` stage is run on the examples that earlier stages left standing; a `prove` stage too, and what it proves is attacked by
none of them; a `measure` stage on all, for the distances of the robustness curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from mohs.attacks import name_of
from mohs.attacks.base import Attack
from mohs.attacks.blackbox.parsimonious import Parsimonious
from mohs.attacks.blackbox.simba import SimBADCT
from mohs.attacks.blackbox.square import Square
from mohs.attacks.gradient.anneal_flip import AnnealFlip
from mohs.attacks.gradient.apgd import APGD, APGDTargeted
from mohs.attacks.gradient.pgd import PGD
from mohs.attacks.minimal.bisection import Bisection
from mohs.attacks.minimal.deepfool import DeepFool
from mohs.attacks.minimal.fab import FABT
from mohs.attacks.minimal.fmn import FMN
from mohs.attacks.perceptual.lpa import LPA, FastLPA
from mohs.attacks.perceptual.on_manifold import OnManifold
from mohs.attacks.perceptual.ppgd import PPGD
from mohs.attacks.perceptual.recoloradv import ReColorAdv
from mohs.attacks.sparse.pgd_l0 import PGDL0
from mohs.attacks.sparse.pointwise import Pointwise
from mohs.attacks.sparse.sigma_zero import SigmaZero
from mohs.attacks.sparse.sparse_rs import SparseRS
from mohs.attacks.spatial.grid import SpatialGrid
from mohs.attacks.spatial.patch import AdversarialPatch
from mohs.attacks.spatial.stadv import StAdv
from mohs.attacks.spatial.wasserstein import WassersteinDual
from mohs.attacks.spatial.worst_of_k import WorstOfK
from mohs.attacks.transfer.noisy_copies import NoisyCopies
from mohs.certificates import Certificate
from mohs.errors import RequestError, UnknownName
from mohs.losses import Loss, cross_entropy, dlr, dlr_targeted, logit_difference
from mohs.models import Model, TorchModel
from mohs.threat import (
    L0,
    L1,
    L2,
    FlowThreat,
    Knowledge,
    Linf,
    ManifoldThreat,
    NormThreat,
    PatchThreat,
    PerceptualThreat,
    RecolorThreat,
    SemanticThreat,
    SpatialThreat,
    Threat,
    WassersteinThreat,
)


@dataclass(frozen=True)
class Step:
    """One stage of a profile: attacks run one after the other on the same rows; or, of kind `prove`, a certificate.
    closest_first: in units by falling margin of
    the attempts before, so that a limit of time cuts off what is least likely to fall."""

    name: str
    attacks: tuple[Attack, ...]
    kind: str = "decide"
    note: str | None = None
    closest_first: bool = False
    certificate: Certificate | None = None


@dataclass(frozen=True)
class Profile:
    """A battery: `compose(threat, model)` gives its stages, in order."""

    name: str
    version: str
    words: str
    compose: Callable[[Threat, Model], list[Step]]
    draws: int = 20  # forward passes averaged in one answer of a random model


def _losses(model: Model) -> tuple[Loss, Loss, str | None]:
    """The losses of APGD-DLR and APGD-T for the classes that an attack may reach, and what was replaced."""
    classes = model.classes - (model.rejected is not None)
    if classes >= 4:
        return dlr, dlr_targeted, None
    if classes == 3:
        return (
            dlr,
            logit_difference,
            "the targeted DLR loss needs 4 classes: replaced by the logit difference z_t - z_y",
        )
    return logit_difference, logit_difference, "the DLR losses need 3 and 4 classes: replaced by the logit difference"


def _curve(threat: Threat, candidates: int) -> Step:
    """A short minimal-norm search over all examples; every success is then bisected toward its origin."""
    seeing = threat.knowledge >= Knowledge.GRADIENT and threat.name in DeepFool.sets
    search: tuple[Attack, ...] = (DeepFool(steps=8, candidates=candidates),) if seeing else ()
    if threat.name == "l0":
        search = (Pointwise(queries=200, starts=0),)
    return Step("curve", (*search, Bisection()), kind="measure")


def standard(threat: Threat, model: Model) -> list[Step]:
    """AutoAttack's standard version. Croce & Hein, ICML 2020, arXiv:2003.01690; L1: ICML 2021, arXiv:2103.01208."""
    if threat.name not in ("linf", "l2", "l1"):
        raise RequestError(f"`standard` is AutoAttack's composition, which {threat} is not part of; use quick or deep")
    short, targeted, note = _losses(model)
    if model.random:
        said = "the model is random: AutoAttack's `rand` version, every answer averaged over 20 draws"
        return [
            Step("apgd-ce", (APGD(steps=100, loss=cross_entropy),), note=said),
            Step("apgd-dlr", (APGD(steps=100, loss=short),), note=note),
        ]
    l1 = threat.name == "l1"
    return [
        Step("apgd-ce", (APGD(steps=100, loss=cross_entropy, restarts=5 if l1 else 1, multi_epsilon=l1),)),
        Step("apgd-t", (APGDTargeted(steps=100, targets=5 if l1 else 9, loss=targeted, multi_epsilon=l1),), note=note),
        Step("fab-t", (FABT(steps=100, targets=9),)),
        Step("square", (Square(queries=5000, p=0.8),)),
        _curve(threat, 4),
    ]


def quick(threat: Threat, model: Model) -> list[Step]:
    """Minutes, not hours: a few targeted steps find what most attacks find."""
    if not isinstance(threat, NormThreat):
        return _transformed(threat, points=10, pgd=PGD(steps=20, restarts=2), grid=SpatialGrid(angles=11, shifts=3))
    _, targeted, note = _losses(model)
    if threat.name == "l0":
        return [
            Step("pgd", (PGD(steps=20, step_size=1.0, loss=logit_difference),)),
            Step("sigma-zero", (SigmaZero(steps=50),)),
            Step("sparse-rs", (SparseRS(queries=1000),)),
            _curve(threat, 4),
        ]
    l1 = threat.name == "l1"
    return [
        Step("apgd-ce", (APGD(steps=10, loss=cross_entropy, multi_epsilon=l1),)),
        Step("apgd-t", (APGDTargeted(steps=20, targets=3, loss=targeted, multi_epsilon=l1),), note=note),
        _curve(threat, 4),
    ]


def deep(threat: Threat, model: Model) -> list[Step]:
    """`standard`, then on what it left, closest margins first: the attacks of AutoAttack's plus version with every target and
    more restarts, noisy copies of the model, and in Linf the search across kinks that outdoes them where gradients are flat."""
    if not isinstance(threat, NormThreat):
        return _transformed(threat, points=100, pgd=PGD(steps=100, step_size=0.05, restarts=10), grid=SpatialGrid(), crafted=True)
    short, targeted, note = _losses(model)
    if threat.name == "l0":
        return [
            Step("pgd", (PGD(steps=100, step_size=1.0, loss=logit_difference, restarts=5),)),
            Step("pgd-ce", (PGD(steps=100, step_size=1.0, loss=cross_entropy, restarts=5),)),
            Step("sigma-zero", (SigmaZero(steps=1000),)),
            Step("fmn", (FMN(steps=500),), closest_first=True),
            Step("pgd-l0", (PGDL0(steps=100, restarts=5),), closest_first=True),
            Step("sparse-rs", (SparseRS(queries=10000, restarts=2),), closest_first=True),
            _curve(threat, 9),
        ]
    *decide, curve = standard(threat, model)
    if model.random:
        return [*decide, curve]
    l1 = threat.name == "l1"
    beyond = [
        Step("apgd-ce x5", (APGD(steps=100, loss=cross_entropy, restarts=5, multi_epsilon=l1),)),
        Step("apgd-dlr x5", (APGD(steps=100, loss=short, restarts=5, multi_epsilon=l1),), note=note),
        Step(
            "apgd-t all",
            (APGDTargeted(steps=200, targets=model.classes - 1, loss=targeted, multi_epsilon=l1),),
            note=note,
        ),
        Step("apgd-margin", (APGDTargeted(steps=200, targets=9, loss=logit_difference, multi_epsilon=l1),)),
        Step("fab-t x5", (FABT(steps=100, targets=9, restarts=5),)),
        Step("noisy-copies", (NoisyCopies(restarts=5),)),
        *([Step("anneal-flip", (AnnealFlip(),))] if threat.name == "linf" else []),
    ]
    return [*decide, *(replace(step, closest_first=True) for step in beyond), curve]


def scores(threat: Threat, model: Model) -> list[Step]:
    """What sees no gradient, the fewest queries first; it asks for scores alone, whatever the threat grants."""
    made: dict[str, tuple[Step, ...]] = {
        "linf": (Step("parsimonious", (Parsimonious(queries=5000, start=0.5),)), _square(threat, 5000)),
        "l2": (_square(threat, 5000), Step("simba-dct", (SimBADCT(queries=5000),))),
        "l1": (_square(threat, 5000),),
        "l0": (Step("sparse-rs", (SparseRS(queries=10000),)),),
        "spatial": (Step("worst-of-k", (WorstOfK(k=100),)), Step("spatial-grid", (SpatialGrid(),))),
        "semantic": (Step("worst-of-k", (WorstOfK(k=1000),)),),
    }
    if threat.name not in made:
        raise RequestError(f"no attack by scores alone moves in {threat}; use quick or deep, which take gradients")
    return [*made[threat.name], Step("curve", (Bisection(),), kind="measure")]


def sighted(profile: Profile, threats: Sequence[Threat], model: Model) -> Profile:
    """`scores` in place of a profile of gradients, under every threat where the adversary sees scores alone."""

    def blind(threat: Threat) -> bool:
        return min(threat.knowledge, model.gives) == Knowledge.SCORES

    if profile.name == "scores" or not any(map(blind, threats)):
        return profile
    instead = PROFILES["scores"]
    note = f"no gradient is to be had: the profile `scores` in place of `{profile.name}`"

    def compose(threat: Threat, model: Model) -> list[Step]:
        if not blind(threat):
            return profile.compose(threat, model)
        first, *others = instead.compose(threat, model)
        return [replace(first, note=note), *others]

    if all(map(blind, threats)):
        return replace(instead, words=f"{instead.words}; asked for as `{profile.name}`", compose=compose)
    return replace(profile, name=f"{profile.name}/scores", compose=compose)


def joined(profile: Profile, chosen: Sequence[Attack]) -> Profile:
    """A profile with attacks of the caller's, that decide on what its own left standing."""
    names = [name_of(attack) for attack in chosen]

    def compose(threat: Threat, model: Model) -> list[Step]:
        own = profile.compose(threat, model)
        more = [
            Step(name, (attack,), note="asked for beside the profile's own") for name, attack in zip(names, chosen, strict=True)
        ]
        measures = [step for step in own if step.kind == "measure"]
        return [*(step for step in own if step.kind != "measure"), *more, *measures]

    return replace(profile, name="+".join([profile.name, *names]), compose=compose)


def _transformed(threat: Threat, points: int, pgd: PGD, grid: SpatialGrid, crafted: bool = False) -> list[Step]:
    """Random points where parameters are few, gradients, and where `crafted` or cheap the attack made for the set."""
    made = {
        "spatial": [Step("worst-of-k", (WorstOfK(k=points),)), Step("pgd", (pgd,)), Step("spatial-grid", (grid,))],
        "semantic": [Step("worst-of-k", (WorstOfK(k=points),)), Step("pgd", (pgd,))],
        "flow": [Step("pgd", (pgd,)), *([Step("stadv", (StAdv(tau=0.001),))] if crafted else [])],
        "recolor": [Step("pgd", (pgd,)), *([Step("recoloradv", (ReColorAdv(),))] if crafted else [])],
        "wasserstein": [Step("wasserstein-dual", (WassersteinDual(steps=2 * pgd.steps),)), Step("pgd", (pgd,))],
        "patch": [Step("patch", (AdversarialPatch(restarts=5 if crafted else 1),)), Step("pgd", (pgd,))],
        "manifold": [Step("pgd", (pgd,)), *([Step("on-manifold", (OnManifold(),))] if crafted else [])],
        "perceptual": [Step("ppgd", (PPGD(),)), Step("lpa", (LPA(),)), *(_patient() if crafted else [])],
        "composite": [Step("pgd", (pgd,))],
    }
    return [*made[threat.name], _curve(threat, 0)]


def _patient() -> list[Step]:
    """The perceptual attacks at length."""
    return [
        Step("fast-lpa", (FastLPA(),)),
        Step("ppgd x40", (PPGD(steps=40, step_size=0.1, restarts=3),)),
        Step("lpa x5", (LPA(steps=40, restarts=5),)),
    ]


def _square(threat: Threat, queries: int) -> Step:
    return Step("square", (Square(queries=queries, p=0.8, rescale_schedule=True),))


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "quick",
            "2",
            "a short battery of targeted APGD: an upper bound in seconds to minutes, to be confirmed by `standard`",
            quick,
        ),
        Profile(
            "standard",
            "1",
            "AutoAttack's standard version: composition, budgets and order, comparable with RobustBench",
            standard,
        ),
        Profile(
            "deep",
            "3",
            "`standard`, then AutoAttack's plus attacks, every target, more restarts and a search across kinks",
            deep,
        ),
        Profile(
            "scores",
            "1",
            "for a model that gives scores and no gradient: random and local search, an upper bound that gradients may lower",
            scores,
        ),
    )
}


def find_profile(name: str) -> Profile:
    if name not in PROFILES:
        raise UnknownName("profile", name, PROFILES)
    return PROFILES[name]


EVERY: tuple[Threat, ...] = (
    Linf(0.1),
    L2(0.5),
    L1(12.0),
    L0(20.0),
    SpatialThreat(rotation=30.0, translation=3.0),
    SemanticThreat(hue=0.1, saturation=0.2, brightness=0.1, contrast=0.2),
    FlowThreat(epsilon=0.05),
    RecolorThreat(epsilon=0.06),
    WassersteinThreat(epsilon=0.01),
    PerceptualThreat(0.5),
    PatchThreat(size=(5, 5)),
    ManifoldThreat(epsilon=0.3),
)


class TenClasses(TorchModel):
    """Stands for a module of ten classes where none is asked."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), classes=10)


def outline(profile: Profile) -> dict[str, str]:
    """The stages of a profile for each set, in short, as a ten-class model would be given."""
    found = {}
    for threat in EVERY:
        try:
            steps = profile.compose(threat, TenClasses())
        except RequestError as error:
            found[threat.name] = f"not defined: {error}"
            continue
        found[threat.name] = ", ".join(f"{s.name} ({_short(s)})" if s.kind == "decide" else f"[{s.name}]" for s in steps)
    return found


def _short(step: Step) -> str:
    (attack,) = step.attacks
    fields = {
        "steps": "steps",
        "queries": "queries",
        "k": "points",
        "angles": "angles",
        "shifts": "shifts",
        "targets": "targets",
        "restarts": "restarts",
    }
    return " x ".join(f"{getattr(attack, name)} {word}" for name, word in fields.items() if getattr(attack, name, 1) != 1)
