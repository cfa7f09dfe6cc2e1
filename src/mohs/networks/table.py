"""The table of networks by name."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from mohs.errors import RequestError, UnknownName
from mohs.networks.parts import Activation, Normalise, activation, initialise
from mohs.networks.plain import mlp, wk_cnn
from mohs.networks.preact import preact_resnet18, wide_resnet
from mohs.networks.resnet import resnet
from mohs.networks.vision import TINY, vit, vit_of


@dataclass(frozen=True)
class Family:
    """name: a regular expression whose numbers go to `make`. known: those of its names that people use. images: whether
    it takes nothing but inputs [channels, height, width]."""

    name: str
    known: tuple[str, ...]
    make: Callable[..., nn.Module]
    norm: str = "batch"
    activation: str = "relu"
    images: bool = True


FAMILIES = (
    Family(r"resnet(\d+)", ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"), resnet),
    Family(r"resnet(\d+)-noskip", ("resnet20-noskip", "resnet56-noskip", "resnet110-noskip"), partial(resnet, skip=False)),
    Family(r"preact-resnet18", ("preact-resnet18",), preact_resnet18),
    Family(r"wrn-(\d+)-(\d+)", ("wrn-16-4", "wrn-28-10", "wrn-34-10", "wrn-34-20", "wrn-70-16"), wide_resnet),
    Family(r"wk-cnn", ("wk-cnn",), wk_cnn, norm="none"),
    Family(r"mlp((?:-\d+)*)", ("mlp", "mlp-100-100"), mlp, norm="none", images=False),
    Family(r"vit", ("vit",), vit, norm="layer", activation="gelu"),
    Family(r"vit-tiny", ("vit-tiny",), partial(vit, size=TINY), norm="layer", activation="gelu"),
    Family(r"vit-(\d+)-(\d+)", ("vit-2-32",), vit_of, norm="layer", activation="gelu"),
    Family(r"convformer", ("convformer",), partial(vit, attention=False), norm="layer", activation="gelu"),
    Family(r"convformer-(\d+)-(\d+)", ("convformer-2-32",), partial(vit_of, attention=False), norm="layer", activation="gelu"),
    Family(r"convformer-tiny", ("convformer-tiny",), partial(vit, size=TINY, attention=False), norm="layer", activation="gelu"),
)
NAMES = tuple(name for family in FAMILIES for name in family.known)


def is_network(name: str) -> bool:
    """Whether `build` knows the name."""
    return any(re.fullmatch(family.name, name) for family in FAMILIES)


def build(
    name: str,
    *,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    activation: str | Activation | None = None,
    norm: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """A network by its name, in training mode: logits [n, classes] of inputs [n, *shape] in [0, 1].

    mean, std: an entry a channel, for the normalisation that is its first layer (`statistics` measures them); without them it
    has none. activation: `relu`, `silu`, `softplus:10`, `smooth-relu` and so on, or what makes one. norm: `batch`, `group` or
    `none`. Both are the family's own where not given. seed: of the weights: the same seed gives the same bits, and torch's
    global generator is left as it was. Raises RequestError.

    >>> sum(p.numel() for p in build("resnet20", shape=(3, 32, 32), classes=10).parameters())
    269722
    """
    with torch.random.fork_rng(devices=[]):  # layers draw as they are made
        module = assemble(name, shape, classes, mean, std, activation, norm)
    initialise(module.get_submodule("network"), seed)
    return module


def assemble(
    name: str,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    act: str | Activation | None = None,
    norm: str | None = None,
) -> nn.Module:
    """The network with whatever weights torch gives it, also where there are none (torch.device("meta"))."""
    family, numbers = _find(name)
    if family.images and len(shape) != 3:
        raise RequestError(f"{name} takes images [channels, height, width], and the inputs are {list(shape)}: mlp takes any")
    if classes < 2:
        raise RequestError(f"a classifier tells 2 classes or more apart, not {classes}")
    if (mean is None) != (std is None):
        raise RequestError("a normalisation needs a mean and a std: give both, or neither")
    chosen = family.activation if act is None else act
    maker = activation(chosen) if isinstance(chosen, str) else chosen
    kind = family.norm if norm is None else norm
    network = family.make(*numbers, shape=tuple(shape), classes=classes, act=maker, norm=kind)
    first = nn.Identity() if mean is None or std is None else Normalise(mean, std, shape)
    return nn.Sequential(OrderedDict(normalise=first, network=network))


def _find(name: str) -> tuple[Family, list[int]]:
    for family in FAMILIES:
        found = re.fullmatch(family.name, name)
        if found:
            return family, [int(number) for group in found.groups() for number in re.findall(r"\d+", group)]
    raise UnknownName("network", name, NAMES)
