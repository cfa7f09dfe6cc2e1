"""The gallery: stored successes beside their clean inputs, as inline pictures, or as the features that changed most."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from mohs.errors import RequestError
from mohs.store.run import Run
from mohs.store.verdict import ThreatVerdict

SIDE = 96  # pixels; larger images are drawn smaller
LEAST_SIDE = 256  # pixels; a picture of its own is drawn about so large at least
EACH, ALL = 9, 24  # most pictures of a threat, and of the page
CHANGES = 8  # features named of an example that is no image
NICE = (1, 2, 3, 5)
HOTTEST = 0.99  # of a saliency map: what is above this share of its pixels is white


@dataclass(frozen=True)
class Picture:
    """One example before and after. Either the three images (data URIs) or `changes`, largest first."""

    id: int
    y: int
    before: int
    after: int
    distance: float
    magnified: int = 1
    clean: str = ""
    change: str = ""
    adversarial: str = ""
    shrunk: str = ""
    changes: tuple[Change, ...] = ()
    saliency: Saliency | None = None


@dataclass(frozen=True)
class Saliency:
    """What the answer before and after hangs on (data URIs), and the cosine of the two."""

    method: str
    clean: str
    adversarial: str
    cosine: float


@dataclass(frozen=True)
class Change:
    """One feature. start, width: of its bar, as shares of the model's range."""

    index: str
    before: float
    after: float
    start: float
    width: float


@dataclass(frozen=True)
class Success:
    """A stored one. row: of the clean inputs kept for the report. label: reached."""

    id: int
    row: int
    adversarial: np.ndarray
    distance: float
    label: int


def gallery(run: Run, threats: list[ThreatVerdict]) -> list[list[Picture]]:
    """For each threat the pictures of its chosen successes."""
    clean, kept = run.gallery(), run.saliency()
    low, high = run.spec["data"]["bounds"]
    maps = {} if kept is None else _maps(*kept)
    return [
        [replace(_picture(hit, clean, low, high), saliency=maps.get((number, hit.id))) for hit in hits]
        for number, hits in enumerate(choose(run, threats))
    ]


