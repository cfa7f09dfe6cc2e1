"""docs/train.md: its table of recipes, written from the recipes and from what was measured.

python -m docs.recipes            the table anew
python -m docs.recipes pgd fast   train these first, on the embedded digits: what came out is kept in docs/recipes.json
python -m docs.recipes --all      train by every recipe (minutes)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from mohs.attacks.about import linked
from mohs.cli.recipes import listed
from mohs.hardening import harden
from mohs.train import MODIFIERS

PAGE, MEASURED = Path(__file__).parent / "train.md", Path(__file__).parent / "recipes.json"
FROM, TO = "<!-- recipes: written by `python -m docs.recipes` -->", "<!-- end of recipes -->"
SETTINGS: dict[str, Any] = {"epochs": 30, "batch": 64, "rate": 0.05}
THREATS = {
    "perceptual": "perceptual:0.5",
    "smooth-adv": "l2:0.5",
    "macer": "l2:0.5",
    "gaussian": "l2:0.5",
    "ibp": "linf:0.1",
    "crown-ibp": "linf:0.1",
}
OPTIONS: dict[str, dict[str, Any]] = {name: {"others": "l2:1"} for name in ("max", "avg", "msd")}
AROUND = "pgd"  # what a modifier is shown on


def run(name: str) -> dict[str, Any]:
    """Train a small network by a recipe, and audit it before and after."""
    recipe = f"{AROUND}+{name}" if name in MODIFIERS else name
    threat, options = THREATS.get(name, "linf:0.2"), OPTIONS.get(name, {})
    with tempfile.TemporaryDirectory() as folder:
        found = harden(
            "mlp", "digits:train", out=Path(folder) / "out", test="digits", recipe=recipe, threat=threat, **SETTINGS, **options
        )
        shares = {name.removesuffix("_accuracy"): round(share, 4) for name, share in found.facts["after"].items()}
        return {"threat": threat, **shares}


def measured() -> dict[str, dict[str, Any]]:
    return json.loads(MEASURED.read_text()) if MEASURED.exists() else {}


def table() -> str:
    """A row a recipe, then a row a modifier."""
    known = measured()
    lines = [
        "| recipe | for | a step costs | digits: threat, clean, robust | paper |",
        "|---|---|---|---|---|",
    ]
    for row in listed():
        found = known.get(row["name"].removeprefix("+"))
        shown = f"{AROUND}{row['name']}" if row["name"].startswith("+") else row["name"]
        came = f"{found['threat']}: {found['clean']:.1%}, {found['robust']:.1%}{_proved(found)}" if found else "not measured"
        lines.append(f"| `{shown}` | {row['for']} | {row['cost']} | {came} | {linked(row['paper'])} |")
    return "\n".join(lines)


def _proved(found: dict[str, Any]) -> str:
    return f", proved {found['proved']:.1%}" if "proved" in found else ""


def page() -> str:
    """The page with its table as it should be."""
    before, _, rest = PAGE.read_text().partition(FROM)
    _, _, after = rest.partition(TO)
    return f"{before}{FROM}\n{table()}\n{TO}{after}"


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in [row["name"].removeprefix("+") for row in listed()] if names == ["--all"] else names:
        found = {**measured(), name: run(name)}
        MEASURED.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {found[name]}", flush=True)
    PAGE.write_text(page())


if __name__ == "__main__":
    main(sys.argv[1:])
