"""Settings: hyper-parameters as plain data, of attacks and crafts alike."""

from __future__ import annotations

import dataclasses
from typing import Self

from mohs.errors import RequestError, UnknownName
from mohs.losses import by_name, name_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A frozen dataclass of numbers, texts, enums and named functions."""

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
