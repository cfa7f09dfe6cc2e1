"""The wire format: JSON in, a tensor; logits, JSON out. No HTTP here.

`{"inputs": [[...], ...]}` holds examples as nested lists of numbers. Answered are `{"scores": [[...]], "classes": [...]}`,
`{"top": [[{"class": 3, "score": 0.9}, ...]]}` or `{"labels": [3, ...]}`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from pydantic_core import from_json
from torch import Tensor

from mohs.errors import RequestError, UnknownName
from mohs.serve.declined import Declined

Kind = Literal["label", "topk", "scores"]
Scale = Literal["logits", "probabilities"]


def read_inputs(body: bytes, shape: tuple[int, ...], most: int) -> np.ndarray:
    """The examples of a body, float32 [n, *shape], 1 <= n <= most, all finite; Declined with a status of 4xx for any other."""
    try:
        found = from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:  # too deep, not UTF-8, NaN and infinity are among them
        raise Declined(400, "json", f"the body is no JSON: {error}") from None
    if not isinstance(found, dict) or "inputs" not in found:
        raise Declined(422, "format", 'the body should be an object {"inputs": [example, ...]}')
    others = [key for key in found if key != "inputs"]
    if others:
        raise Declined(422, "format", f"unknown key {str(others[0])[:40]!r} beside 'inputs'")
    if not isinstance(found["inputs"], list) or not found["inputs"]:
        raise Declined(422, "format", "inputs should be a list of one example or more")
    count = len(found["inputs"])
    if count > most:
        raise Declined(413, "size", f"{count} examples in one request; at most {most} are taken")
    wanted = f"[n, {', '.join(map(str, shape))}]"
    try:
        array = np.array(found["inputs"])
    except ValueError:
        raise Declined(422, "shape", f"inputs are ragged; expected nested lists of shape {wanted}") from None
    if array.shape[1:] != shape:
        raise Declined(422, "shape", f"inputs have shape {list(array.shape)[:8]}; expected {wanted}")
    if array.dtype.kind not in "iuf":
        raise Declined(422, "type", "inputs hold something that is not a number")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise Declined(422, "finite", "inputs hold a number that float32 has none for")
    return array


class Gives(NamedTuple):
    """How much of the scores is told: all, the k highest, or the label alone."""

    kind: Kind
    k: int = 1

    @staticmethod
    def parse(text: str) -> Gives:
        """`scores`, `topk:5` or `label`; UnknownName and RequestError."""
        kind, colon, k = text.partition(":")
        if kind not in get_args(Kind):
            raise UnknownName("answer", text, ("scores", "topk:5", "label"))
        if (kind == "topk") != bool(colon) or (colon and not (k.isdecimal() and int(k) > 0)):
            raise RequestError(f"what is given should read scores, topk:5 or label; not {text!r}")
        return Gives(kind, int(k)) if kind == "topk" else Gives(kind)  # type: ignore[arg-type]

    def narrower(self, other: Gives) -> Gives:
        """The one of both that tells less."""
        return min(self, other, key=lambda gives: (get_args(Kind).index(gives.kind), gives.k))


SCORES = Gives("scores")


@dataclass(frozen=True)
class Answers:
    """From logits to what is told. outputs: logits as the model has them, or softmaxed; decimals: scores are rounded to."""

    gives: Gives = SCORES
    outputs: Scale = "logits"
    decimals: int | None = None

    def __call__(self, logits: Tensor) -> dict[str, Any]:
        """The answer on logits [n, classes]."""
        if self.gives.kind == "label":
            return {"labels": logits.argmax(1).tolist()}
        scores = logits.softmax(1) if self.outputs == "probabilities" else logits
        if self.decimals is not None:
            scores = scores.double().round(decimals=self.decimals)
        if self.gives.kind == "scores":
            return {"scores": scores.tolist(), "classes": list(range(logits.shape[1]))}
        order = logits.argsort(dim=1, descending=True, stable=True)[:, : self.gives.k]
        pairs = zip(order.tolist(), scores.gather(1, order).tolist(), strict=True)
        return {"top": [[{"class": c, "score": s} for c, s in zip(*row, strict=True)] for row in pairs]}

    def labels_only(self) -> Answers:
        return replace(self, gives=Gives("label"))
