"""The course as a folder of pages that open offline: Markdown, with what its commands printed and made under each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from mohs.report.page import environment, put

PICTURES = (".png", ".svg")
COLUMN, ROW = 160, 17  # of the timeline, in pixels
COLOURS = {"attack": "#c2410c", "training": "#15803d", "detector": "#1d4ed8"}


@dataclass(frozen=True)
class Shown:
    """What a command printed, and the files it made that a page can show, by their paths from the page."""

    printed: str
    failed: str
    files: tuple[str, ...]


Run = Callable[[str, str], Shown | None]  # of a block's information and code


def write_chapter(chapter: Any, others: Sequence[Any], run: Run, path: Path, mohs: str) -> Path:
    """Write a chapter's page. chapter, others: with title, text and folder. run: a block of code."""
    page = (
        environment()
        .get_template("course.html.j2")
        .render(body=body(chapter.text, run), chapter=chapter, chapters=others, mohs=mohs)
    )
    return put(page, path)


def write_index(chapters: Sequence[Any], path: Path, mohs: str) -> Path:
    return put(environment().get_template("course.html.j2").render(body=None, chapter=None, chapters=chapters, mohs=mohs), path)


def body(text: str, run: Run) -> str:
    """HTML of Markdown; HTML in it is escaped. A block is followed by what it shows."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    written = []
    tokens = reader.parse(text)
    for token in tokens:
        written.append(reader.renderer.render([token], reader.options, {}))
        if token.type == "fence" and (shown := run(token.info.strip(), token.content)):
            written.append(_shown(shown))
    return "".join(written)


def _shown(shown: Shown) -> str:
    parts = [f'<pre class="out">{escape(shown.printed)}</pre>'] if shown.printed.strip() else []
    if shown.failed:
        parts.append(f'<p class="notice">{escape(shown.failed)}</p>')
    for file in shown.files:
        name = escape(file, quote=True)
        if file.endswith(PICTURES):
            parts.append(f'<figure><a href="{name}"><img src="{name}" alt="{name}"></a></figure>')
        else:
            parts.append(
                f'<p><a href="{name}">{name}</a></p><iframe src="{name}" loading="lazy" title="{name}" tabindex="0"></iframe>'
            )
    return "\n".join(parts)


def timeline(entries: Sequence[Any]) -> str:
    """An SVG: a column a year, the names of its methods under it, in the colour of their kind. entries: with year, kind, name,
    paper."""
    years = list(range(min(entry.year for entry in entries), max(entry.year for entry in entries) + 1))
    by = {year: [entry for entry in entries if entry.year == year] for year in years}
    width, height = COLUMN * len(years), ROW * (max(map(len, by.values())) + 4)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        "<title>Attacks and defences by year</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for i, (kind, colour) in enumerate(COLOURS.items()):
        lines.append(f'<text x="{8 + COLUMN * i}" y="{ROW}" fill="{colour}" font-weight="bold">{kind}</text>')
    for i, (year, there) in enumerate(by.items()):
        x = COLUMN * i
        lines.append(f'<text x="{x + 8}" y="{ROW * 2.5:g}" fill="#111111" font-weight="bold">{year}</text>')
        lines.append(f'<line x1="{x}" x2="{x + COLUMN}" y1="{ROW * 2.8:g}" y2="{ROW * 2.8:g}" stroke="#999999"/>')
        for k, entry in enumerate(there):
            said = f"{escape(entry.name)}<title>{escape(entry.paper)}</title>"
            lines.append(f'<text x="{x + 8}" y="{ROW * (k + 4):g}" fill="{COLOURS[entry.kind]}">{said}</text>')
    return "\n".join([*lines, "</svg>", ""])
