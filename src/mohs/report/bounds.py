"""Pages of what certificates and estimates found, from their JSON alone: one HTML file that opens anywhere and asks nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mohs.errors import RunError
from mohs.report.page import environment
from mohs.report.words import number, percent

WIDTH, HEIGHT = 640, 260  # of a drawing


def save_smoothing(facts: dict[str, Any], folder: Path) -> list[Path]:
    """Write `smoothing.json` and `report.html` into a folder."""
    return _save(folder, "smoothing", facts, "smoothing.html.j2", {"steps": certified(facts)})


def save_clever(facts: dict[str, Any], folder: Path) -> list[Path]:
    """Write `clever.json` and `report.html` into a folder."""
    return _save(folder, "clever", facts, "clever.html.j2", {})


def certified(facts: dict[str, Any]) -> dict[str, Any]:
    """Certified accuracy against the radius, as a falling step curve in a WIDTH x HEIGHT drawing."""
    radii = sorted(example["radius"] for example in facts["examples"] if example["radius"] > 0)
    end = max([*radii, *(row["radius"] for row in facts["certified_accuracy"])], default=0.0) or 1.0
    n = facts["n"]
    points = [(0.0, len(radii))]
    for k, radius in enumerate(radii):
        points += [(radius, len(radii) - k), (radius, len(radii) - k - 1)]
    points.append((end, 0 if end in radii else points[-1][1]))
    path = " ".join(f"{WIDTH * r / end:.1f},{HEIGHT * (1 - k / n):.1f}" for r, k in points)
    return {"path": path, "end": end, "width": WIDTH, "height": HEIGHT}


def place(folder: str | Path, name: str) -> Path:
    """A folder to write `name`.json to, before the work; RunError where it holds something, or is a file."""
    from mohs.store.run import unused

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; --out names a folder")
    if not unused(folder, f"{name}.json"):
        raise RunError(f"{folder} exists and is not empty; name another folder")
    return folder


def _save(folder: Path, name: str, facts: dict[str, Any], template: str, more: dict[str, Any]) -> list[Path]:
    from mohs.store.faults import write_durably

    place(folder, name)
    jinja = environment()
    jinja.globals |= {"number": number, "percent": percent}
    page = jinja.get_template(template).render(facts=facts, **more)
    folder.mkdir(parents=True, exist_ok=True)
    written: Sequence[tuple[Path, str]] = [
        (folder / f"{name}.json", json.dumps(facts, indent=1)),
        (folder / "report.html", page),
    ]
    for path, text in written:
        write_durably(path, text.encode())
    return [path for path, _ in written]
