"""docs/studies: a page a study, of what it measured on public models and data. What a page says above its measurements is written
by hand.

    mohs study optimizers MODEL --data DATA … --json > optimizers-CASE.json
    python -m docs.studies optimizers-CASE.json …       keep what was measured, draw it, and write the pages
    python -m docs.studies                              the pages anew, from what was kept

Of a result docs/studies/NAME/CASE.json keeps all but long lists, docs/studies/NAME/CASE.png some of its figures, as a
browser draws them.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

from PIL import Image

from mohs.report.study import VERDICTS, write_page

FOLDER = Path(__file__).parent / "studies"
LONG = 40  # entries of a list of facts that is kept
COLOURS = 128  # of a picture
PREFIX = "benchmarks.cases:"
SIZE = 520, 400  # of a figure
PICTURE = """
    const [number, width, height, done] = arguments;
    const { data, layout } = document.querySelector(`.plot.flat[data-figure="${number}"], .plot.lines[data-figure="${number}"]`);
    const title = { text: JSON.parse(document.getElementById("figures").textContent)[number].title, font: { size: 14 }, y: 0.97 };
    const drawn = { data, layout: { ...layout, title, margin: { ...layout.margin, t: 40 }, paper_bgcolor: "white" } };
    Plotly.toImage(drawn, { format: "png", width, height }).then((url) => done(url.split(",")[1]));
"""


FIGURES: dict[str, tuple[str, ...]] = {  # of a study, that are drawn: those whose title has one of these texts
    "optimizers": ("Broken",),
    "directions": (
        "the mean",
        "The mean loss",
    ),
    "regions": (":",),
    "pareto": (
        "L2",
        "Linf",
    ),
    "clever": ("distances",),
    "difficulty": (),
    "holistic": (),
    "landscape": (
        "resnet20",
        "Along",
        "Sharpness",
    ),
    "transfer": (),
    "activations": (),
    "capacity": (),
    "attention": (),
}


def keep(path: Path) -> None:
    """A result, slimmed, and its picture."""
    name, _, case = path.stem.partition("-")
    found = json.loads(path.read_text())
    command = found.pop("command")
    found = json.loads(json.dumps(found).replace(PREFIX, ""))
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    if FIGURES[name]:
        draw(found | {"command": command}, folder / f"{case}.png", FIGURES[name])
    found["facts"] = [{key: value for key, value in fact.items() if not _long(value)} for fact in found["facts"]]
    for part in ("figures", "page"):
        del found[part]
    (folder / f"{case}.json").write_text(json.dumps(found | {"command": command}, indent=1, ensure_ascii=False) + "\n")


def _long(value: Any) -> bool:
    return isinstance(value, list) and (len(value) > LONG or any(isinstance(entry, list) for entry in value))


def draw(found: dict[str, Any], to: Path, titles: tuple[str, ...]) -> None:
    """The figures of these titles, flat, two beside each other."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as place:
        page = write_page(found, found, Path(place) / "page.html")
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        chrome = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        chrome.set_script_timeout(300)
        try:
            chrome.get(page.as_uri())
            while chrome.execute_script("return document.documentElement.dataset.drawn") != "yes":
                time.sleep(0.2)
            wanted = [i for i, figure in enumerate(found["figures"]) if any(title in figure["title"] for title in titles)]
            parts = [Image.open(io.BytesIO(b64decode(chrome.execute_async_script(PICTURE, i, *SIZE)))) for i in wanted]
        finally:
            chrome.quit()
    sheet = Image.new("RGB", (2 * SIZE[0], -(-len(parts) // 2) * SIZE[1]), "white")
    for i, part in enumerate(parts):
        sheet.paste(part.convert("RGB"), (i % 2 * SIZE[0], i // 2 * SIZE[1]))
    sheet.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(to, optimize=True)


def measured(name: str) -> str:
    """The part of a study's page that follows from what was kept."""
    return "\n".join(line for path in sorted((FOLDER / name).glob("*.json")) for line in _case(name, path))


def _case(name: str, path: Path) -> list[str]:
    found = json.loads(path.read_text())
    lines = ["", f"## {path.stem}", "", "```", found["command"], "```", "", found["words"], ""]
    if path.with_suffix(".png").exists():
        lines += [f"![{name}, {path.stem}]({name}/{path.stem}.png)", ""]
    lines += _table(found["table"]["columns"], found["table"]["rows"])
    verdicts = [[line["claim"], line["measured"], f"**{VERDICTS[line['held']]}**"] for line in found["claims"]]
    lines += ["", *_table(["claim", "measured", "verdict"], verdicts)]
    return lines + [f"\n{note}" for note in found["notes"]]


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("\n", ", ").replace("|", r"\|") for cell in row] for row in (columns, *rows)]
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    return [head, "|---" * len(columns) + "|", *body]


def index() -> str:
    """A line a case, of how many of its claims held."""
    rows = []
    for name in FIGURES:
        for path in sorted((FOLDER / name).glob("*.json")):
            claims = json.loads(path.read_text())["claims"]
            counts = [[line["held"] for line in claims].count(held) for held in VERDICTS]
            rows.append([f"[{name}](studies/{name}.md)", path.stem, *map(str, counts)])
    return "\n".join(_table(["study", "on", *VERDICTS.values()], rows))


def main(paths: list[str]) -> None:
    for path in paths:
        keep(Path(path))
        print(path, flush=True)
    for name in FIGURES:
        if (FOLDER / name).exists():
            put(FOLDER / f"{name}.md", measured(name))
    put(FOLDER.parent / "study.md", index())


def put(page: Path, text: str) -> None:
    """Between the marks of a page, whose rest is written by hand."""
    before, mark, rest = page.read_text().partition("<!-- measured -->\n")
    _, end, after = rest.partition("<!-- /measured -->")
    if not mark or not end:
        raise SystemExit(f"{page} has no place for what was measured")
    page.write_text(f"{before}{mark}{text}\n{end}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
