"""An endpoint described by a small TOML file: how it is asked, and where in its answer the scores are."""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mohs.errors import RequestError
from mohs.threat import Knowledge

_SECRET = re.compile(r"\$\{(\w+)\}")
ACCOUNT = "ACCOUNT"  # the name that stands for the account whose turn it is
_CARRIES_SECRETS = re.compile(r"authori[sz]ation|api-?key|token|cookie|secret|password", re.I)
SHOWN = 300  # characters of an answer that an error shows


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Part):
    """encoding: of one example: `json` numbers, or a `png` or `jpeg` file. layout: of the numbers; examples are CHW. range: what
    the lowest and highest value of an input become. integers: numbers are rounded. quality: of a JPEG."""

    encoding: Literal["json", "png", "jpeg"] = "json"
    layout: Literal["chw", "hwc", "flat"] = "chw"
    range: tuple[float, float] = (0.0, 1.0)
    integers: bool = False
    quality: int = Field(default=95, ge=1, le=100)


class Body(_Part):
    """json: the body, in which "$inputs" is the list of examples and "$input" the only one (a file as base64). each: what
    stands in "$inputs" for an example. multipart: form fields, of which the one that says "$input" is the file."""

    # pydantic has a method `json` of its own
    template: Any = Field(default_factory=lambda: {"inputs": "$inputs"}, alias="json")
    each: Any = "$input"
    multipart: dict[str, str] | None = None


class Answer(_Part):
    """JSONPath of scores (a list a class, or an object by class name), of the best few (objects with a class and a score), or of
    labels: of all examples at once or, by [*], one by one. kind: of scores."""

    scores: str | None = None
    top: str | None = None
    labels: str | None = None
    top_class: str = "class"
    top_score: str = "score"
    kind: Literal["probabilities", "logits"] = "probabilities"


class Retry(_Part):
    """attempts: at one request. first, longest: seconds between them, doubled each time, and drawn up to that. breaker:
    failures in a row after which requests go one at a time, after `pause` seconds, doubled `trips` times; then the run ends."""

    attempts: int = Field(default=6, ge=1)
    first: float = Field(default=0.5, ge=0)
    longest: float = Field(default=60.0, ge=0)
    breaker: int = Field(default=20, ge=1)
    pause: float = Field(default=5.0, ge=0)
    trips: int = Field(default=4, ge=1)


class Guard(_Part):
    """refuses: the statuses by which a guard declines the query at hand, and no more than that."""

    refuses: list[int] = Field(default=[403], min_length=1)


class Endpoint(_Part):
    """classes: how many, or their names in order. batch: examples that one request takes at most. concurrency: requests in
    flight at most. timeout: seconds. price: of a query, an example sent, in `currency`. accounts: texts that `${ACCOUNT}` stands
    for in the headers, from request to request in turn.

    `${NAME}` in the address or a header stands for an environment variable, and is a secret: it is written nowhere and masked
    wherever text is shown.
    """

    url: str
    method: str = "POST"
    headers: dict[str, str] = {}
    accounts: list[str] = []
    classes: int | list[str]
    batch: int = Field(default=1, ge=1)
    concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=30.0, gt=0)
    price: float = Field(default=0.0, ge=0)
    currency: str = "USD"
    input: Input = Input()
    body: Body = Body()
    answer: Answer
    retry: Retry = Retry()
    guard: Guard | None = None

    @property
    def names(self) -> list[str]:
        return [str(i) for i in range(self.classes)] if isinstance(self.classes, int) else self.classes

    @property
    def gives(self) -> Knowledge:
        return Knowledge.LABEL if self.answer.labels is not None else Knowledge.SCORES

    @property
    def bits(self) -> int | None:
        """Of one number, where what is sent is rounded to so many."""
        rounded = self.input.encoding != "json" or (self.input.integers and self.input.range == (0.0, 255.0))
        return 8 if rounded else None

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @cached_property
    def secrets(self) -> dict[str, str]:
        """The environment variables that are used, by name; RequestError where one is not set."""
        names = {name for text in (self.url, *self.headers.values(), *self.accounts) for name in _SECRET.findall(text)}
        names.discard(ACCOUNT)
        missing = sorted(name for name in names if not os.environ.get(name))
        if missing:
            raise RequestError(f"the endpoint's description uses ${{{missing[0]}}}, and that environment variable is not set")
        return {name: os.environ[name] for name in names}

    def filled(self, text: str, account: int = 0) -> str:
        """Text with its secrets, in the name of an account."""
        named = text.replace(f"${{{ACCOUNT}}}", self.accounts[account]) if self.accounts else text
        return _SECRET.sub(lambda found: self.secrets[found[1]], named)

    def masked(self, text: str) -> str:
        """Text of others, without secrets and cut short."""
        for name, value in self.secrets.items():
            text = text.replace(value, f"${{{name}}}")
        text = " ".join(text.split())
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def load_endpoint(path: str | Path, url: str | None = None) -> Endpoint:
    """The endpoint a TOML file describes; url: in place of the file's own. RequestError says what is wrong."""
    try:
        told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"the description {path} of the endpoint cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RequestError(f"the description {path} of the endpoint is no TOML: {error}") from None
    return make_endpoint(told | ({"url": url} if url else {}), str(path))


def make_endpoint(told: dict[str, Any], where: str = "the description") -> Endpoint:
    """An endpoint from what its TOML holds."""
    try:
        endpoint = Endpoint.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise RequestError(f"{where}: {field}: {first['msg']} (docs/probe.md has an example)") from None
    for problem in _problems(endpoint):
        raise RequestError(f"{where}: {problem}")
    return endpoint


def _problems(endpoint: Endpoint) -> list[str]:
    found, told = [], endpoint.answer
    parts = urlsplit(endpoint.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        found.append("url should read http://host/path or https://host/path")
    if parts.username or parts.password:
        found.append("url holds a password: put it into an environment variable and the header Authorization = '${NAME}'")
    found += [
        f"the header {name} holds a secret in the clear: put it into an environment variable and write ${{NAME}}"
        for name, value in endpoint.headers.items()
        if _CARRIES_SECRETS.search(name) and not _SECRET.search(value)
    ]
    if sum(path is not None for path in (told.scores, told.top, told.labels)) != 1:
        found.append("[answer] names one of scores, top and labels")
    found += [
        f"accounts[{i}] holds a secret in the clear: put it into an environment variable and write ${{NAME}}"
        for i, account in enumerate(endpoint.accounts)
        if not _SECRET.search(account)
    ]
    if bool(endpoint.accounts) != any(f"${{{ACCOUNT}}}" in value for value in endpoint.headers.values()):
        found.append("accounts and a header that says ${ACCOUNT} belong together: one is missing")
    if endpoint.guard is not None and endpoint.batch > 1:
        found.append(f"batch is {endpoint.batch}, and a [guard] refuses whole requests: leave batch out")
    if len(endpoint.names) < 2:
        found.append("classes: there are fewer than 2")
    if endpoint.body.multipart is not None and (endpoint.batch > 1 or endpoint.input.encoding == "json"):
        found.append("[body] multipart sends one file: [input] encoding is png or jpeg, and batch is 1")
    if endpoint.body.multipart is not None and "$input" not in endpoint.body.multipart.values():
        found.append('[body] multipart has no field that says "$input"')
    if endpoint.body.multipart is None and not re.search(r"\$input", repr(endpoint.body.template)):
        found.append('[body] json has no "$inputs", and no "$input"')
    if endpoint.batch > 1 and "$inputs" not in repr(endpoint.body.template):
        found.append(f'batch is {endpoint.batch}, and [body] json has no "$inputs"')
    return found
