"""Small pictures without a script: lines over x, or bars, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 300.0, 120.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 20.0, 30.0
COLOURS = ("robust", "broken", "undecided", "natural")


def picture(plot: Mapping[str, Any]) -> Markup:
    """An SVG of {x, lines: {name: values}, across, up, bars}, every text escaped."""
    values = [v for line in plot["lines"].values() for v in line if math.isfinite(v)]
    low, high = min([0.0, *values]), max([0.0, *values])
    high = high if high > low else low + 1
    parts = [_axis(low, high, plot)]
    parts += _bars(plot, low, high) if plot["bars"] else _lines(plot, low, high)
    told = f"{plot['up']} by {plot['across'] or 'attack'}: " + "; ".join(
        f"{name} {', '.join(f'{v:.3g}' for v in line[:12])}" for name, line in plot["lines"].items()
    )
    opened = Markup('<svg class="small" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, told)
    return opened + Markup("").join(parts) + Markup("</svg>")


def _axis(low: float, high: float, plot: Mapping[str, Any]) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [Markup('<path class="axis" d="M{0:g} {1:g}V{2:g}H{3:g}"/>').format(LEFT, TOP, bottom, right)]
    for value in (low, high):
        y = _up(value, low, high)
        parts.append(Markup('<text x="{:g}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 4, y + 4, f"{value:.2g}"))
    if not plot["bars"]:
        ends = ((plot["x"][0], LEFT, "start"), (plot["x"][-1], right, "end"))
        for value, x, anchor in ends:
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            parts.append(Markup('<text x="{:g}" y="{:g}" text-anchor="{}">{}</text>').format(x, bottom + 12, anchor, shown))
        middle = (LEFT + right) / 2
        parts.append(Markup('<text x="{:g}" y="{:g}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 4, plot["across"]))
    parts.append(Markup('<text x="{:g}" y="{:g}">{}</text>').format(LEFT - 4, TOP - 9, plot["up"]))
    return Markup("").join(parts)


def _lines(plot: Mapping[str, Any], low: float, high: float) -> list[Markup]:
    x = [float(v) for v in plot["x"]]
    span = (x[-1] - x[0]) or 1.0
    found = []
    for number, line in enumerate(plot["lines"].values()):
        points = [
            (LEFT + (at - x[0]) / span * (WIDTH - LEFT - RIGHT), _up(v, low, high))
            for at, v in zip(x, line, strict=True)
            if math.isfinite(v)
        ]
        drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        colour = COLOURS[number % len(COLOURS)]
        found.append(Markup('<polyline style="stroke:var(--{})" points="{}"/>').format(colour, drawn))
    return found


def _bars(plot: Mapping[str, Any], low: float, high: float) -> list[Markup]:
    ((_, line),) = plot["lines"].items()
    room = (WIDTH - LEFT - RIGHT) / len(line)
    found = []
    for number, (name, value) in enumerate(zip(plot["x"], line, strict=True)):
        x, y = LEFT + number * room, _up(value, low, high)
        bar = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" style="fill:var(--{})"/>')
        found.append(bar.format(x + 0.2 * room, y, 0.6 * room, HEIGHT - BOTTOM - y, COLOURS[min(number, 1)]))
        text = Markup('<text x="{:.1f}" y="{:g}" text-anchor="middle">{}</text>')
        found.append(text.format(x + room / 2, HEIGHT - BOTTOM + 12, escape(name)))
    return found


def _up(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
