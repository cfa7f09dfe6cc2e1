"""Studies: questions about a model that take more than one attack. A new one is one file and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mohs.errors import UnknownName

if TYPE_CHECKING:
    from mohs.study.base import Study
    from mohs.study.ways import Trains

TABLE = {
    "difficulty": "mohs.study.difficulty:Difficulty",
    "landscape": "mohs.study.landscape:Landscape",
    "directions": "mohs.study.directions:Directions",
    "regions": "mohs.study.regions:Regions",
    "optimizers": "mohs.study.optimizers:Optimizers",
    "pareto": "mohs.study.pareto:Pareto",
    "clever": "mohs.study.clever:Clever",
    "holistic": "mohs.study.holistic:Holistic",
    "capacity": "mohs.study.capacity:Capacity",
    "attention": "mohs.study.attention:Attention",
    "activations": "mohs.study.activations:Activations",
    "transfer": "mohs.study.transfer:Transfer",
}


def find(name: str) -> type[Study] | type[Trains]:
    """The class of a study by its name; UnknownName gives the nearest ones."""
    if name not in TABLE:
        raise UnknownName("study", name, TABLE)
    module, _, kind = TABLE[name].partition(":")
    found: type[Study] | type[Trains] = getattr(import_module(module), kind)
    return found
