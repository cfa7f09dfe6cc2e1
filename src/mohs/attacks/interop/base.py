"""What the libraries' attacks share: a module that hands every question to the Oracle, and one example a call."""

from __future__ import annotations

import contextlib
import inspect
import json
import random
import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from mohs.attacks.base import Attack
from mohs.errors import Missing, MohsError, Refused, RequestError, UnknownName
from mohs.models import Model
from mohs.oracle import Oracle
from mohs.threat import Goal, Knowledge, SourceTarget, Targeted, Threat, Untargeted

QUIET = {"verbose": False}  # what a constructor is told where it has such a parameter
SAME = {"attack": "attack_"}  # a parameter whose name means something else here


class Over(Exception):
    """Nothing is left to ask: the example fell, or its budget or time is spent."""


class Victim(nn.Module):
    """The Oracle of one example as the module that a library attacks: logits [n, classes] of its candidates [n, *input].

    Their gradient where the threat grants it, one-hot rows of the predicted class where it grants labels alone; raises Over
    where the example is closed, and Refused where a gradient is asked for that is not granted.
    """

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle
        self.device = nn.Parameter(torch.zeros((), device=oracle.x0.device), requires_grad=False)  # libraries look for one
        granted = oracle.threat.knowledge or Knowledge.GRADIENT  # of `transfer`: a surrogate is the adversary's own
        self.known = min(granted, oracle.guide.model.gives)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        oracle, rows = self.oracle, torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if next(oracle.steps(1), None) is None:
            raise Over
        asked = x.float()
        if self.known == Knowledge.LABEL:
            z = nn.functional.one_hot(oracle.labels(asked, rows), oracle.judge.model.classes).float()
        elif self.known == Knowledge.GRADIENT and x.requires_grad and torch.is_grad_enabled():
            z = oracle.traced(asked, rows).logits
        else:
            z = oracle.scores(asked, rows=rows).logits
        if not oracle.open.any():
            raise Over
        return z if z.requires_grad else _Withheld.apply(x, z, self.known)  # type: ignore[no-untyped-call]


class _StandIn(nn.Module):
    """What a constructor is tried on: some constructors ask their model a question."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, model.classes, device=model.device))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1, keepdim=True) * self.weight


class _Withheld(torch.autograd.Function):
    """Logits whose gradient is not to be had."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, known: Knowledge) -> Tensor:
        ctx.known = known
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise Refused(f"the attack asks for gradient, and it is granted {ctx.known}")


