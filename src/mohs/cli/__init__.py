"""The command line: one module a command, each thin. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

from mohs.errors import MohsError

app = typer.Typer(
    name="mohs",
    help="A scratch test for neural networks: how much can an adversary do to your model?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


# in the order of `mohs --help`; a module of this package each
COMMANDS = (
    "audit",
    "diagnose",
    "attack",
    "curve",
    "probe",
    "substitute",
    "universal",
    "defend",
    "detect",
    "certify",
    "clever",
    "layers",
    "study",
    "train",
    "serve",
    "attacks",
    "recipes",
    "taxonomy",
    "resume",
    "runs",
    "report",
    "compare",
    "demo",
    "course",
)


def _register() -> None:
    for name in COMMANDS:
        module = import_module(f"mohs.cli.{name}")
        extra = getattr(module, "EXTRA", None)
        app.command(name, help=module.HELP, epilog=module.EXAMPLE, context_settings=extra)(_exiting(module.command))


def main() -> None:
    """Exit codes: 0 the policy is met, 1 it is not, 2 the request was wrong, 3 the run failed or was stopped."""
    _register()
    app()


def _exiting(command: Callable[..., int]) -> Callable[..., None]:
    """The command, its answer and its errors as exit codes."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            code = command(*args, **options)
        except MohsError as error:
            typer.secho(f"mohs: {error}", err=True, fg="red")
            code = error.exit_code
        except KeyboardInterrupt:
            typer.secho("mohs: stopped", err=True, fg="yellow")
            code = 3
        raise typer.Exit(code)

    return run
