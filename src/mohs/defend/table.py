"""Defences, by name: what `--with jpeg:75` means. The table is lazy: a name costs an import only when it is used.

A new defence is one file and one line here: a class or function that takes a Model, and settings by keyword, and gives a Model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

from mohs.errors import RequestError, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

    from mohs.models import Model

GRAMMAR = "a defence reads name, name:value or name:setting=value,setting=value, such as jpeg:75 or tv:dropped=0.5,weight=0.03"


@dataclass(frozen=True)
class Row:
    """differentiable, random: as the Model that is made declares them, where the model behind is neither. cost: of a pass,
    beside that of the model. falls: what breaks it. inside: changes the network and not its input."""

    path: str
    paper: str
    differentiable: bool
    random: bool
    cost: str
    falls: str
    inside: bool = False


_GUO = "Guo et al., ICLR 2018, arXiv:1711.00117"
_XU = "Xu et al., NDSS 2018, arXiv:1704.01155"
TABLE = {
    "jpeg": Row("jpeg:JPEG", _GUO, False, False, "a file an image, on the processor", "BPDA with the identity"),
    "bits": Row("bit_depth:BitDepth", _XU, False, False, "a rounding", "BPDA with the identity"),
    "median": Row("median:Median", _XU, True, False, "a sort of window^2 values an entry", "any gradient"),
    "squeeze": Row("squeezing:feature_squeezing", _XU, False, False, "that of bits and median", "BPDA through the rounding"),
    "tv": Row("total_variation:TotalVariation", _GUO, False, True, "100 steps of a solver", "BPDA with the identity and EOT"),
    "resize": Row("resize:ResizePad", "Xie et al., ICLR 2018, arXiv:1711.01991", True, True, "a resampling", "EOT"),
    "noise": Row(
        "noise:GaussianNoise", "Cohen et al., ICML 2019, arXiv:1902.02918, without its vote", True, True, "a draw an entry", "EOT"
    ),
    "smooth": Row(
        "smooth:SmoothedModel", "Cohen et al., ICML 2019, arXiv:1902.02918", True, True, "`samples` passes, one after another",
        "EOT through the mean softmax, beyond what `mohs certify --method smoothing` certifies",
    ),
    "thermometer": Row(
        "thermometer:Thermometer", "Buckman et al., ICLR 2018", False, False, "a first layer of `levels` times the channels",
        "BPDA with a ramp",
    ),
    "kwta": Row(
        "kwta:with_kwta", "Xiao et al., ICLR 2020, arXiv:1905.10510", True, False, "a selection an activation layer",
        "steps as large as the budget; attacks by scores; gradients averaged over noise", inside=True,
    ),
    "defense-gan": Row(
        "gan:with_generator", "Samangouei et al., ICLR 2018, arXiv:1805.06605", False, True,
        "200 forward and backward passes of the generator in each of 10 restarts", "BPDA with the identity; attacks by labels",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A defence of the table with its settings, still without a model: call it on one."""

    name: str
    settings: dict[str, Any]

    def __call__(self, model: Model) -> Model:
        made: Model = factory(self.name)(model, **self.settings)
        return made


def find(name: str) -> Row:
    if name not in TABLE:
        raise UnknownName("defence", name, TABLE)
    return TABLE[name]


def factory(name: str) -> Callable[..., Any]:
    module, _, attribute = find(name).path.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"mohs.defend.{module}"), attribute)
    return found


def settings(name: str) -> dict[str, Any]:
    """The settings of a defence with their defaults, in order; None where one must be given."""
    taken = inspect.signature(factory(name)).parameters.values()
    return {p.name: None if p.default is p.empty else p.default for p in taken if p.kind is p.KEYWORD_ONLY}


def parse_defence(text: str) -> Change:
    """`jpeg:75`, `resize:smallest=8,size=12`; bare values fill the settings in order. Raises UnknownName and RequestError."""
    name, _, rest = text.strip().partition(":")
    known, made = settings(name), factory(name)
    kinds = get_type_hints(vars(made)["__init__"] if isinstance(made, type) else made)
    given: dict[str, Any] = {}
    for place, part in enumerate(filter(None, rest.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            if place >= len(known):
                raise RequestError(f"{text!r} has more values than the settings of {name}: {', '.join(known)}; {GRAMMAR}")
            key, value = list(known)[place], part
        if key.strip() not in known:
            raise UnknownName(f"setting of {name}", key.strip(), known)
        given[key.strip()] = _value(f"{name}: {key.strip()}", value.strip(), kinds[key.strip()])
    missing = [key for key, default in known.items() if default is None and key not in given]
    if missing:
        raise RequestError(f"{name} needs its {' and '.join(missing)}: {name}:{','.join(f'{key}=...' for key in missing)}")
    return Change(name, given)


def defended(model: Model, texts: Sequence[str]) -> Model:
    """The model behind defences, through which an input passes in the order given; what changes the network is done first."""
    changes = [parse_defence(text) for text in texts]
    inside = [change for change in changes if TABLE[change.name].inside]
    for change in (*inside, *(change for change in reversed(changes) if change not in inside)):
        model = change(model)
    return model


def shown(x: Tensor, texts: Sequence[str], bounds: tuple[float, float]) -> Tensor:
    """What a model behind these defences gets to see of inputs x [n, *input], whose shape may be another."""
    import torch

    from mohs.models import Model
    from mohs.rng import Stream

    class Blank(Model):
        """Stands for the model, which is not asked."""

        def logits(self, x: Tensor) -> Tensor:
            raise NotImplementedError

    blank = Blank()
    blank.bounds, blank.classes = bounds, 0
    for change in map(parse_defence, texts):
        if not TABLE[change.name].inside:
            one: Any = change(blank)
            while one is not blank:
                x, one = one.transform(x, Stream.of(0, torch.arange(len(x)))), one.model
    return x


def _value(where: str, text: str, kind: type) -> Any:
    from mohs.threat.grammar import number

    if kind is str:
        return text
    try:
        value = number(text)
    except RequestError:
        raise RequestError(f"{where} should be a number, not {text!r}; {GRAMMAR}") from None
    if kind is int and value != int(value):
        raise RequestError(f"{where} should be a whole number, not {text}")
    return kind(value)
