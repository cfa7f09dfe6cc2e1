"""The course as a folder of pages that open offline: Markdown, with what its commands printed and made under each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from mohs.report.page import environment, put

PICTURES = (".png", ".svg")
WIDTH, MARGIN, LINE, LETTER = 880, 52, 20, 7.4  # of a picture, in pixels; a letter's width is an upper guess
NBSP = "\u00a0"
COLOURS = {  # by light, by dark
    "attack": ("#c2410c", "#fb923c"),
    "defence": ("#7e22ce", "#d8b4fe"),
    "training": ("#15803d", "#86efac"),
    "detector": ("#1d4ed8", "#93c5fd"),
    "certificate": ("#a16207", "#fde047"),
}


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
    """An SVG: a row a year, with the names of its methods in the colour of their kind. entries: with year, kind, name, paper."""
    parts, x, y = [], 0.0, 2.0 * LINE
    kinds = [f'<tspan class="{kind}">{kind}{NBSP * 4}</tspan>' for kind in dict.fromkeys(entry.kind for entry in entries)]
    parts.append(f'<text x="{MARGIN}" y="{LINE}" font-weight="bold">{"".join(kinds)}</text>')
    for year in range(min(entry.year for entry in entries), max(entry.year for entry in entries) + 1):
        x, y = MARGIN, y + LINE
        parts.append(f'<line class="rule" x1="0" x2="{WIDTH}" y1="{y - 0.8 * LINE:g}" y2="{y - 0.8 * LINE:g}"/>')
        parts.append(f'<text x="0" y="{y}" font-weight="bold">{year}</text>')
        for entry in (entry for entry in entries if entry.year == year):
            wide = LETTER * len(entry.name) + 14
            if x + wide > WIDTH:
                x, y = MARGIN, y + LINE
            said = f"{escape(entry.name)}<title>{escape(entry.paper)}</title>"
            parts.append(f'<text class="{entry.kind}" x="{x:g}" y="{y}">{said}</text>')
            x += wide
        y += 0.5 * LINE
    return _svg("Attacks and defences by year", parts, y)


def pipeline(parts: Mapping[str, Sequence[tuple[str, int]]]) -> str:
    """An SVG: the parts of a machine learning system from left to right, beneath each the attacks on it and how many mohs has."""
    wide = WIDTH / len(parts)
    drawn, last = [], 0
    for i, (part, attacks) in enumerate(parts.items()):
        x = wide * i
        drawn.append(f'<rect class="box" x="{x + 2:g}" y="2" width="{wide - 24:g}" height="{1.8 * LINE:g}" rx="4"/>')
        drawn.append(f'<text x="{x + 10:g}" y="{1.25 * LINE:g}" font-weight="bold">{escape(part)}</text>')
        if i + 1 < len(parts):
            drawn.append(f'<text x="{x + wide - 18:g}" y="{1.25 * LINE:g}">→</text>')
        y = 3.0 * LINE
        for name, count in attacks:
            for line in _wrapped(name, int((wide - 24) / LETTER)):
                drawn.append(f'<text x="{x + 10:g}" y="{y:g}">{escape(line)}</text>')
                y += 0.9 * LINE
            kind, said = ("training", f"{count} in mohs") if count else ("attack", "none in mohs")
            drawn.append(f'<text class="{kind}" x="{x + 10:g}" y="{y:g}">{said}</text>')
            y += 1.3 * LINE
        last = max(last, int(y))
    return _svg("What attacks which part of a machine learning system", drawn, last)


def _wrapped(text: str, letters: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, letters, break_long_words=False)


def _svg(title: str, parts: Sequence[str], height: float) -> str:
    """A picture of that height whose colours are those of the reader's system, light or dark."""
    light, dark = ("".join(f".{name} {{ fill: {pair[k]}; }}\n" for name, pair in COLOURS.items()) for k in (0, 1))
    style = (
        "text { fill: #111111; }\n.rule { stroke: #8888; }\n.box { fill: none; stroke: #888; }\n"
        f"{light}@media (prefers-color-scheme: dark) {{\ntext {{ fill: #e8e8e8; }}\n{dark}}}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
            'font-family="sans-serif" font-size="13">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>",
            *parts,
            "</svg>",
            "",
        ]
    )
