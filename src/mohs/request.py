"""What a user asks for, as plain data."""

from __future__ import annotations

import shlex
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mohs.engine.certified import NAME as CERTIFY
from mohs.engine.probes import NAME as PROBE
from mohs.errors import RequestError
from mohs.models.saliency import Method


class Request(BaseModel):
    """What was asked, as plain data; `model_fields_set` tells the given from the defaulted."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    data: str
    threats: list[str]
    profile: str = "standard"
    attacks: list[str] = []
    goal: str = "untargeted"
    limit: int | None = None
    seed: int = 0
    bounds: tuple[float, float] = (0.0, 1.0)
    outputs: Literal["logits", "probabilities", "margin"] = "logits"
    device: str = "cpu"
    rows: int = 128
    compile: bool = False
    time: float | None = None
    trust_pickle: bool = False
    surrogates: list[str] = []
    defences: list[str] = []
    perceptual_model: str | None = None
    autoencoder: str | None = None
    saliency: Method | None = None
    require: list[str] = []
    confident: list[str] = []
    describe: str | None = None
    queries: int | None = Field(default=None, ge=1)
    total: int | None = Field(default=None, ge=1)
    spend: float | None = Field(default=None, gt=0)
    rate: float | None = Field(default=None, gt=0)
    i_am_authorised: bool = False
    adapt: bool = False
    certify: bool = False
    method: str = "crown"


def make_request(model: object, data: object, threats: list[str], options: dict[str, Any]) -> Request:
    """The request as plain data; RequestError where an option is unknown or does not fit."""
    named = {
        "model": name_of(model),
        "data": data if isinstance(data, str) else "<tensors>",
        "threats": threats,
    }
    try:
        return Request(**named, **options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        fields = ", ".join(sorted(set(Request.model_fields) - set(named)))
        raise RequestError(f"option {where}: {first['msg']} (given: {first.get('input')!r}); the options are {fields}") from None


def command(request: Request) -> str:
    """The command line that asks for the same."""
    own = request.profile in (PROBE, CERTIFY)
    words = ["mohs", request.profile if own else "audit", request.model, "--data", request.data]
    for threat in request.threats:
        words += ["--threat", threat]
    for other in request.surrogates:
        words += ["--surrogate", other]
    lists = {"defences": "with", "attacks": "attack", "require": "require", "confident": "confident"}
    for name in sorted(request.model_fields_set - {"model", "data", "threats", "surrogates", *lists}):
        value = getattr(request, name)
        if own and name in ("profile", "certify"):
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            words += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    for name, flag in lists.items():
        for line in getattr(request, name):
            words += [f"--{flag}", line]
    return shlex.join(words)


def name_of(model: object) -> str:
    return model if isinstance(model, str) else f"<{type(model).__name__}>"
