"""What goes over the wire and comes back: an example as bytes, bytes as a body, an answer as scores."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from mohs.errors import Missing, RequestError
from mohs.models.http.endpoint import Endpoint

_TYPES = {"png": "image/png", "jpeg": "image/jpeg"}


class Malformed(Exception):
    """An answer that is not what was described; the text says what was wrong."""


def encode(endpoint: Endpoint, u: np.ndarray) -> bytes:
    """One example u [*input], float in [0, 1], channels first, as its part of a body: what is sent is what is judged."""
    told = endpoint.input
    if told.encoding != "json":
        return _picture(np.rint(u * 255).astype(np.uint8), told.encoding, told.quality)
    low, high = told.range
    value = u if (low, high) == (0.0, 1.0) else u * (high - low) + low
    if told.integers:
        value = np.rint(value).astype(np.int64)
    if told.layout == "hwc" and value.ndim == 3:
        value = value.transpose(1, 2, 0)
    elif told.layout == "flat":
        value = value.reshape(-1)
    return json.dumps(value.tolist(), separators=(",", ":")).encode()


def request(endpoint: Endpoint, parts: Sequence[bytes]) -> dict[str, Any]:
    """Arguments of an httpx request whose body carries these examples."""
    told, kind = endpoint.body, endpoint.input.encoding
    if told.multipart is not None:
        (part,) = parts
        files = {name: (f"input.{kind}", part, _TYPES[kind]) for name, value in told.multipart.items() if value == "$input"}
        return {"files": files, "data": {name: value for name, value in told.multipart.items() if value != "$input"}}
    written = [_place(json.dumps(told.each), "$input", part, kind) for part in parts]
    text = json.dumps(told.template).replace('"$inputs"', f"[{','.join(written)}]")
    if "$input" in text:
        text = _place(text, "$input", parts[0], kind)
    return {"content": text.encode(), "headers": {"Content-Type": "application/json"}}


def scores(endpoint: Endpoint, body: bytes, n: int) -> np.ndarray:
    """[n, classes] float64 logits from an answer about n examples; one-hot where it gives labels. Malformed says what is not as
    described."""
    try:
        answer = json.loads(body)
    except ValueError:
        raise Malformed("the answer is no JSON") from None
    told, names = endpoint.answer, endpoint.names
    path = told.scores or told.top or told.labels or ""
    found = [match.value for match in _path(path).find(answer)]
    row = (list, dict) if told.scores else list if told.top else (int, str)
    if len(found) == 1 and isinstance(found[0], list) and found[0] and isinstance(found[0][0], row):
        found = found[0]  # of all examples at once
    if len(found) != n:
        raise Malformed(f"{path} finds {len(found)} answers to {n} examples")
    if told.scores is not None:
        rows = [_row(row, names) for row in found]
    elif told.top is not None:
        rows = [_best(endpoint, row) for row in found]
    else:
        return np.eye(len(names))[[_class(label, names) for label in found]]
    z = np.array(rows)
    return np.log(np.maximum(z, np.finfo(np.float32).tiny)) if told.kind == "probabilities" else z


def _row(row: Any, names: list[str]) -> list[float]:
    if isinstance(row, dict):
        if set(row) != set(names):
            other = sorted(set(row) ^ set(names))
            raise Malformed(
                f"there are scores of {len(row)} classes and {len(names)} are described; {other[0]!r} is in one alone"
            )
        row = [row[name] for name in names]
    if not isinstance(row, list):
        raise Malformed(f"{row!r} is no list of scores")
    if len(row) != len(names):
        raise Malformed(f"there are {len(row)} scores, and {len(names)} classes are described")
    return [_number(value) for value in row]


def _best(endpoint: Endpoint, row: Any) -> list[float]:
    """The scores of the best few; the other classes share what is left of the probability, and are below the least told."""
    told, names = endpoint.answer, endpoint.names
    if not isinstance(row, list) or not row or not all(isinstance(one, dict) for one in row):
        raise Malformed(f"{told.top} should find a list of objects with {told.top_class} and {told.top_score}")
    try:
        given = {_class(one[told.top_class], names): _number(one[told.top_score]) for one in row}
    except KeyError as error:
        raise Malformed(f"an object of {told.top} has no {error}") from None
    least, others = min(given.values()), max(1, len(names) - len(given))
    shared = min(max(1 - sum(given.values()), 0) / others, least * 0.999)
    rest = shared if told.kind == "probabilities" else least - 1
    return [given.get(i, rest) for i in range(len(names))]


def _class(label: Any, names: list[str]) -> int:
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    if str(label) in names:
        return names.index(str(label))
    raise Malformed(f"the class {label!r} is none of the {len(names)} described")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Malformed(f"{value!r} is no score")
    return float(value)


def _place(text: str, name: str, part: bytes, kind: str) -> str:
    """A template with the example in place of its name: base64 inside a string, or numbers in place of one."""
    if kind == "json":
        return text.replace(f'"{name}"', part.decode())
    return text.replace(name, base64.b64encode(part).decode())


def _picture(pixels: np.ndarray, kind: str, quality: int) -> bytes:
    """pixels [channels, height, width] or [height, width] as a file."""
    from PIL import Image

    if pixels.ndim == 3:
        pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    out = io.BytesIO()
    options = {"quality": quality, "subsampling": 0} if kind == "jpeg" else {"compress_level": 1}
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, kind, **options)
    return out.getvalue()


@cache
def _path(text: str) -> Any:
    try:
        from jsonpath_ng.parser import parse
    except ImportError:
        raise Missing("jsonpath-ng", "serve", "an HTTP endpoint") from None
    try:
        return parse(text)
    except Exception as error:  # its parser has a class for each failure and no common one
        raise RequestError(f"{text!r} in [answer] is no JSONPath: {error}; such as $.scores[*]") from None
