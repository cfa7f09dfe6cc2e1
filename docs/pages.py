"""docs/attacks: a page an attack, written from its docstring, the table of attacks and a run of it on embedded examples.

    python -m docs.pages              every page anew, from what was measured
    python -m docs.pages ddn fmn      run these first: their costs and pictures
    python -m docs.pages --all        run every attack (minutes)

What a run measured is kept in docs/attacks/measured.json, so that the text of a page follows from the code alone.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import mohs
from mohs import demo
from mohs.attacks import TABLE, find
from mohs.attacks.about import about, family, linked
from mohs.attacks.base import Attack
from mohs.cli.attacks import described
from mohs.ledger import Outcome
from mohs.models import Prepared, TorchModel, prepare
from mohs.models.autoencoder import fit_autoencoder
from mohs.oracle import Oracle
from mohs.threat import ManifoldThreat, Threat, Untargeted, parse_threat

FOLDER = Path(__file__).parent / "attacks"
MEASURED = FOLDER / "measured.json"
SHOWN = {  # the budget in which an attack is shown, by the first set it moves in; of minimal attacks there is none
    "linf": "linf:0.3",
    "l2": "l2:1.5",
    "l1": "l1:6",
    "l0": "l0:6",
    "spatial": "rotation:30deg+translation:1px",
    "semantic": "hue:0.5+saturation:0.5+brightness:0.3+contrast:0.5",
    "flow": "flow:0.2",
    "recolor": "recolor:0.2",
    "wasserstein": "wasserstein:0.3",
    "perceptual": "perceptual:0.5",
    "manifold": "manifold:0.5",
    "patch": "patch:3x3",
}
COLOURED = ("semantic", "recolor")
ZOO = {"search_steps": 4, "steps": 100, "coordinates": 16, "learning_rate": 0.05, "initial_const": 1.0}  # minutes, not hours
OPTIONS: dict[str, dict[str, Any]] = {
    "stadv": {"tau": 0.005},
    "recoloradv": {"rate": 0.01},
    "zoo": ZOO,
}  # where defaults show little
EXAMPLES, COLUMNS = 16, 4
SIDE, GAP = 80, 6  # of the picture, in pixels


# a run


def run(name: str) -> dict[str, Any]:
    """Measure an attack and draw it; returns its entry of measured.json."""
    kind = find(name)
    if kind.sets[0] not in SHOWN:
        raise SystemExit(f"{name} moves in {kind.sets[0]}, and docs/pages.py has no budget to show it in: add a line to SHOWN")
    threat = parse_threat(SHOWN[kind.sets[0]])
    threat = threat.minimal() if kind.minimal else threat
    model, x, y = _examples(kind)
    if isinstance(threat, ManifoldThreat):
        threat = threat.given(fit_autoencoder(x, threat.bounds))
    outcome = _attacked(name, kind, model, x, y, threat)
    chosen = _different(outcome, y)
    if not chosen:
        raise SystemExit(f"{name} broke none of {len(x)} examples at {threat}: give it more in SHOWN or OPTIONS of docs/pages.py")
    forwards = outcome.forwards if outcome.forwards.any() else outcome.queries  # by labels, it is the judge that is asked
    magnified = _draw(FOLDER / f"{name}.png", x[chosen], outcome.adversarial[chosen])
    return {
        "settings": kind().spec(),
        "options": OPTIONS.get(name, {}),
        "threat": str(threat),
        "images": "patches of two photographs" if kind.sets[0] in COLOURED else "digits",
        "examples": len(x),
        "broken": int(outcome.broken.sum()),
        "forwards": round(float(forwards.double().mean()), 1),
        "backwards": round(float(outcome.backwards.double().mean()), 1),
        "distance": float(f"{float(outcome.distance.median()):.3g}") if kind.minimal else None,
        "labels": [[int(y[i]), int(outcome.label[i])] for i in chosen],
        "magnified": magnified,
    }


def _examples(kind: type[Attack]) -> tuple[nn.Module | Prepared, Tensor, Tensor]:
    if kind.sets[0] in COLOURED:
        return photographs()
    return demo.transfer_example(EXAMPLES) if family(kind) == "transfer" or kind.aided else demo.example(EXAMPLES)


def _attacked(name: str, kind: type[Attack], model: nn.Module | Prepared, x: Tensor, y: Tensor, threat: Threat) -> Outcome:
    options = OPTIONS.get(name, {})
    if name in ("bisection", "squeeze"):  # which begin where another attack ended
        assert isinstance(model, nn.Module)
        prepared = prepare(TorchModel(model, classes=10), x)
        oracle = Oracle.begin(prepared, threat, Untargeted(), x, y, ids=torch.arange(len(x)), stop=False)
        before = find("deepfool")().on(oracle)
        outcome = kind(**options).on(oracle)
        for passes in ("forwards", "backwards"):
            getattr(outcome, passes).sub_(getattr(before, passes))
        outcome.forwards.add_(outcome.queries - before.queries)
        return outcome
    if name == "replay":  # of a change made elsewhere
        options = {"point": mohs.universal("demo", "digits", threat=str(threat)).point}
    if isinstance(model, Prepared):
        threat = parse_threat(f"{threat}+knowledge:{kind.knowledge if kind.aided else 'transfer'}")
    return kind(**options)(model, x, y, threat=threat)


@cache
def photographs() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that tells which of scikit-learn's two photographs, a temple and a flower, a patch of 32 x 32 pixels
    is from; trained in seconds. And patches that it has not seen and is right about."""
    from sklearn.datasets import load_sample_images

    images = [torch.from_numpy(image[::4, ::4].copy()).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
    draw = torch.Generator().manual_seed(0)

    def patches(n: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % 2
        corners = (torch.rand(n, 2, generator=draw) * torch.tensor([images[0].shape[1] - 32, images[0].shape[2] - 32])).long()
        cut = [images[int(k)][:, i : i + 32, j : j + 32] for k, (i, j) in zip(y, corners.tolist(), strict=True)]
        return torch.stack(cut), y

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 2),
        )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        x, y = patches(32)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    model.eval()
    x, y = patches(2 * EXAMPLES)
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:EXAMPLES, 0]
    return model, x[right], y[right]


