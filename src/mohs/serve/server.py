"""From a Model to a server that runs until it is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, cast, get_args

import torch

from mohs.errors import Missing, Refused, RequestError, UnknownName
from mohs.models import Batched, Model, cpu
from mohs.models.batched import measure_quantum
from mohs.serve.guard import Guard, GuardSpec
from mohs.serve.limits import Limits
from mohs.serve.wire import Answers, Gives, Scale
from mohs.threat import Knowledge

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

BACKLOG = 2048  # connections that wait to be taken
PATIENCE = 30  # seconds that a stop waits for the answers in flight


def make_app(
    model: Model,
    shape: tuple[int, ...],
    *,
    gives: str = "scores",
    outputs: str = "logits",
    guard: GuardSpec | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    rows: int = 128,
    threads: int = 1,
) -> FastAPI:
    """The ASGI application of a model for examples of `shape`; RequestError, Refused and Missing.

    gives: `scores`, `topk:K` or `label`. outputs: `logits` as the model has them, or `probabilities`. token: clients must send as
    a bearer token; of several, apart by spaces, each is a client of its own. rows: of one call of the model. threads: of torch.
    Calls are padded to the quantum at which an answer does not depend on what else is asked at that moment.
    """
    try:
        from mohs.serve.app import create_app
    except ModuleNotFoundError as error:
        raise Missing(error.name or "fastapi", "serve", "mohs serve") from error
    if outputs not in get_args(Scale):
        raise UnknownName("outputs", outputs, get_args(Scale))
    answers = Answers(Gives.parse(gives), cast(Scale, outputs))
    if model.gives < Knowledge.SCORES and answers.gives.kind != "label":
        raise Refused(f"{model.name} gives labels alone: say --gives label")
    if guard is not None:
        answers = guard.answer.narrow(answers)
    if answers.gives.k > model.classes:
        raise RequestError(
            f"topk:{answers.gives.k} tells more than the {model.classes} classes of {model.name}: say scores for all"
        )
    if token is not None and not token.strip():
        raise RequestError("the token is empty: anybody could send it")
    cpu.keep_freed_memory()
    with cpu.threads(threads):
        batched = _batched(model, shape, rows)
    state = None if guard is None else Guard(guard, model.bounds)
    return create_app(batched, shape, answers=answers, limits=limits or Limits(), guard=state, token=token, threads=threads)


def _batched(model: Model, shape: tuple[int, ...], rows: int) -> Batched:
    if model.batch is not None:
        return Batched(model, model.batch, model.batch)
    if model.random:
        return Batched(model, rows, 1)
    low, high = model.bounds
    noise = torch.linspace(0, 997, 16 * torch.Size(shape).numel()).sin().mul(0.5).add(0.5)
    probes = (low + (high - low) * noise).view(16, *shape).to(model.device)
    with torch.no_grad():
        return Batched(model, rows, measure_quantum(model, probes, rows, gradients=False))


def serve(app: FastAPI, host: str = "127.0.0.1", port: int = 8080, started: Callable[[str], object] = print) -> None:
    """Answer until SIGINT or SIGTERM, then no new connections, and return when what is in flight is answered.

    port: 0 takes any that is free. started: told of the address. Raises RequestError where the address cannot be had.
    """
    import uvicorn

    listening = _bind(host, port)
    address = listening.getsockname()
    server = uvicorn.Server(configured(app))

    def stop(*_: object) -> None:  # before uvicorn listens to signals, and when it raises them anew, done
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        started(f"http://{f'[{host}]' if ':' in host else host}:{address[1]}")
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()


def configured(app: FastAPI) -> uvicorn.Config:
    """How uvicorn runs the application. No header may say who a client is: rates and quotas go by the address."""
    import uvicorn

    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=PATIENCE,
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise RequestError(f"cannot listen on {host} port {port}: {error.strerror or error}; choose another by --port") from error
    return listening
