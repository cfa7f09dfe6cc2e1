"""mohs train"""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mohs.cli import options

if TYPE_CHECKING:
    from mohs.train.loop import Epoch

HELP = (
    "Train a network by a recipe of `mohs recipes`, and audit it before and after. The same command goes on with a training that "
    "was stopped. The recipe's own options are options here: --beta 6."
)
EXAMPLE = (
    "Example: `mohs train mypkg.models:resnet18 --data train.npz --recipe trades --threat linf:8/255 --epochs 30 --out hardened/`"
)
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}
errors = Console(stderr=True)


def command(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="`resnet20` and the like, `package.module:factory`, or a .pt2 file to fine-tune.", show_default=False
        ),
    ],
    data: options.Data,
    recipe: Annotated[str, typer.Option(help="A name from `mohs recipes`, or several: `trades+awp`.")] = "pgd",
    threat: Annotated[
        str | None, typer.Option(help="What it is hardened against: `linf:8/255`, `l2:0.5`.", show_default=False)
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Examples of the audits; the held-out part of --data without it.", show_default=False)
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.", min=1)] = 30,
    batch: Annotated[int, typer.Option(help="Examples in one step, of all processes together.", min=1)] = 128,
    optimizer: Annotated[str, typer.Option(help="`sgd` or `adamw`.")] = "sgd",
    rate: Annotated[
        float | None, typer.Option(help="The peak learning rate; 0.1 for sgd, 0.001 for adamw.", show_default=False)
    ] = None,
    momentum: Annotated[float, typer.Option(help="Of sgd.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Of the optimiser.")] = 5e-4,
    schedule: Annotated[str, typer.Option(help="`one-cycle`, `cosine`, `step` or `constant`.")] = "one-cycle",
    clip: Annotated[float | None, typer.Option(help="The largest norm of a gradient.", show_default=False)] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(help="`crop:4`, `flip`, `cutout:8`, `mixup:1`, `cutmix:1`. As often as wanted.", show_default=False),
    ] = None,
    average: Annotated[
        str | None, typer.Option(help="Of weights: `ema:0.999`, or `swa:0.75` from there on.", show_default=False)
    ] = None,
    validate: Annotated[float, typer.Option(help="The share of the data held out, by which the best epoch is chosen.")] = 0.1,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better one.", show_default=False)
    ] = None,
    guard: Annotated[bool, typer.Option(help="Go back, calmer, where robust accuracy breaks down.")] = True,
    keep: Annotated[str, typer.Option(help="`best` by held-out robust accuracy, or `last`.")] = "best",
    perceptual_model: options.PerceptualModel = None,
    autoencoder: options.Autoencoder = None,
    profile: Annotated[str, typer.Option(help="Of the audits.")] = "quick",
    limit: options.Limit = None,
    seed: options.Seed = 0,
    bounds: options.Bounds = "0,1",
    device: options.Device = "cpu",
    precision: Annotated[str, typer.Option(help="`32`, `bf16` or `16`.")] = "32",
    strategy: Annotated[
        str, typer.Option(help="Of several processes: `ddp`, weights whole in each, or `fsdp`, in parts.")
    ] = "ddp",
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Go on with another number of threads, whose bits differ.")
    ] = False,
    trust_pickle: options.TrustPickle = False,
    log: Annotated[
        list[str] | None,
        typer.Option(help="`tensorboard`, `mlflow`: gets the figures of every epoch. As often as wanted.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder; one named after the request without it.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs.hardening import carry_out
    from mohs.report.training import table
    from mohs.train.launch import leads
    from mohs.training_jobs import make_job

    chosen: dict[str, Any] = {
        "recipe": recipe,
        "epochs": epochs,
        "batch": batch,
        "optimizer": optimizer,
        "rate": rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "clip": clip,
        "augment": tuple(augment or ()),
        "average": average,
        "validate": validate,
        "patience": patience,
        "guard": guard,
        "keep": keep,
        "perceptual_model": perceptual_model,
        "autoencoder": autoencoder,
        "profile": profile,
        "limit": limit,
        "seed": seed,
        "bounds": options.bounds_of(bounds),
        "device": device,
        "precision": precision,
        "strategy": strategy,
        "trust_pickle": trust_pickle,
        "threat": threat,
        "test": test,
        "options": options.own(context.args),
    }
    job = make_job(model, data, **chosen)
    folder = out or _named(job.spec)
    if leads():
        _note(job.notes)
    with _watching(folder) as watch:
        found = carry_out(job, folder, watch=watch, allow_drift=allow_drift, log=log or ())
    if not leads():
        return 0
    _note([note for note in found.notes if note not in job.notes])
    if json:
        typer.echo(json_module.dumps(found.facts, indent=1))
    else:
        Console().print(table(found.facts))
        for name in ("report.html", "model.pt2", "best.safetensors", "last.safetensors"):
            if (folder / name).exists():
                typer.echo(f"{folder / name}")
    return 0


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        errors.print(f"[yellow]note[/]: {escape(note)}", highlight=False)


def _named(spec: dict[str, Any]) -> Path:
    """The same request, the same folder."""
    import hashlib

    asked = json_module.dumps([spec[name] for name in ("request", "data", "test", "weights")], sort_keys=True)
    return Path("runs") / f"train-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


@contextmanager
def _watching(folder: Path) -> Iterator[Callable[[Epoch], None]]:
    """Live progress on standard error; says how to go on when stopped."""
    columns = (
        TextColumn("[bold]epoch"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[standing]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:
        task = bars.add_task("epoch", total=None, standing="")

        def watch(epoch: Epoch) -> None:
            scored = epoch.validated
            standing = f"loss {epoch.loss:.3f}, clean {scored.clean:.1%}, robust {scored.robust:.1%}"
            standing += "" if scored.proved is None else f", proved {scored.proved:.1%}"
            bars.update(task, completed=epoch.number, total=epoch.of, standing=standing)
            if not errors.is_terminal or epoch.note.startswith(("broke", "no better")):
                errors.print(
                    f"epoch {epoch.number} of {epoch.of}: {standing} ({epoch.seconds:.1f} s) {epoch.note}", highlight=False
                )

        try:
            yield watch
        except KeyboardInterrupt:
            errors.print(f"[yellow]stopped; the epochs that are done are kept in {folder}. The same command goes on.[/]")
            raise