def choose(run: Run, threats: list[ThreatVerdict]) -> list[list[Success]]:
    """For each threat the least successes found of a few examples, every true class in turn."""
    clean = run.gallery()
    if not clean:
        return [[] for _ in threats]
    at = {int(i): row for row, i in enumerate(clean["ids"])}
    found = _least(run, at, threats)
    each = min(EACH, max(2, ALL // max(1, len(threats))))
    chosen = []
    for number in range(len(threats)):
        mine = {i: success for (t, i), success in found.items() if t == number}
        chosen.append([mine[i] for i in _in_turn({i: int(clean["y"][at[i]]) for i in mine}, each)])
    return chosen


def _least(run: Run, at: dict[int, int], threats: list[ThreatVerdict]) -> dict[tuple[int, int], Success]:
    """(threat, id) -> the nearest stored success within the threat's budget. at: the row of each id among the clean inputs."""
    found: dict[tuple[int, int], Success] = {}
    for unit in run.examples(at):
        for row, i in enumerate(unit["ids"].tolist()):
            number, distance = int(unit["threat"][row]), float(unit["distance"][row])
            budget = threats[number].epsilon * (1 + 1e-6) + threats[number].rounding
            if distance <= budget and ((number, i) not in found or distance < found[number, i].distance):
                found[number, i] = Success(i, at[i], unit["adversarial"][row], distance, int(unit["label"][row]))
    return found


def _in_turn(classes: dict[int, int], most: int) -> list[int]:
    """Ids, one of each class before the second of any."""
    seen: dict[int, int] = {}
    turn = {}
    for i in sorted(classes):
        turn[i] = seen.get(classes[i], 0)
        seen[classes[i]] = turn[i] + 1
    return sorted(classes, key=lambda i: (turn[i], classes[i], i))[:most]


def _picture(hit: Success, clean: dict[str, np.ndarray], low: float, high: float) -> Picture:
    x = clean["x"][hit.row].astype(np.float64)
    after = hit.adversarial.astype(np.float64)
    delta = after - x
    image = _pixels(x)
    plain = Picture(hit.id, int(clean["y"][hit.row]), int(clean["label"][hit.row]), hit.label, hit.distance)
    if image is None:
        return replace(plain, changes=_changes(x, after, low, high))
    span = (high - low) or 1.0
    magnified = _nice(0.5 * span / max(float(np.abs(delta).max()), 1e-12))
    changed, moved = _pixels(delta), _pixels(after)
    assert changed is not None
    assert moved is not None
    height, width = image.shape[:2]
    return replace(
        plain,
        magnified=magnified,
        clean=_uri((image - low) / span),
        change=_uri(0.5 + magnified * changed / span, smooth=False),
        adversarial=_uri((moved - low) / span),
        shrunk=f"{width} × {height}" if max(height, width) > SIDE else "",
    )


def _maps(method: str, kept: dict[str, np.ndarray]) -> dict[tuple[int, int], Saliency]:
    """(threat, id) -> its maps: over the channels the largest, as Simonyan et al. draw them."""
    found = {}
    for row, address in enumerate(zip(kept["threat"].tolist(), kept["ids"].tolist(), strict=True)):
        one, two = (kept[name][row].astype(np.float64) for name in ("clean", "adversarial"))
        lengths = float(np.linalg.norm(one) * np.linalg.norm(two))
        cosine = float((one * two).sum()) / lengths if lengths else math.nan
        found[address] = Saliency(method, _heat(one), _heat(two), cosine)
    return found


def _heat(x: np.ndarray) -> str:
    pixels = _pixels(x)
    assert pixels is not None
    pixels = pixels if pixels.ndim == 2 else pixels.max(-1)
    return _uri(pixels / max(float(np.quantile(pixels, HOTTEST)), 1e-300))


def is_image(x: np.ndarray) -> bool:
    """Whether an example is drawn, rather than told by its features."""
    return _pixels(x) is not None


def _pixels(x: np.ndarray) -> np.ndarray | None:
    """[H, W] or [H, W, 3], from either order of channels; None where an example is no image."""
    if x.ndim == 3 and x.shape[0] in (1, 3):
        x = np.moveaxis(x, 0, -1)
    elif x.ndim == 2:
        x = x[..., None]
    if x.ndim != 3 or x.shape[-1] not in (1, 3) or min(x.shape[:2]) < 4:
        return None
    return x[..., 0] if x.shape[-1] == 1 else x


def _uri(pixels: np.ndarray, smooth: bool = True) -> str:
    """A PNG in the page, from values of 0 to 1."""
    picture = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    if max(picture.size) > SIDE:
        shape = (max(1, round(side * SIDE / max(picture.size))) for side in picture.size)
        picture = picture.resize(tuple(shape), Image.Resampling.BOX if smooth else Image.Resampling.NEAREST)  # type: ignore[arg-type]
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _nice(factor: float) -> int:
    """The largest of 1, 2, 3, 5, 10, 20, … that is no more than the factor, but for float32's rounding."""
    factor *= 1.001
    if factor < 1:
        return 1
    power: int = 10 ** int(math.log10(factor))
    return max(step * power for step in NICE if step * power <= factor)


def _changes(x: np.ndarray, after: np.ndarray, low: float, high: float) -> tuple[Change, ...]:
    delta = np.abs(after - x)
    order = np.argsort(-delta, axis=None, kind="stable")[:CHANGES]
    span = (high - low) or 1.0
    found = []
    for flat in order[delta.ravel()[order] > 0]:
        place = np.unravel_index(flat, x.shape)
        old, new = float(x[place]), float(after[place])
        index = ", ".join(str(int(p)) for p in place)
        start = (min(old, new) - low) / span
        found.append(Change(index, old, new, min(max(start, 0.0), 1.0), min(abs(new - old) / span, 1.0)))
    return tuple(found)


def change_png(change: np.ndarray) -> bytes:
    """A PNG of a change of images [channels, height, width]: grey where nothing changes, magnified to the whole range, small
    ones drawn larger. RequestError where it is no change of images."""
    pixels = _pixels(change.astype(np.float64))
    if pixels is None:
        raise RequestError(f"a change of shape {list(change.shape)} is no picture: give --out a name that ends in .safetensors")
    shown = 0.5 + pixels / (2 * max(float(np.abs(pixels).max()), 1e-12))
    picture = Image.fromarray(np.rint(shown * 255).astype(np.uint8))
    times = max(1, LEAST_SIDE // max(picture.size))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
