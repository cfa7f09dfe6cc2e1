"""Six defences that are known to fall: safe to a naive attack, broken by an adaptive one; and the page that says so."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from docs import broken

QUICK: dict[str, Callable[[], broken.Shown]] = {
    "distillation": lambda: broken.distillation(24, epochs=8),
    "thermometer": lambda: broken.thermometer(24),
    "squeezing": lambda: broken.squeezing(24),
    "kwta": lambda: broken.kwta(24, epochs=10),
    "resize": lambda: broken.resize(12, epochs=10),
    "defense-gan": lambda: broken.defense_gan(8, restarts=2, steps=15, training=200),
}


@pytest.mark.parametrize("name", sorted(broken.CASES))
def test_a_naive_attack_reports_safety_and_an_adaptive_one_does_not(name: str) -> None:
    shown = QUICK[name]()
    assert shown.clean > 0.75, shown
    assert shown.naive.left > 0.6, shown
    assert min(share.left for share in shown.adaptive) < 0.35, shown
    assert shown.naive.left - min(share.left for share in shown.adaptive) > 0.4, shown


def test_the_page_is_that_of_what_was_measured() -> None:
    measured = json.loads(broken.MEASURED.read_text())
    assert list(measured) == list(broken.CASES)
    assert broken.PAGE.read_text() == broken.page(measured)
    for found in measured.values():
        assert found["naive"]["left"] - min(share["left"] for share in found["adaptive"]) > 0.5
