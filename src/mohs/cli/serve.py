"""mohs serve"""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import Annotated

import typer

from mohs.cli import options
from mohs.errors import RequestError

HELP = "Any model as an HTTP API: scores, the highest few, or the label alone; with a guard before it."
EXAMPLE = "Example: `mohs serve model.pt2 --port 8080 --gives topk:5 --token-env MOHS_TOKEN --guard guard.toml`"


def command(
    model: options.Model,
    gives: Annotated[str, typer.Option(help="`scores`, `topk:5` or `label`: what clients are told.")] = "scores",
    outputs: Annotated[str, typer.Option(help="What scores are: `logits` or `probabilities`.")] = "logits",
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8080,
    token_env: Annotated[
        str | None,
        typer.Option(
            help="The environment variable whose value clients must send as a bearer token; of several, apart by spaces, each is "
            "a client of its own.",
            show_default=False,
        ),
    ] = None,
    guard: Annotated[
        Path | None,
        typer.Option(help="A guard.toml: limits, rounding, detection of attacks; see docs/serve.md.", show_default=False),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Of one input, 1,28,28; found without it for demo, .pt2 and .onnx.", show_default=False),
    ] = None,
    bounds: options.Bounds = "0,1",
    model_outputs: Annotated[str, typer.Option(help="What MODEL returns: `logits`, `probabilities` or `margin`.")] = "logits",
    max_body: Annotated[float, typer.Option(help="MiB of one request, at most.", min=0.001)] = 8,
    max_examples: Annotated[int, typer.Option(help="Examples in one request, at most.", min=1)] = 256,
    device: options.Device = "cpu",
    rows: options.Rows = 128,
    threads: Annotated[int, typer.Option(help="Of torch, for the model.", min=1)] = 1,
    trust_pickle: options.TrustPickle = False,
    json: options.Json = False,
) -> int:
    import torch

    from mohs.models import load_model
    from mohs.serve import Limits, load_guard, make_app, serve

    spec = None if guard is None else load_guard(guard)
    token = None if token_env is None else _token(token_env)
    size, span = _shape(model, shape), options.bounds_of(bounds)
    middle = torch.full((2, *size), (span[0] + span[1]) / 2)
    subject = load_model(model, x=middle, bounds=span, outputs=model_outputs, device=device, trust_pickle=trust_pickle)
    app = make_app(
        subject,
        size,
        gives=gives,
        outputs=outputs,
        guard=spec,
        token=token,
        limits=Limits(body=int(max_body * 2**20), examples=max_examples),
        rows=rows,
        threads=threads,
    )
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        typer.secho(f"mohs: {host} is open to the network and no --token-env is asked for", err=True, fg="yellow")

    def started(address: str) -> None:
        if json:
            facts = {"url": address, "model": subject.name, "shape": size, "classes": subject.classes}
            typer.echo(json_module.dumps(facts))
        else:
            typer.echo(f"{subject.name} on {address}: POST /predict, /health, /metrics, /docs; Ctrl-C stops")

    serve(app, host, port, started)
    return 0


def _token(name: str) -> str:
    token = os.environ.get(name, "").strip()
    if not token:
        raise RequestError(f"--token-env {name}: there is no such environment variable, or it is empty; export {name}=...")
    return token


def _shape(source: str, given: str | None) -> tuple[int, ...]:
    from mohs.models.shapes import input_shape

    if given is None:
        found = input_shape(source)
        if found is None:
            raise RequestError(f"{source} does not tell the shape of its inputs: say --shape, such as 1,28,28 for grey images")
        return found
    try:
        sizes = tuple(int(part) for part in given.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise RequestError(f"--shape should read 1,28,28 (one input, without the batch); not {given!r}")
    return sizes
