"""What a detector is worth, read from the run of `mohs detect`: for a terminal and for the page."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mohs.report.words import percent
from mohs.store import Run
from mohs.store.verdict import wilson

FILE = "detection.json"
SIDE = 200  # of the drawing of a ROC curve
COLUMNS = {
    "undefended": "no detector",
    "ignoring": "detector ignored",
    "adaptive": "both attacked",
    "joint": "whichever is worse",
}


def read(run: Run) -> dict[str, Any] | None:
    """The facts of a run of `mohs detect` that has ended; None of any other."""
    path = run.folder / FILE
    return json.loads(path.read_text()) if path.exists() else None


def drawing(threat: dict[str, Any]) -> str:
    """The points of a ROC curve, for a polyline: to the right false alarms, upwards attacked inputs found."""
    return " ".join(f"{SIDE * fpr:.1f},{SIDE * (1 - tpr):.1f}" for fpr, tpr in threat["roc"])


def share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def lines(facts: dict[str, Any]) -> list[str]:
    """What holds whatever the threat."""
    clean, alarms, detector = facts["clean"], facts["false_alarms"], facts["detector"]
    low, high = wilson(round(alarms["test"] * facts["n"]), facts["n"])
    settings = ", ".join(f"{name} {value}" for name, value in detector["settings"].items())
    told = [
        f"{detector['name']} ({detector['paper']}){f': {settings}' if settings else ''}",
        f"threshold {facts['threshold']:.4g}: {percent(alarms['held_out'])} of {alarms['n']} held-out clean inputs are rejected, "
        f"at most {percent(alarms['asked'])} were to be; of the {facts['n']} it is tried on, {percent(alarms['test'])} "
        f"[{percent(low)}, {percent(high)}]",
        f"clean accuracy {percent(clean['guarded'])}, {percent(clean['undefended'])} without: a rejected clean input is an error",
        f"a pass takes {facts['latency']:.1f} times as long as without",
    ]
    for threat in facts["threats"]:
        if threat["missed"]:
            told.append(
                f"{threat['text']}: {threat['missed']} examples that the attack on both left standing fell to attacks that "
                "ignore the detector: its gradients mislead, so take the last column, and a stronger profile"
            )
    return told


def summary(facts: dict[str, Any]) -> RenderableType:
    """A row a threat."""
    stamp = (
        f"AUROC and shares found: last points of PGD-40 that fool the model, against clean inputs it has right. Robust accuracy: "
        f"profile {facts['profile']}, n = {facts['n']}; misclassified inputs that are rejected do not count as broken, and clean "
        "ones that are count as errors"
    )
    table = Table(box=None, pad_edge=False, header_style="bold", caption=stamp, caption_justify="left")
    table.add_column("threat")
    for name in ("AUROC", *(f"found at {percent(at['fpr'])}" for at in facts["threats"][0]["tpr"]), *COLUMNS.values()):
        table.add_column(name, justify="right")
    for threat in facts["threats"]:
        found = [share(at["tpr"]) for at in threat["tpr"]]
        auroc = "–" if threat["auroc"] is None else f"{threat['auroc']:.3f}"
        table.add_row(Text(threat["text"]), auroc, *found, *(share(threat[name]["low"]) for name in COLUMNS))
    return Group(table, *(Text(line) for line in lines(facts)))