@dataclass(frozen=True, kw_only=True)
class Foreign(Attack):
    """An attack of a library: its class, and what its constructor is given beside the model.

    options: the constructor's parameters with their defaults; what the threat and the goal say (`set_by_threat`) is none of
    them. Every draw of the library comes from the example's stream, so that its company never matters. An exception of the
    library's closes the example as an error.
    """

    options: tuple[tuple[str, object], ...] = ()

    library: ClassVar[str]
    package: ClassVar[str]  # what holds the classes
    installed: ClassVar[str]  # the distribution
    set_by_threat: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[Any]
    title: ClassVar[str]
    roams = True

    # what an adapter says

    @classmethod
    @abstractmethod
    def kinds(cls) -> dict[str, Any]:
        """The attacks of the library by their names."""

    @classmethod
    @abstractmethod
    def traits(cls, kind: Any) -> dict[str, Any]:
        """`knowledge`, `sets` and `minimal` of one of them."""

    @abstractmethod
    def make(self, victim: nn.Module, threat: Threat, targeted: bool, shape: tuple[int, ...], classes: int) -> Any:
        """The library's attack on a module that takes inputs of a shape [*input]."""

    @abstractmethod
    def attack(self, made: Any, oracle: Oracle, victim: Victim) -> Tensor:
        """Run it on the one example of an Oracle; returns its last point [1, *input]."""

    # what they share

    @classmethod
    def module(cls) -> ModuleType:
        """The library; Missing where it is not installed."""
        try:
            with quiet():
                return import_module(cls.package)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != cls.package.partition(".")[0]:
                raise
            raise Missing(cls.installed, "interop", f"an attack of {cls.library}") from None

    @classmethod
    def around(cls, kind: Any) -> type[Self]:
        """The Attack that runs a class of the library."""
        title = f"{cls.library}:{kind.__name__}"
        said = f"{kind.__name__} of {cls.library}, judged and counted like any other attack, one example at a time."
        facts = {"kind": kind, "title": title, "paper": f"{cls.library} {_version(cls.installed)}", **cls.traits(kind)}
        return type(title, (cls,), {"__doc__": said, "__module__": cls.__module__, **facts})

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        """The constructor's, with their defaults; the model is none of them."""
        found = inspect.signature(cls.kind).parameters
        named = {p.name: p.default for p in found.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        options = {name: default for name, default in named.items() if name not in ("model", "estimator", "classifier")}
        return {SAME.get(name, name): default for name, default in options.items()}

    def given(self, **told: object) -> dict[str, Any]:
        """The constructor's arguments: the options, what is `told` where it has such a parameter, and no chatter."""
        own = {next((k for k, v in SAME.items() if v == name), name): value for name, value in self.options}
        return own | {name: value for name, value in (QUIET | told).items() if name in self.parameters()}

    def spec(self) -> dict[str, object]:
        plain = {k: v for k, v in self.parameters().items() if isinstance(v, bool | int | float | str | None)}
        hidden = {*self.set_by_threat, *QUIET}
        return {k: v for k, v in plain.items() if k not in hidden} | dict(self.options)

    @classmethod
    def from_spec(cls, spec: dict[str, object]) -> Self:
        """Texts are read as JSON where they are some: numbers, true, null."""
        known = cls.parameters()
        for name in spec:
            if name in cls.set_by_threat:
                raise RequestError(f"{cls.title}: {name} follows from the threat and the goal: leave it out")
            if name not in known:
                raise UnknownName(f"option of {cls.title}", name, set(known) - set(cls.set_by_threat))
        return cls(options=tuple((name, _read(value)) for name, value in spec.items()))

    def passes(self, classes: int) -> tuple[int, int]:
        """None: they are not known beforehand."""
        return 0, 0

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        super().check(threat, goal, model)
        if not isinstance(goal, Untargeted | Targeted | SourceTarget):
            raise Refused(f"{self.title} looks for any other class or for one: it has no goal {goal}")
        self.made(_StandIn(model), threat, not isinstance(goal, Untargeted), (1, 1, 1), model.classes)

    def made(self, victim: nn.Module, threat: Threat, targeted: bool, shape: tuple[int, ...], classes: int) -> Any:
        """`make`, whatever the library says against it as a RequestError."""
        try:
            with quiet():
                return self.make(victim, threat, targeted, shape, classes)
        except (MohsError, Over):
            raise
        except Exception as error:  # a constructor may raise anything
            raise RequestError(f"{self.title} cannot be made with these options: {_line(error)}") from error

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        p = threat.origin(x0)
        best = oracle.best
        for row in range(len(x0)):
            if best.broken[row] and best.distance[row] == 0:
                continue
            part = oracle.part()
            part.keep(torch.tensor([row], device=x0.device))
            p[row : row + 1] = self._one(part)
        return p

    def _one(self, oracle: Oracle) -> Tensor:
        victim, shape = Victim(oracle), tuple(oracle.x0.shape[1:])
        try:
            with quiet(), seeded(int(oracle.stream.at("library").keys[0])):
                made = self.made(victim, oracle.threat, oracle.aim.target is not None, shape, oracle.judge.model.classes)
                return self.attack(made, oracle, victim).detach().to(oracle.x0)
        except Over:
            pass
        except MohsError:
            raise
        except Exception as error:  # a library may raise anything, and that is no robustness
            oracle.ledger.close(oracle.ids, f"error: {self.title}: {_line(error)}")
        return oracle.threat.origin(oracle.x0)


@contextlib.contextmanager
def seeded(key: int) -> Iterator[None]:
    """All the generators that a library may draw from, begun at a key and put back."""
    numpy, python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        try:
            torch.manual_seed(key)
            np.random.seed(key % 2**32)
            random.seed(key)
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries print and warn: standard output is ours."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def _read(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return value


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of an unknown version"


def _line(error: Exception) -> str:
    said = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
