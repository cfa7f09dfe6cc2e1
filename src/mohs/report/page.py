"""What every page is written with."""

from __future__ import annotations

import base64
import os
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mohs.errors import RequestError
from mohs.report import words

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """Of the templates. Everything that is put into them is escaped on its way in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.globals |= {"words": words}
    return jinja


def put(page: str, path: str | Path) -> Path:
    """Write a page, whole or not at all; RequestError where it cannot be written."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RequestError(f"cannot write the page {path}: {error.strerror}") from error
    return path


@cache
def plotly() -> str:
    """plotly.js, deflated and in base64: 2 MB instead of 5, and the page names no address of its makers."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(zlib.compress(get_plotlyjs().encode(), 6)).decode()
