"""The command line: one module a command, each thin. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

from mohs.errors import MohsError

TRACEBACK = "MOHS_TRACEBACK"

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
        except BrokenPipeError:  # whoever read the output has left
            raise
        except Exception as error:
            code = _told(error)
        except KeyboardInterrupt:
            typer.secho("mohs: stopped", err=True, fg="yellow")
            code = 3
        raise typer.Exit(code)

    return run


def _told(error: Exception) -> int:
    """An error in one line, and its traceback where the environment asks for it; its exit code, 3 where nobody foresaw it."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    if isinstance(error, MohsError):
        typer.secho(f"mohs: {error}", err=True, fg="red")
        return error.exit_code
    said = (str(error).strip().splitlines() or ["no more is known"])[0]
    how = (
        f"a fault of mohs, or of code that it was given: {TRACEBACK}=1 shows where. A run that had begun goes on by `mohs resume`"
    )
    typer.secho(f"mohs: {type(error).__name__}: {said}; {how}", err=True, fg="red")
    return 3
