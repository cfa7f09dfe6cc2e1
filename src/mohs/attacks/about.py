"""What an attack or a defence says of itself: its docstring in parts, for `mohs attacks NAME` and the documentation."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mohs.attacks.base import Attack

WHEN = "When to use: "


@dataclass(frozen=True)
class About:
    """method: paragraphs, the first of which says what it does. when: when to use it. example: a doctest. Empty where the
    docstring has none."""

    method: tuple[str, ...]
    when: str
    example: str


def about(documented: Any) -> About:
    """Of a class or a function, from its own docstring."""
    parts = inspect.cleandoc(documented.__doc__ or "").split("\n\n")
    method = tuple(_joined(part) for part in parts if not part.startswith((">>>", WHEN)))
    when = next((_joined(part).removeprefix(WHEN) for part in parts if part.startswith(WHEN)), "")
    return About(method, when, "\n\n".join(part for part in parts if part.startswith(">>>")))


def family(kind: type[Attack]) -> str:
    """The folder of an attack's module, such as `gradient`."""
    return kind.__module__.rpartition(".")[0].rpartition(".")[2]


def linked(text: str) -> str:
    """A text in which every arXiv id is a link of Markdown."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _joined(part: str) -> str:
    return " ".join(part.split())
