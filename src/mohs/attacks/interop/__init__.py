"""Attacks of other libraries, by names such as `foolbox:HopSkipJumpAttack`: the library decides what to ask, the Oracle
answers, counts and judges."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from mohs.errors import UnknownName

if TYPE_CHECKING:
    from mohs.attacks.interop.base import Foreign

LIBRARIES = {
    "foolbox": "mohs.attacks.interop.foolbox:Foolbox",
    "art": "mohs.attacks.interop.art:ART",
    "torchattacks": "mohs.attacks.interop.torchattacks:TorchAttacks",
}


def is_foreign(name: str) -> bool:
    return name.partition(":")[0] in LIBRARIES and ":" in name


@cache
def find(name: str) -> type[Foreign]:
    """The class of `library:Class`. Missing where the library is not installed; UnknownName gives the nearest of its attacks."""
    library, _, wanted = name.partition(":")
    module, _, adapter = LIBRARIES[library].partition(":")
    made: type[Foreign] = getattr(import_module(module), adapter)
    kinds = made.kinds()
    if wanted not in kinds:
        raise UnknownName(f"attack of {library}", wanted, kinds)
    return made.around(kinds[wanted])
