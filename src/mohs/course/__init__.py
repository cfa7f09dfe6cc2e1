"""The course: chapters in Markdown, whose `mohs` commands are run as they stand; a timeline of what mohs knows."""

from mohs.course.reading import Chapter, chapters, commands
from mohs.course.tables import Entry, entries, parts

__all__ = ["Chapter", "Entry", "chapters", "commands", "entries", "parts"]