def _different(outcome: Outcome, y: Tensor) -> list[int]:
    """The first broken examples, of one class each as far as they go."""
    broken = outcome.broken.nonzero()[:, 0].tolist()
    first = [i for i in broken if int(y[i]) not in y[[j for j in broken if j < i]].tolist()]
    return [*first, *(i for i in broken if i not in first)][:COLUMNS]


def _draw(path: Path, x: Tensor, adversarial: Tensor) -> int:
    """Rows: clean, changed by, adversarial. Returns how many times the change is magnified."""
    change = adversarial - x
    magnified = max(1, int(0.5 / max(float(change.abs().max()), 1e-3)))
    rows = (x, 0.5 + magnified * change, adversarial)
    sheet = Image.new("RGB", (len(x) * (SIDE + GAP) - GAP, 3 * (SIDE + GAP) - GAP), "white")
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            pixels = np.rint(image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(tile, (j * (SIDE + GAP), i * (SIDE + GAP)))
    sheet.quantize(128).save(path, "PNG", optimize=True)
    return magnified


# the text


def measured() -> dict[str, dict[str, Any]]:
    return json.loads(MEASURED.read_text()) if MEASURED.exists() else {}


def stale() -> list[str]:
    """Attacks whose defaults are not those that were measured."""
    known = measured()
    return [name for name in sorted(TABLE) if known.get(name, {}).get("settings") != json.loads(json.dumps(find(name)().spec()))]


def page(name: str, found: dict[str, Any]) -> str:
    kind = find(name)
    said, facts = about(kind), described(name)
    first, *rest = said.method
    refused = {goal: answer for goal, answer in facts["goals"].items() if not answer.startswith("yes")}
    served = ", ".join(goal for goal in facts["goals"] if goal not in refused)
    table = {
        "needs": facts["needs"],
        "moves in": ", ".join(f"`{kind}`" for kind in kind.sets),
        "looks for": facts["looks for"],
        "passes at most, of ten classes": facts["passes (10 classes)"],
        "measured": _measured(found),
        "[goals](../goals.md)": served,
        **refused,
    }
    source = f"src/{kind.__module__.replace('.', '/')}.py"
    return "\n".join(
        [
            f"<!-- written by `python -m docs.pages` from {source}: edit the docstring there -->",
            f"# {name}",
            "",
            linked(_marked(first)),
            "",
            f"{linked(facts['paper'])}. Source: [{source}](../../{source})",
            "",
            f"![{name}]({name}.png)",
            "",
            f"*{_caption(found)}*",
            "",
            "## When to use it",
            "",
            linked(said.when[:1].upper() + said.when[1:]),
            "",
            "## Facts and cost",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in table.items()),
            "",
            *(["## Method", "", *(linked(_marked(part)) + "\n" for part in rest)] if rest else []),
            "## Options",
            "",
            "| option | default |",
            "|---|---|",
            *(f"| `{option}` | `{default!r}` |" for option, default in facts["options"].items()),
            "",
            "## Example",
            "",
            "```python",
            said.example,
            "```",
            "",
            f"In a shell: `mohs attack {name} MODEL --data DATA{'' if kind.minimal else ' --threat ' + SHOWN[kind.sets[0]]}`. "
            "[All attacks](README.md)",
            "",
        ]
    )


