"""Runs made by hand, record by record, for tests of whatever reads them; and pictures of a page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mohs.store import SCHEMA, Run, Unit

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

EVIL = "<script>alert('</script>')</script>"


def row(id: int, stage: int, status: str, **more: Any) -> dict[str, Any]:
    """One record; a success is at half the budget of `spec` and reaches class 1 unless said otherwise."""
    broken = status == "broken"
    usual = {"y": 0, "threat": -1 if stage < 0 else 0, "goal": 0, "target": -1, "reason": ""}
    usual |= {"distance": (0.0 if stage < 0 else 0.05) if broken else np.inf, "margin": 0.5 if broken else -0.5}
    usual |= {"label": int(broken) if stage < 0 or broken else -1, "hits": 1, "trials": 1, "attack": f"stage {stage}"}
    usual |= {"queries": 3, "queries_to_success": 2 if broken else -1, "forwards": 3, "backwards": 2, "seconds": 0.25}
    return {"id": id, "stage": stage, "status": status, **usual, **({"attack": "clean"} if stage < 0 else {}), **more}


def stage(name: str, kind: str = "decide", inapplicable: str | None = None, note: str | None = None) -> dict[str, Any]:
    attacks = [{"attack": name, "steps": 100, "loss": "cross_entropy"}]
    return {"name": name, "kind": kind, "attacks": attacks, "inapplicable": inapplicable, "note": note}


def threat(text: str = "linf:0.1", epsilon: float = 0.1, stages: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    words = "An adversary who knows the model and its gradients may change every value a little."
    stages = [stage("stage 0"), stage("stage 1")] if stages is None else stages
    named = {"text": text, "name": text.partition(":")[0], "epsilon": epsilon, "rounding": 1e-7, "words": words}
    return {**named, "knowledge": "gradient", "minimal": bool(np.isinf(epsilon)), "stages": stages, "notes": []}


def spec(n: int, threats: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """What `run.json` holds."""
    plan = {"n": n, "seed": 0, "rows": 128, "quantum": 16, "cohort": 256, "threads": 2, "slack": 2e-5, "noise": 1e-6}
    plan |= {"profile": {"name": "standard", "version": "1.0", "words": "AutoAttack's standard version"}, "draws": 1}
    plan |= {"time": None, "precision": "float32, successes confirmed in float64", "goals": ["untargeted"]}
    plan |= {"guide": ["batch norm folded", "channels last: dropped, no faster"], "threats": threats or [threat()]}
    sha = "0123456789abcdef" * 4
    data = {"name": "digits", "n": n, "sha256": sha, "shape": [1, 8, 8], "class_names": None, "bounds": [0.0, 1.0]}
    model = {"name": "small_cnn", "source": "demo", "sha256": sha, "classes": 10, "bounds": [0.0, 1.0]}
    git = {"commit": "abcdef0123456789", "dirty": True}
    environment = {"python": "3.11.2", "torch": "2.13.0", "platform": "Linux", "processor": "x86_64", "threads": 2}
    request = {"given": {"model": "demo", "data": "digits"}, "defaulted": {"seed": 0, "require": [], "confident": []}}
    return {
        "id": "20250101-120000",
        "created": "2025-01-01T12:00:00+00:00",
        "mohs": "0.1.0",
        "request": {**request, "command": "mohs audit demo --data digits --threat linf:0.1"},
        "plan": {**plan, **{k: more.pop(k) for k in list(more) if k in plan}},
        "data": {**data, **more.pop("data", {})},
        "model": {**model, "gives": "gradient", "random": False, **more.pop("model", {})},
        "findings": [],
        "environment": {**environment, "packages": {"numpy": "2.0.0"}, "git": git},
        **more,
    }


def make_run(folder: Path, what: dict[str, Any], rows: list[dict[str, Any]], *, complete: bool = True) -> Run:
    """A run whose records are these rows."""
    run = Run.create(folder, what)
    commit(run, rows, {})
    if complete:
        run.event("complete")
    return run


def commit(run: Run, rows: list[dict[str, Any]], examples: dict[str, np.ndarray], chunk: int = 0) -> None:
    """Commit rows, unit by unit; `examples` go with the first."""
    units: dict[Unit, list[dict[str, Any]]] = {}
    for record in rows:
        units.setdefault(Unit(record["threat"], record["goal"], record["stage"], chunk), []).append(record)
    for unit, mine in units.items():
        run.commit(unit, pa.Table.from_pylist(mine, schema=SCHEMA), examples)
        examples = {}


def digits_run(folder: Path, n: int = 128, *, texts: tuple[str, ...] = ("linf:8/255", "l2:0.5"), **more: Any) -> Run:
    """A whole run that never was: real digits, made-up successes; a few examples undecided under the second threat."""
    from sklearn.datasets import load_digits

    sources = load_digits()
    x = (sources.images[:n] / 16).astype(np.float32)[:, None]
    y = sources.target[:n]
    draw = np.random.default_rng(0)
    wrong = draw.random(n) < 0.04
    label = np.where(wrong, (y + 3) % 10, y)
    threats = [_threat_of(text) for text in texts]
    run = Run.create(folder, spec(n, threats, **more))
    clean = [row(i, -1, "broken" if wrong[i] else "survived", y=y[i], label=label[i]) for i in range(n)]
    commit(run, clean, {})
    for t, plan in enumerate(threats):
        least = draw.gamma(4, 0.3, n) * plan["epsilon"]
        reached = (y + draw.choice([1, 2, 5, 7], n, p=[0.4, 0.3, 0.2, 0.1])) % 10
        _attack(run, t, plan, x, y, np.flatnonzero(~wrong), least, reached)
    kept = min(n, 64)
    arrays = {"ids": np.arange(kept), "x": x[:kept], "y": y[:kept].astype(np.int64), "label": label[:kept]}
    run.keep_gallery({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    run.event("complete")
    return run


def _threat_of(text: str) -> dict[str, Any]:
    numerator, _, denominator = text.partition(":")[2].partition("/")
    note = "the targeted DLR loss needs 4 classes: replaced by the logit difference z_t - z_y"
    refused = "square asks for scores, which the model does not give"
    stages = [
        stage("apgd-ce"),
        stage("apgd-t", note=note),
        stage("fab-t"),
        stage("square", inapplicable=refused),
        stage("curve", kind="measure"),
    ]
    return threat(text, float(numerator) / float(denominator or 1), stages)


def _attack(
    run: Run,
    t: int,
    plan: dict[str, Any],
    x: np.ndarray,
    y: np.ndarray,
    ids: np.ndarray,
    least: np.ndarray,
    reached: np.ndarray,
) -> None:
    """Stages break what is within their reach; `curve` finds every least change."""
    standing = ids
    for s, reach in enumerate((0.9, 0.97, 1.0)):
        hit = least[standing] <= reach * plan["epsilon"]
        rows = [
            row(i, s, "broken" if h else "survived", threat=t, y=y[i], attack=plan["stages"][s]["name"])
            | {"label": reached[i] if h else -1, "distance": plan["epsilon"] if h else np.inf}
            for i, h in zip(standing.tolist(), hit.tolist(), strict=True)
        ]
        if t == 1 and s == 2:
            rows[:3] = [record | {"status": "undecided", "reason": "rounding"} for record in rows[:3]]
        commit(run, rows, {})
        standing = standing[~hit]
    signs = np.sign(np.random.default_rng(1).normal(size=x[ids].shape)).astype(np.float32)
    step = least[ids] / (1 if plan["name"] == "linf" else 8)
    adversarial = np.clip(x[ids] + signs * step[:, None, None, None], 0, 1).astype(np.float32)
    stored = {"ids": ids, "threat": np.full(len(ids), t, np.int16), "goal": np.zeros(len(ids), np.int16)}
    stored |= {"adversarial": adversarial, "point": adversarial, "distance": least[ids], "label": reached[ids]}
    rows = [row(i, 4, "broken", threat=t, y=y[i], label=reached[i], distance=least[i], attack="curve") for i in ids.tolist()]
    commit(run, rows, stored)


def screenshot(browser: Chrome, page: Path, picture: Path, width: int, height: int, *, dark: bool = False) -> Path:
    """A picture of the top of a page at a size, in either scheme; the plots are waited for."""
    show(browser, page, width, height, dark=dark)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": False})
    picture.write_bytes(base64.b64decode(shot["data"]))
    return picture


def show(browser: Chrome, page: Path, width: int, height: int, *, dark: bool = False) -> None:
    """Open a page at a size, in either scheme, and wait for its plots."""
    from selenium.webdriver.support.ui import WebDriverWait

    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.resolve().as_uri())
    drawn = "return document.documentElement.dataset.drawn === 'yes'"
    WebDriverWait(browser, 30).until(lambda chrome: chrome.execute_script(drawn))
