"""A Model behind HTTP: `create_app` makes the ASGI application. Needs the extra `serve`."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from mohs.models import Batched
from mohs.serve import schema
from mohs.serve.batching import Batcher
from mohs.serve.declined import Declined
from mohs.serve.guard import Guard
from mohs.serve.limits import Limits
from mohs.serve.metrics import Metrics
from mohs.serve.wire import Answers, read_inputs

log = logging.getLogger("mohs.serve")


def create_app(
    model: Batched,
    shape: tuple[int, ...],
    *,
    answers: Answers,
    limits: Limits,
    guard: Guard | None = None,
    token: str | None = None,
    threads: int = 1,
) -> FastAPI:
    """The application that answers for `model` on examples of `shape`.

    answers: what is told of the scores. token: wanted as a bearer token for /predict and /metrics; of several, apart by spaces,
    each is a client of its own. threads: of torch.
    """
    service = Service(model, shape, answers, limits, guard, token, threads)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(service.batcher.run())
        yield
        service.batcher.close()
        await worker

    app = FastAPI(title=f"mohs serve: {model.model.name}", lifespan=lifespan)

    @app.post(
        "/predict",
        summary=f"What the model says of inputs of shape {list(shape)}",
        responses=schema.responses(answers.gives.kind),
        openapi_extra={"requestBody": schema.request_body(shape)},
    )
    async def predict(request: Request) -> Response:
        started = time.perf_counter()
        response = await service.respond(request)
        service.metrics.seconds.observe(time.perf_counter() - started)
        service.metrics.requests.labels(response.status_code).inc()
        return response

    @app.get("/health", summary="Whether the server answers")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": model.model.name, "shape": list(shape), "classes": model.model.classes}

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        try:
            service.client(request)
        except Declined as declined:
            return refusal(declined)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return as_json({"error": str(error.detail)}, error.status_code, error.headers)

    return app


class Service:
    """What a server keeps while it runs."""

    def __init__(
        self,
        model: Batched,
        shape: tuple[int, ...],
        answers: Answers,
        limits: Limits,
        guard: Guard | None,
        token: str | None,
        threads: int,
    ) -> None:
        self.shape, self.answers, self.limits, self.guard = shape, answers, limits, guard
        self.batcher = Batcher(model.scores, rows=model.rows, room=limits.waiting, threads=threads)
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher.observe = self.metrics.rows.observe
        self._digests = [] if token is None else [_digest(one) for one in token.split()]
        self._held = 0  # bytes of the bodies that are being read and answered

    async def respond(self, request: Request) -> Response:
        """The answer to /predict, or the error as JSON."""
        try:
            client = self.client(request)
            async with self._body(request) as body:
                x = read_inputs(body, self.shape, self.limits.examples)
                return as_json(await self._predict(client, x))
        except Declined as declined:
            self.metrics.declined.labels(declined.reason).inc()
            return refusal(declined)
        except Exception:  # a model may raise anything
            log.exception("the model failed")
            return as_json({"error": "the model failed on these inputs; the server's log says how"}, 500)

    async def _predict(self, client: str, x: np.ndarray) -> dict[str, Any]:
        suspect = self.guard is not None and self.guard.admit(client, x)
        logits = await self.batcher.logits(x)
        bad = (~logits.isfinite()).any(1).nonzero()[:, 0].tolist()
        if bad:
            raise Declined(422, "output", f"the model has no finite scores for input {bad[0]}")
        if self.guard is not None:
            suspect |= self.guard.watch(client, x, logits.argmax(1).tolist())
        self.metrics.examples.inc(len(x))
        self.metrics.suspects.inc(suspect)
        return (self.answers.labels_only() if suspect else self.answers)(logits)

    def client(self, request: Request) -> str:
        """Who asks: one of the tokens, or the address where none is wanted. Declined (401) without a bearer token that is known;
        compared by digests, in constant time."""
        if not self._digests:
            return request.client.host if request.client else ""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        sent = _digest(given.strip())
        right = [i for i, known in enumerate(self._digests) if hmac.compare_digest(sent, known)]
        if not right or scheme.lower() != "bearer":
            raise Declined(401, "token", "this server wants the header `Authorization: Bearer TOKEN`")
        return f"token {right[0]}"

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, which counts among those held while it is in use; Declined where it or they are too large, or it is slow."""
        said = request.headers.get("content-length", "")
        if said.isdecimal() and int(said) > self.limits.body:
            raise Declined(413, "size", f"the body has {said} bytes; at most {self.limits.body} are taken")
        parts: list[bytes] = []
        size, held, busy = 0, 0, False
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > self.limits.body:
                        raise Declined(413, "size", f"the body is larger than {self.limits.body} bytes")
                    if busy:  # read to its end all the same, or the client might never see the answer
                        continue
                    parts.append(part)
                    held += len(part)
                    self._held += len(part)
                    if self._held > self.limits.held:
                        busy = True
                        parts.clear()
                        self._held, held = self._held - held, 0
            if busy:
                raise Declined(503, "busy", "too many bodies are being read; try again shortly", retry_after=1)
            yield b"".join(parts)
        except TimeoutError:
            raise Declined(408, "slow", f"the body did not come within {self.limits.seconds:g} s") from None
        finally:
            self._held -= held


def as_json(found: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(found, separators=(",", ":"), allow_nan=False)
    return Response(text, status, headers, media_type="application/json")


def refusal(declined: Declined) -> Response:
    """The error as JSON, with the headers its status wants."""
    headers = {"WWW-Authenticate": "Bearer"} if declined.status == 401 else {}
    if declined.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(declined.retry_after))
    return as_json({"error": declined.message}, declined.status, headers)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
