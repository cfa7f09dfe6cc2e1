"""The short grammar of threats: `linf:8/255`, `l2:0.5`, `l1:12`, `l0:20px`, `flow:0.05`, `recolor:0.06`, `wasserstein:0.01`,
`perceptual:0.5` (`+layers:conv1,conv2` of the network it sees with), `patch:5x5` or `patch:10%` (`+turn:22.5deg`,
`+scale:0.5-1`, `+place:0,3`, `+opacity:0.5`), `manifold:0.3`;
what a transformation may do stands side by side, `rotation:30deg+translation:3px`,
`hue:0.1+saturation:0.2+brightness:0.1+contrast:0.2`; sets of several kinds make one, `recolor:0.06+flow:0.05+linf:8/255`;
and constraints are added by `+`:
`linf:8/255+quantise:8bit+mask:mutable.npy+limit:limit.npy+bounds:bounds.npz+knowledge:scores`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from mohs.errors import ThreatError, UnknownName
from mohs.threat.colour import RecolorThreat, SemanticThreat
from mohs.threat.composite import CompositeThreat
from mohs.threat.constraints import Constraints
from mohs.threat.manifold import ManifoldThreat
from mohs.threat.patch import EXAMPLE as PATCHES
from mohs.threat.patch import PatchThreat
from mohs.threat.perceptual import PerceptualThreat
from mohs.threat.spatial import FlowThreat, SpatialThreat
from mohs.threat.threat import L0, L1, L2, Knowledge, Linf, NormThreat, Threat
from mohs.threat.transform import TransformThreat
from mohs.threat.wasserstein import WassersteinThreat

EXAMPLES = "examples: linf:8/255, l2:0.5, l1:12, l0:20px, rotation:30deg+translation:3px, linf:8/255+quantise:8bit"


def number(text: str) -> float:
    """A number or a fraction such as 8/255; `inf` for no budget."""
    try:
        return math.inf if text == "inf" else float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        raise ThreatError(f"{text!r} is not a number or a fraction; {EXAMPLES}") from None


def _l0(text: str) -> L0:
    return L0(number(text.removesuffix("px")), pixels=text.endswith("px"))


def _patch(text: str) -> PatchThreat:
    if text.endswith("%"):
        return PatchThreat(share=number(text[:-1]) / 100)
    return PatchThreat(size=_whole(text, "x"))


def _whole(text: str, between: str) -> tuple[int, int]:
    """Two whole numbers."""
    one, _, two = text.partition(between)
    if not (one.strip().isdigit() and two.strip().isdigit()):
        raise ThreatError(f"{text!r} should be two whole numbers with {between!r} between them; {PATCHES}")
    return int(one), int(two)


def _of_patch(threat: PatchThreat, name: str, value: str) -> PatchThreat:
    match name:
        case "turn":
            return replace(threat, turn=number(value.removesuffix("deg")))
        case "scale":
            low, _, high = value.partition("-")
            return replace(threat, scale=(number(low), number(high)))
        case "place":
            return replace(threat, place=_whole(value, ","))
    return replace(threat, epsilon=number(value))


SETS: dict[str, Callable[[str], Threat]] = {
    "linf": lambda text: Linf(number(text)),
    "l2": lambda text: L2(number(text)),
    "l1": lambda text: L1(number(text)),
    "l0": _l0,
    "flow": lambda text: FlowThreat(epsilon=number(text)),
    "recolor": lambda text: RecolorThreat(epsilon=number(text)),
    "wasserstein": lambda text: WassersteinThreat(epsilon=number(text)),
    "patch": _patch,
    "manifold": lambda text: ManifoldThreat(epsilon=number(text)),
    "perceptual": lambda text: PerceptualThreat(number(text)),
}
PARTS: dict[str, tuple[type[TransformThreat], str]] = {  # of a set of several budgets; and the unit a budget may have
    "rotation": (SpatialThreat, "deg"),
    "translation": (SpatialThreat, "px"),
    "hue": (SemanticThreat, ""),
    "saturation": (SemanticThreat, ""),
    "brightness": (SemanticThreat, ""),
    "contrast": (SemanticThreat, ""),
}
LIMITS = ("quantise", "mask", "limit", "bounds", "knowledge")
JOINED = (
    "joined by + are rotation and translation; hue, saturation, brightness and contrast; these two, flow, recolor and one "
    f"norm, once each; and any set with {', '.join(LIMITS)}"
)


def parse_threat(text: str) -> Threat:
    """A threat from its grammar; ThreatError or UnknownName says what was wrong and shows examples."""
    parts = [part.strip() for part in text.split("+")]
    names = [part.partition(":")[0] for part in parts]
    if names[0] not in SETS and names[0] not in PARTS:
        raise UnknownName("threat", names[0], (*SETS, *PARTS))
    sets = [part for part, name in zip(parts, names, strict=True) if name in SETS or name in PARTS]
    threat = _set(text, sets)
    for part in parts:
        if part not in sets:
            threat = _constrain(threat, part)
    return threat


def _set(text: str, parts: list[str]) -> Threat:
    """The one set that these parts describe: parts of one kind make one set, sets of several kinds a composite."""
    budgets: dict[type[TransformThreat], dict[str, float]] = {}
    made: list[Threat | type[TransformThreat]] = []  # a kind stands where the first of its parts does
    for part in parts:
        name, _, value = part.partition(":")
        if not value:
            raise ThreatError(f"the threat {text!r} has no budget; {EXAMPLES}")
        if name in SETS:
            made.append(SETS[name](value))
            continue
        kind, unit = PARTS[name]
        if kind not in budgets:
            made.append(kind)
        if name in budgets.setdefault(kind, {}):
            raise ThreatError(f"the threat {text!r} says {name} twice")
        budgets[kind][name] = number(value.removesuffix(unit))
    sets = [each if isinstance(each, Threat) else each(**budgets[each]) for each in made]  # type: ignore[arg-type]
    if len(sets) == 1:
        return sets[0]
    kinds = ["a norm" if isinstance(each, NormThreat) else each.name for each in sets]
    if len(set(kinds)) < len(kinds) or not all(map(_joins, sets)):
        raise ThreatError(f"the threat {text!r} names sets that do not go together: {JOINED}")
    return CompositeThreat(parts=tuple(sets))


def _joins(threat: Threat) -> bool:
    return isinstance(threat, NormThreat | TransformThreat) and not isinstance(threat, ManifoldThreat)


def _constrain(threat: Threat, part: str) -> Threat:
    name, _, value = part.partition(":")
    match name:
        case "quantise":
            bits = value.removesuffix("bit")
            if not bits.isdigit() or not 1 <= int(bits) <= 16:
                raise ThreatError(f"{part!r} should read quantise:Nbit with N from 1 to 16, such as quantise:8bit")
            return _with(threat, replace(threat.constraints, bits=int(bits)))
        case "mask":
            return _with(threat, replace(threat.constraints, mask=_one(value).bool()))
        case "limit":
            return _with(threat, replace(threat.constraints, limit=_one(value).float()))
        case "bounds":
            arrays = _array(value)
            if not {"low", "high"} <= arrays.keys():
                raise ThreatError(f"{value} holds {', '.join(arrays)}; bounds need an .npz with the arrays low and high")
            low, high = arrays["low"].float(), arrays["high"].float()
            return _with(threat, replace(threat.constraints, low=low, high=high))
        case "layers" if isinstance(threat, PerceptualThreat):
            return replace(threat, layers=tuple(layer.strip() for layer in value.split(",")))
        case "turn" | "scale" | "place" | "opacity" if isinstance(threat, PatchThreat):
            return _of_patch(threat, name, value)
        case "knowledge":
            return replace(threat, knowledge=parse_knowledge(value))
    raise UnknownName("constraint", name, (*LIMITS, *SETS, *PARTS))


def parse_knowledge(text: str) -> Knowledge:
    names = {str(level): level for level in Knowledge}
    if text not in names:
        raise UnknownName("knowledge", text, names)
    return names[text]


def _with(threat: Threat, constraints: Constraints) -> Threat:
    return replace(threat, constraints=constraints)


def _array(path: str) -> dict[str, Tensor]:
    """The arrays of an .npz, or the one of an .npy as `value`; never unpickles."""
    if not Path(path).is_file():
        raise ThreatError(f"the constraint file {path} does not exist; it is an .npy or .npz array of the input's shape")
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"value": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    except (ValueError, TypeError, EOFError, BadZipFile) as error:  # a pickle inside, texts, cut short
        raise ThreatError(f"{path} is not a plain .npy or .npz array: {error}") from None


def _one(path: str) -> Tensor:
    """The array of an .npy, or the only one of an .npz."""
    arrays = _array(path)
    if len(arrays) != 1:
        raise ThreatError(f"{path} holds {', '.join(arrays)}; one array of the input's shape is wanted")
    return next(iter(arrays.values()))