def index() -> str:
    """The attacks by family, in the order of the table."""
    lines = [
        "<!-- written by `python -m docs.pages` -->",
        "# Attacks",
        "",
        "`mohs attacks` lists them, `mohs attacks NAME` tells all about one. Passes are those of an example that survives, of a",
        "model of ten classes.",
    ]
    families = sorted(TABLE, key=lambda name: list(dict.fromkeys(map(_family, TABLE))).index(_family(name)))
    for title, names in groupby(families, _family):
        said = (import_module(f"mohs.attacks.{title}").__doc__ or "").strip()
        lines += [
            "",
            f"## {title}",
            "",
            said,
            "",
            "| attack | paper | needs | moves in | looks for | passes |",
            "|---|---|---|---|---|---|",
        ]
        for name in names:
            facts = described(name)
            row = (f"[{name}]({name}.md)", linked(facts["paper"]), facts["needs"], facts["sets"], facts["looks for"])
            lines.append(f"| {' | '.join(row)} | {facts['passes (10 classes)']} |")
    return "\n".join(lines) + "\n"


def _family(name: str) -> str:
    return family(find(name))


def _measured(found: dict[str, Any]) -> str:
    options = "".join(f", {key}={value}" for key, value in found["options"].items())
    nearest = f", median distance {found['distance']:g}" if found["distance"] is not None else ""
    return (
        f"{found['broken']} of {found['examples']} {found['images']} broken at `{found['threat']}`{options}{nearest}; "
        f"{found['forwards']:g} forward and {found['backwards']:g} backward passes an example"
    )


def _caption(found: dict[str, Any]) -> str:
    changes = ", ".join(f"{before} to {after}" for before, after in found["labels"])
    times = f", {found['magnified']} times as strong" if found["magnified"] > 1 else ""
    return f"From above: clean, the change{times}, adversarial, at {found['threat']}. Classes: {changes}."


def _marked(text: str) -> str:
    """Stars and underscores as they are."""
    return text if "`" in text else text.replace("*", r"\*").replace("_", r"\_")


def write() -> None:
    known = measured()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        if old.suffix in (".md", ".png") and old.stem not in (*TABLE, "README"):
            old.unlink()
    for name in TABLE:
        (FOLDER / f"{name}.md").write_text(page(name, known[name]))
    (FOLDER / "README.md").write_text(index())


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in sorted(TABLE) if names == ["--all"] else names:
        entry = run(name)
        MEASURED.write_text(json.dumps(dict(sorted({**measured(), name: entry}.items())), indent=1) + "\n")
        print(f"{name}: {_measured(entry)}", flush=True)
    if stale():
        raise SystemExit(f"not measured with their present defaults: run python -m docs.pages {' '.join(stale())}")
    write()


if __name__ == "__main__":
    main(sys.argv[1:])
