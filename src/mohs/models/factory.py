"""`package.module:factory`: the user's own code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mohs.errors import ModelError, UnknownName
from mohs.models.base import Model


def is_factory(source: str) -> bool:
    """Whether it reads `package.module:name`."""
    package, colon, name = source.partition(":")
    return bool(colon) and all(part.isidentifier() for part in f"{package}.{name}".split("."))


def call_factory(source: str) -> nn.Module | Model:
    """What `package.module:name` is, or returns when it is called without arguments.

    Modules of the current directory are found after installed ones, so that no file there stands in for a library.
    Raises ModelError and UnknownName.
    """
    package, _, path = source.partition(":")
    with _current_directory():
        found: object = _import(package)
        for name in path.split("."):
            if not hasattr(found, name):
                known = [known for known in dir(found) if not known.startswith("_")]
                raise UnknownName(f"name in {getattr(found, '__file__', package)}", name, known)
            found = getattr(found, name)
        if not isinstance(found, nn.Module | Model):
            found = _call(source, found)
    if not isinstance(found, nn.Module | Model):
        raise ModelError(f"{source} returned {type(found).__name__}; expected a torch.nn.Module or a mohs Model")
    return found


def _import(package: str) -> object:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and (package + ".").startswith(error.name + "."):
            raise ModelError(
                f"there is no Python module {package!r}: looked in {os.getcwd()} and in the environment {sys.prefix}"
            ) from error
        raise ModelError(f"{package} imports {error.name}, which is not installed") from error
    except Exception as error:  # the user's module may raise anything
        raise ModelError(f"{package} cannot be imported: {type(error).__name__}: {error}") from error


def _call(source: str, factory: object) -> object:
    if not callable(factory):
        raise ModelError(f"{source} is a {type(factory).__name__}; expected a function, a class or a torch.nn.Module")
    try:
        return factory()
    except Exception as error:  # the user's factory may raise anything
        raise ModelError(f"{source}() failed: {type(error).__name__}: {error}") from error


@contextmanager
def _current_directory() -> Iterator[None]:
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
