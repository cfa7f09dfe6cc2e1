"""guard.toml: what a server asks of inputs and clients, and what it does about sequences of queries."""

from __future__ import annotations

import time
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mohs.errors import RequestError
from mohs.serve.blacklight import Blacklight
from mohs.serve.declined import Declined
from mohs.serve.limits import MIB, Quota, TokenBucket
from mohs.serve.prada import Prada
from mohs.serve.wire import Answers, Gives

Positive = Annotated[int, Field(gt=0)]
OnDetection = Literal["refuse", "label"]
ON_GRID = 1e-3  # of a quantisation step: what float32 and JSON may take from a value


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(Section):
    """range: least and largest value; dtype: `integer` takes whole numbers alone; bits: values lie on the 2^bits levels
    of `range`, as those of a picture do."""

    range: tuple[float, float] | None = None
    dtype: Literal["float", "integer"] = "float"
    bits: Annotated[int, Field(ge=1, le=16)] | None = None

    @field_validator("range")
    @classmethod
    def _in_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError(f"{value[0]:g} is not below {value[1]:g}")
        return value

    def check(self, x: np.ndarray, bounds: tuple[float, float]) -> None:
        """Declined (422) where x [n, *input] breaks the contract; `bounds` is the range where none is said."""
        low, high = self.range or bounds
        if x.min() < low or x.max() > high:
            raise Declined(422, "contract", f"inputs run from {x.min():g} to {x.max():g}; expected {low:g} to {high:g}")
        if self.dtype == "integer" and (x != np.rint(x)).any():
            raise Declined(422, "contract", "inputs hold a fraction; expected whole numbers")
        if self.bits is not None:
            level = (x.astype(np.float64) - low) / (high - low) * (2**self.bits - 1)
            if (abs(level - np.rint(level)) > ON_GRID).any():
                raise Declined(422, "contract", f"inputs are not quantised to {self.bits} bits of {low:g} to {high:g}")


class RateSpec(Section):
    """examples: a second, in the long run; burst: at once."""

    examples: Annotated[float, Field(gt=0)]
    burst: Positive = 256


class QuotaSpec(Section):
    """examples: in every window of `seconds`."""

    examples: Positive
    seconds: Annotated[float, Field(gt=0)] = 86_400


class AnswerSpec(Section):
    """gives: at most so much, `topk:1` or `label`; decimals: that scores are rounded to."""

    gives: str | None = None
    decimals: Annotated[int, Field(ge=0, le=15)] | None = None

    @field_validator("gives")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            Gives.parse(value)
        return value

    def narrow(self, answers: Answers) -> Answers:
        """What is told under this section."""
        gives = answers.gives if self.gives is None else answers.gives.narrower(Gives.parse(self.gives))
        return Answers(gives, answers.outputs, self.decimals)


class BlacklightSpec(Section):
    """`Blacklight`, over all clients together."""

    quantisation: Annotated[int, Field(gt=0, le=255)] = 50
    window: Positive = 20
    step: Positive = 1
    fingerprints: Positive = 50
    threshold: Annotated[int, Field(ge=0)] = 25
    remember: Positive = 20_000
    on_detection: OnDetection = "refuse"


class PradaSpec(Section):
    """`Prada`, for every client by itself. memory: MiB of queries kept of all clients; the longest silent are forgotten."""

    delta: Annotated[float, Field(gt=0, lt=1)] = 0.95
    growing: Positive = 500
    memory: Positive = 256
    on_detection: OnDetection = "refuse"


class GuardSpec(Section):
    """A guard.toml. clients: so many are known at once; the longest silent are forgotten."""

    input: InputSpec | None = None
    rate: RateSpec | None = None
    quota: QuotaSpec | None = None
    answer: AnswerSpec = AnswerSpec()
    blacklight: BlacklightSpec | None = None
    prada: PradaSpec | None = None
    clients: Positive = 10_000


