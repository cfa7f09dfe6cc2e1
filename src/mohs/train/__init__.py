"""Training, by recipe. The table is lazy: a name costs an import only when it is used. A new recipe is one file and one line."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module

from mohs.errors import RequestError, UnknownName
from mohs.train.recipe import Modifier, Recipe

RECIPES = {
    "standard": "mohs.train.standard:Standard",
    "pgd": "mohs.train.pgd:PGDTraining",
    "fast": "mohs.train.fast:Fast",
    "n-fgsm": "mohs.train.nfgsm:NFGSM",
    "free": "mohs.train.free:Free",
    "trades": "mohs.train.trades:TRADES",
    "mart": "mohs.train.mart:MART",
    "hat": "mohs.train.hat:HAT",
    "layers": "mohs.train.layers:LayerRegularised",
    "attack": "mohs.train.attack:ByAttack",
    "perceptual": "mohs.train.attack:Perceptual",
    "max": "mohs.train.multi:Worst",
    "avg": "mohs.train.multi:Average",
    "msd": "mohs.train.multi:MSD",
    "rslad": "mohs.train.distillation:RSLAD",
    "ensemble": "mohs.train.ensemble:Ensemble",
    "universal": "mohs.train.universal:Universal",
    "on-manifold": "mohs.train.manifold:OnManifold",
    "gradient": "mohs.train.gradient:GradientRegularised",
    "gaussian": "mohs.train.noise:Gaussian",
    "smooth-adv": "mohs.train.smoothed:SmoothAdv",
    "macer": "mohs.train.smoothed:MACER",
    "ibp": "mohs.train.ibp:IBP",
    "crown-ibp": "mohs.train.crown_ibp:CROWNIBP",
    "alp": "mohs.train.alp:ALP",
    "distillation": "mohs.train.distillation:Distillation",
}
MODIFIERS = {  # inner ones first
    "awp": "mohs.train.awp:AWP",
    "smooth": "mohs.train.smooth:Smooth",
}


def find(name: str) -> type[Recipe] | type[Modifier]:
    """The class behind a name; UnknownName with the nearest ones."""
    known = {**RECIPES, **MODIFIERS}
    if name not in known:
        raise UnknownName("recipe", name, known)
    module, _, cls = known[name].partition(":")
    found: type[Recipe] | type[Modifier] = getattr(import_module(module), cls)
    return found


def parse(text: str, options: dict[str, object] | None = None) -> tuple[Recipe, tuple[Modifier, ...]]:
    """`trades`, or `trades+awp`: a recipe and what changes it, with `options` for whichever of them has such a field. Modifiers
    are given in the order of their table, not in the text's: what takes few recipes is put around one before what takes any."""
    left = dict(options or {})
    made: list[Recipe | Modifier] = []
    place = {name: k for k, name in enumerate(MODIFIERS)}
    names = sorted((name.strip() for name in text.split("+")), key=lambda name: place.get(name, -1))
    for name in names:
        cls = find(name)
        if names.count(name) > 1:
            raise RequestError(f"{text!r} names {name} {names.count(name)} times; once is enough: leave the others out")
        own = {field.name: left.pop(field.name) for field in fields(cls) if field.name in left}
        made.append(cls.from_spec(own))
    if left:
        known = [field.name for part in made for field in fields(part)]
        raise UnknownName(f"option of the recipe {text}", next(iter(left)), known)
    recipe, *modifiers = made
    if not isinstance(recipe, Recipe) or any(isinstance(part, Recipe) for part in modifiers):
        raise RequestError(
            f"{text!r} should name one recipe ({', '.join(RECIPES)}), then what changes it ({', '.join(MODIFIERS)})"
        )
    return recipe, tuple(part for part in modifiers if isinstance(part, Modifier))


__all__ = ["MODIFIERS", "RECIPES", "Modifier", "Recipe", "find", "parse"]
