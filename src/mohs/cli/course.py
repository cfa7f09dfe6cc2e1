"""mohs course"""

from __future__ import annotations

import contextlib
import io
import json as json_module
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from unittest import mock

import typer

from mohs.cli import options
from mohs.errors import RequestError, RunFailed

if TYPE_CHECKING:
    from mohs.report.course import Shown

HELP = "Run every figure of the course on the embedded digits, in order, into one folder of pages that open offline."
EXAMPLE = "Example: `mohs course --out site/`"
COLUMNS = "100"  # of a terminal, on the pages
WAIT = 120  # seconds for a server to listen


def command(
    out: Annotated[Path, typer.Option(help="The folder; begin with site/index.html.")] = Path("site"),
    chapter: Annotated[
        list[str] | None, typer.Option(help="One chapter alone, such as `motivation`. As often as wanted.", show_default=False)
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Draw the timeline of attacks and defences into this .svg, and stop.", show_default=False)
    ] = None,
    pipeline: Annotated[
        Path | None, typer.Option(help="Draw what attacks which part of a system into this .svg, and stop.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> int:
    from mohs import course
    from mohs.cli.show import errors
    from mohs.report import course as drawing
    from mohs.report.course import write_chapter, write_index
    from mohs.report.page import put

    if timeline is not None or pipeline is not None:
        pictures = {"timeline": timeline, "pipeline": pipeline}
        for name, path in pictures.items():
            options.check_page(path, f"--{name}", ".svg")
        made = {name: str(path) for name, path in pictures.items() if path is not None}
        if timeline is not None:
            put(drawing.timeline(course.entries()), timeline)
        if pipeline is not None:
            put(drawing.pipeline(course.parts()), pipeline)
        typer.echo(json_module.dumps(made) if json else "\n".join(made.values()))
        return 0
    every, wanted = course.chapters(), course.chapters(chapter)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "index.html").exists())):
        raise RequestError(f"{out} exists and holds no course; name another folder with --out")
    version, failed = metadata.version("mohs"), list[str]()
    for one in wanted:
        errors.print(f"chapter {one.number} of {len(every)}: {one.title}", highlight=False)
        with contextlib.ExitStack() as servers:
            runner = _Runner(_fresh(out / one.folder), servers, failed)
            write_chapter(one, every, runner.run, out / f"{one.folder}.html", version)
            put(json_module.dumps(runner.shown, indent=1), out / one.folder / "shown.json")
    index = write_index(every, out / "index.html", version)
    if json:
        typer.echo(json_module.dumps({"index": str(index), "chapters": [one.folder for one in wanted], "failed": failed}))
    else:
        typer.echo(str(index))
    if failed:
        raise RunFailed(f"commands of the course failed, and its pages say so: {'; '.join(failed)}")
    return 0


class _Runner:
    """Runs the commands of a chapter in its folder, in this process; servers beside it."""

    def __init__(self, folder: Path, servers: contextlib.ExitStack, failed: list[str]) -> None:
        self.folder, self.servers, self.failed = folder, servers, failed
        self.shown: list[dict[str, object]] = []  # of each block of commands, for the documentation site

    def run(self, info: str, code: str) -> Shown | None:
        """A block: commands of `sh`, a file of `title="NAME"`; nothing else is shown."""
        from mohs.course import commands
        from mohs.report.course import Shown

        if title := re.search(r'title="([\w.-]+)"', info):
            (self.folder / title[1]).write_text(code)
        if info != "sh":
            return None
        printed, told, before = "", [], self._files()
        with contextlib.chdir(self.folder):
            for words in commands(code):
                said, wrong = self._serve(words[:-1]) if words[-1] == "&" else _call(words)
                printed += said
                if wrong:
                    told.append(f"mohs {' '.join(words)}: {wrong}")
        self.failed += told
        made = sorted((path for path in self._files() if path not in before), key=lambda path: path.stat().st_mtime_ns)
        shown = Shown(printed, "; ".join(told), tuple(path.relative_to(self.folder.parent).as_posix() for path in made))
        self.shown.append({"code": code, **asdict(shown)})
        return shown

    def _files(self) -> list[Path]:
        """What a page can show. The report of a run within another is left to the other's."""
        found = sorted(path for path in self.folder.rglob("*") if path.suffix in (".html", ".png", ".svg"))
        return [path for path in found if not any((above / "report.html").exists() for above in path.parents[1:])]

    def _serve(self, words: list[str]) -> tuple[str, str]:
        port = int(words[words.index("--port") + 1])
        with open("serve.log", "w") as log:
            server = subprocess.Popen([sys.executable, "-m", "mohs", *words], stdout=log, stderr=log)
        self.servers.callback(server.wait)
        self.servers.callback(server.terminate)  # first: what was called back last goes first
        for _ in range(WAIT * 10):
            if server.poll() is not None:
                return "", f"ended: {Path('serve.log').read_text().strip()}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return "", ""
            time.sleep(0.1)
        return "", f"does not listen on port {port} after {WAIT} s"


def _call(words: list[str]) -> tuple[str, str]:
    """What a command prints, and why it failed, else nothing."""
    from mohs.cli import app

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": COLUMNS, "NO_COLOR": "1"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = app(words, standalone_mode=False)
        except Exception as error:  # whatever it is, the page says it, and the course goes on
            return out.getvalue(), str(error) or repr(error)
    return out.getvalue(), err.getvalue().strip().splitlines()[-1] if code else ""


def _fresh(folder: Path) -> Path:
    """An empty folder: what an earlier course left there goes."""
    import shutil

    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder
