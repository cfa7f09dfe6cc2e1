"""What OpenAPI says of /predict."""

from __future__ import annotations

from typing import Any


def request_body(shape: tuple[int, ...]) -> dict[str, Any]:
    """The body: examples of one shape."""
    schema: dict[str, Any] = {"type": "number"}
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    inputs = {"type": "array", "items": schema, "minItems": 1, "description": f"Examples of shape {list(shape)}."}
    body = {"type": "object", "properties": {"inputs": inputs}, "required": ["inputs"], "additionalProperties": False}
    return {"required": True, "content": {"application/json": {"schema": body}}}


_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_PAIR = {"type": "object", "properties": {"class": {"type": "integer"}, "score": {"type": "number"}}}
_ANSWERS: dict[str, dict[str, Any]] = {
    "scores": {
        "scores": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "classes": _INTEGERS,
    },
    "topk": {"top": {"type": "array", "items": {"type": "array", "items": _PAIR}}},
    "label": {"labels": _INTEGERS},
}
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_SAID = {
    400: "The body is no JSON.",
    401: "The bearer token is missing or wrong.",
    403: "A detector took the queries for an attack.",
    408: "The body came too slowly.",
    413: "The body or the request is too large.",
    422: "The inputs break the contract.",
    429: "Too many examples; Retry-After says when to come again.",
    503: "The server is busy; Retry-After says when to come again.",
}


def responses(kind: str) -> dict[int | str, dict[str, Any]]:
    """The answer of a server that gives `kind`, and the ways it says no."""
    properties = _ANSWERS[kind]
    good = {"type": "object", "properties": properties, "required": list(properties)}
    found: dict[int | str, dict[str, Any]] = {
        200: {"description": "A row an input.", "content": {"application/json": {"schema": good}}}
    }
    for status, text in _SAID.items():
        found[status] = {"description": text, "content": {"application/json": {"schema": ERROR}}}
    return found