def load_guard(path: Path) -> GuardSpec:
    """A guard.toml; RequestError says what is wrong with it, and where."""
    try:
        return GuardSpec.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise RequestError(f"{path}: there is no {where!r}; docs/serve.md lists what there is") from None
        raise RequestError(f"{path}: {where}: {first['msg']}, not {first['input']!r}") from None


@dataclass
class Client:
    """What is known of one."""

    bucket: TokenBucket | None
    quota: Quota | None
    prada: Prada | None


class Guard:
    """The state behind a guard.toml. bounds: of the model; clock: seconds that only go forward."""

    def __init__(self, spec: GuardSpec, bounds: tuple[float, float], clock: Callable[[], float] = time.monotonic) -> None:
        self.spec, self.bounds, self.clock = spec, bounds, clock
        low_high = spec.input.range if spec.input and spec.input.range else bounds
        self.blacklight = (
            Blacklight(low_high, **spec.blacklight.model_dump(exclude={"on_detection"})) if spec.blacklight else None
        )
        self.clients: OrderedDict[str, Client] = OrderedDict()
        self._held = 0  # bytes that PRADA keeps

    def admit(self, client: str, x: np.ndarray) -> bool:
        """Before the model sees x [n, *input]: whether it is to be answered by the label alone. Declined where not at all."""
        if self.spec.input:
            self.spec.input.check(x, self.bounds)
        self._charge(self._known(client), len(x))
        if self.blacklight is None or self.spec.blacklight is None:
            return False
        attack = sum(self.blacklight(row) for row in x) > 0  # every row is remembered
        return attack and self._found(self.spec.blacklight.on_detection)

    def watch(self, client: str, x: np.ndarray, labels: Sequence[int]) -> bool:
        """After the model labelled x [n, *input]: the same."""
        prada = self._known(client).prada
        if prada is None or self.spec.prada is None:
            return False
        before = prada.bytes
        attack = sum(prada(row, label) for row, label in zip(x, labels, strict=True)) > 0
        self._held += prada.bytes - before
        self._forget(self.spec.prada.memory * MIB)
        return attack and self._found(self.spec.prada.on_detection)

    def _found(self, answer: OnDetection) -> bool:
        if answer == "refuse":
            raise Declined(403, "attack", "these queries look like those of an attack and are not answered")
        return True

    def _charge(self, client: Client, n: int) -> None:
        now, spec = self.clock(), self.spec
        if spec.rate and n > spec.rate.burst:
            raise Declined(413, "size", f"{n} examples in one request; the burst is {spec.rate.burst}")
        if spec.quota and n > spec.quota.examples:
            raise Declined(413, "size", f"{n} examples in one request; the quota is {spec.quota.examples}")
        wait = client.bucket.take(n, now) if client.bucket else 0.0
        if wait:
            raise Declined(429, "rate", f"too many examples; try again in {wait:.1f} s", retry_after=wait)
        wait = client.quota.take(n, now) if client.quota else 0.0
        if wait:
            raise Declined(429, "quota", f"the quota is used up; it begins anew in {wait:.0f} s", retry_after=wait)

    def _known(self, name: str) -> Client:
        if name not in self.clients:
            now, spec = self.clock(), self.spec
            self.clients[name] = Client(
                TokenBucket(spec.rate.examples, spec.rate.burst, now) if spec.rate else None,
                Quota(spec.quota.examples, spec.quota.seconds, now) if spec.quota else None,
                self._fresh(),
            )
        self.clients.move_to_end(name)
        while len(self.clients) > self.spec.clients:
            _, gone = self.clients.popitem(last=False)
            self._held -= gone.prada.bytes if gone.prada else 0
        return self.clients[name]

    def _fresh(self) -> Prada | None:
        spec = self.spec.prada
        return Prada(delta=spec.delta, growing=spec.growing) if spec else None

    def _forget(self, memory: int) -> None:
        """Begin anew with the longest silent clients until `memory` bytes are kept at most."""
        for client in self.clients.values():
            if self._held <= memory:
                return
            self._held -= client.prada.bytes if client.prada else 0
            client.prada = self._fresh()
