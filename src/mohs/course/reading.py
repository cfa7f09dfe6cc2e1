"""The chapters: files of this folder, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mohs.errors import UnknownName

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Chapter:
    """name: of its file, without the number. text: Markdown."""

    number: int
    name: str
    text: str

    @property
    def title(self) -> str:
        return self.text.partition("\n")[0].lstrip("# ").strip()

    @property
    def folder(self) -> str:
        """Where its commands run, and the name of its page."""
        return f"{self.number:02}-{self.name}"


def chapters(only: list[str] | None = None) -> list[Chapter]:
    """All, in order, or those that are named; UnknownName."""
    found = []
    for path in sorted(FOLDER.glob("[0-9][0-9]-*.md")):
        number, _, name = path.stem.partition("-")
        found.append(Chapter(int(number), name, path.read_text(encoding="utf-8")))
    for name in only or []:
        if name not in (known := [chapter.name for chapter in found]):
            raise UnknownName("chapter", name, known)
    return [chapter for chapter in found if not only or chapter.name in only]


def commands(code: str) -> Iterator[list[str]]:
    """The words of every `mohs` command of a block; a backslash joins lines, & ends one that stays while others run."""
    import shlex

    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "mohs":
            yield words[1:]
