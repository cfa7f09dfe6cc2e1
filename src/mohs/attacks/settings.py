"""Settings: hyper-parameters as plain data, of attacks and crafts alike."""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral, Real
from typing import Self

from mohs.errors import RequestError, UnknownName
from mohs.losses import by_name, name_of

PERHAPS_NONE = {"starts", "bisections", "ascents", "decays", "pictured"}  # counts of what may be left out
SIGNED = {"theta"}
LENGTHS = {
    "step_size",
    "rate",
    "learning_rate",
    "lr",
    "sigma",
    "temperature",
    "radius",
    "span",
    "cw_rate",
    "seconds",
}  # nothing moves, or all is divided by 0, without


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A frozen dataclass of numbers, texts, enums and named functions.

    A number is of its default's type and, but for SIGNED ones, never below 0. A count is 1 at least and a length above 0,
    unless their default is 0: no steps, or steps of no length, leave everything standing, and that would read as robustness.
    RequestError otherwise.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            wanted = _unfit(field, getattr(self, field.name))
            if wanted:
                raise RequestError(f"{type(self).__name__}: {field.name} should be {wanted}, not {getattr(self, field.name)!r}")

    def spec(self) -> dict[str, object]:
        """The hyper-parameters as plain data; `from_spec` of the class gives an equal one."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: name_of(value) if callable(value) else value for name, value in values.items()}

    @classmethod
    def from_spec(cls, spec: dict[str, object]) -> Self:
        """From plain data; UnknownName for a field there is not, RequestError for a value that does not fit."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in spec:
            if name not in fields:
                raise UnknownName(f"option of {cls.__name__}", name, fields)
        return cls(**{name: _value(cls.__name__, fields[name], value) for name, value in spec.items()})


def _unfit(field: dataclasses.Field[object], value: object) -> str:
    """What a number should be and is not; nothing where it fits."""
    default = field.default
    if isinstance(default, bool) or not isinstance(default, int | float) or field.name in SIGNED:
        return ""
    if isinstance(default, int):
        least = 1 if default > 0 and field.name not in PERHAPS_NONE else 0
        fits = type(value) is not bool and isinstance(value, Integral) and float(value) >= least
        return "" if fits else f"a whole number, {least} or more"
    if default > 0 and field.name in LENGTHS:
        return "" if isinstance(value, Real) and 0 < float(value) < math.inf else "a finite number above 0"
    return "" if isinstance(value, Real) and 0 <= float(value) < math.inf else "a finite number, 0 or more"


def _value(owner: str, field: dataclasses.Field[object], value: object) -> object:
    """A value of a spec or of the command line, in the type of the field's default."""
    default = field.default
    if callable(default):
        return by_name(value) if isinstance(value, str) else value
    kind = type(default)
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(value, str) and isinstance(default, tuple) and default:
        return _values(owner, field.name, value, type(default[0]))
    if isinstance(value, str) and kind is bool and value.lower() in ("true", "false", "yes", "no"):
        return value.lower() in ("true", "yes")
    if isinstance(value, str) and kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            raise RequestError(f"{owner}: {field.name} should be {kind.__name__}, not {value!r}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not None and default is not dataclasses.MISSING and not isinstance(value, kind):
        raise RequestError(f"{owner}: {field.name} should be {kind.__name__}, not {value!r}")
    return value


def _values(owner: str, name: str, text: str, kind: type) -> tuple[object, ...]:
    """`8,32,128`, in the type of the default's first value."""
    try:
        return tuple(kind(part.strip()) for part in text.split(","))
    except ValueError:
        raise RequestError(f"{owner}: {name} should be {kind.__name__}s parted by commas, not {text!r}") from None
