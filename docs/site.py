"""The documentation site, as mkdocs calls it (`hooks` of mkdocs.yml): what it shows beside the pages of this folder.

Under every command of the course stands what it printed and made when `mohs course --out build/course` ran it. The pages of
attacks and defences are listed as their README.md lists them. What lies outside of this folder has no page, and no link.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mohs import taxonomy
from mohs.report.course import PICTURES

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "build" / "course"
LISTED = ("attacks", "defences")
BLOCK = re.compile(r"^```sh\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)\)")


# what mkdocs calls


def on_config(config: Any) -> Any:
    for part in config.nav:
        (title,) = part
        if (name := str(title).lower()) in LISTED:
            part[title] = [*part[title], *listed((ROOT / "docs" / name / "README.md").read_text(), name)]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    files.append(File.generated(config, "taxonomy.md", content=classes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    folder, _, name = page.file.src_uri.rpartition("/")
    if folder == "course":
        markdown = with_figures(markdown, shown(name.removesuffix(".md")))
    return without_outside(markdown, folder)


def on_post_build(config: Any) -> None:
    for chapter in sorted(COURSE.glob("*/shown.json")):
        for path in (path for one in json.loads(chapter.read_text()) for path in one["files"]):
            target = Path(config.site_dir) / "course" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(COURSE / path, target)


# what it does


def listed(readme: str, folder: str) -> list[Any]:
    """The pages that a README.md lists, under its headings where it has any: entries of a navigation."""
    sections: dict[str, list[Any]] = {"": []}
    for heading, name in re.findall(r"^## (.+)$|^\| \[[^\]]+\]\(([\w-]+)\.md\)", readme, re.MULTILINE):
        if heading:
            sections[heading] = []
        else:
            list(sections.values())[-1].append({name: f"{folder}/{name}.md"})
    flat = sections.pop("")
    return [*flat, *({heading: pages} for heading, pages in sections.items() if pages)]


def shown(chapter: str) -> list[dict[str, Any]]:
    """What each block of commands of a chapter showed."""
    path = COURSE / chapter / "shown.json"
    if not path.exists():
        raise SystemExit(f"{path.relative_to(ROOT)} is missing: run the course first, mohs course --out build/course")
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def with_figures(markdown: str, blocks: list[dict[str, Any]]) -> str:
    """The page of a chapter with what its commands showed, in order, beneath them."""
    left: Iterator[dict[str, Any]] = iter(blocks)

    def figure(block: re.Match[str]) -> str:
        one = next(left, None)
        if one is None or one["code"] != block[1]:
            raise SystemExit(f"the course was run before it was changed here; run it again:\n{block[1]}")
        return "\n".join([block[0], *_figure(one)])

    return BLOCK.sub(figure, markdown)


def _figure(one: dict[str, Any]) -> Iterator[str]:
    if one["printed"].strip():
        yield f'<pre class="printed"><code>{html.escape(one["printed"].rstrip())}</code></pre>\n'
    for path in one["files"]:
        name = html.escape(path, quote=True)
        if path.endswith(PICTURES):
            yield f'<figure class="made"><a href="{name}"><img src="{name}" alt="{name}"></a></figure>\n'
        else:
            yield f'<p class="made"><a href="{name}">{name.partition("/")[2]}</a></p>\n'
            yield f'<iframe src="{name}" loading="lazy" title="{name}"></iframe>\n'


def without_outside(markdown: str, folder: str) -> str:
    """Links to what lies outside of docs/ as the names of it alone."""

    def plain(link: re.Match[str]) -> str:
        return f"`{link[1]}`" if posixpath.normpath(posixpath.join(folder, link[2])).startswith("..") else link[0]

    return LINK.sub(plain, markdown)


def classes() -> str:
    """A page of `mohs taxonomy`."""
    found = taxonomy.covering()
    lines = [
        "# Taxonomy",
        "",
        "Where everything in mohs stands in the public taxonomies, and what mohs has nothing of: `mohs taxonomy`.",
        "",
    ]
    for title, table in (("NIST AI 100-2 E2025", taxonomy.NIST), ("MITRE ATLAS 5", taxonomy.ATLAS)):
        lines += [f"## {title}", "", "| class | in mohs |", "|---|---|"]
        lines += [f"| {code} {name.removeprefix(code)} | {', '.join(found[code]) or '-'} |" for code, name in table.items()]
        lines.append("")
    return "\n".join(lines)
