"""What every test shares: fixed threads, fixed examples of hypothesis, the real cases, a browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ROOT = Path(__file__).parents[1]

# Sums on a CPU depend on how many threads share them: one everywhere, or numbers would differ between machines.
torch.set_num_threads(1)

# The same examples each time, so that a red test stays red; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("mohs", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", parent=settings.get_profile("mohs"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "mohs"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks follow from fixtures: `-m "not cases"` and `-m "not browser"` leave out what needs them."""
    for item in items:
        for name in ("cases", "browser"):
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(name)


@pytest.fixture(scope="session")
def cases() -> ModuleType:
    """The real models: `load(name)` -> (module, data set), `data(data set)` -> (x, y), `names()`.

    They lie in the folder that MOHS_CASES names (by default ../shared/cases from the repository's root) and are no part
    of mohs.
    """
    folder = (ROOT / os.environ.get("MOHS_CASES", "../shared/cases")).resolve()
    file = folder / "cases.py"
    if not file.is_file():
        pytest.skip(f"no real models: {file} does not exist; set MOHS_CASES to the folder that holds cases.py")
    spec = importlib.util.spec_from_file_location("mohs_cases", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that what it defines pickles
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium; `browser.get(path.as_uri())` opens a report, `get_log("browser")` has its console."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # a container's root has no sandbox
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,900",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()
