"""What the repository promises as a whole: pinned dependencies, light imports, a listed surface, no machine's paths."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    """Name -> version, from constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    parsed = [Requirement(line) for line in lines if line]
    assert all(re.fullmatch(r"==[^*,]+", str(r.specifier)) for r in parsed), "a constraint must be one exact version"
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in parsed}


def closure(*names: str) -> set[str]:
    """Every installed distribution that `names` require here, themselves included; 'mohs[dev]' asks for an extra."""
    seen: set[tuple[str, str]] = set()
    found: set[str] = set()
    queue = [Requirement(name) for name in names]
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        try:
            needs = [Requirement(r) for r in requires(name) or []]
        except PackageNotFoundError:
            pytest.fail(f"{name} is required and not installed: run `make test`")
        for extra in {"", *wanted.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                queue += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})]
        found.add(name)
    return found


def of_accelerator(name: str) -> bool:
    """torch from PyPI brings NVIDIA's libraries along on Linux and pins them itself: no constraint names them."""
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


@pytest.mark.parametrize("wanted", ["mohs", "mohs[dev]"])
def test_constraints_pin_every_dependency_and_are_what_is_installed(wanted: str) -> None:
    pinned = pins()
    installed = {name for name in closure(wanted) - {"mohs"} if not of_accelerator(name)}
    assert {"torch", "numpy", "jinja2"} <= installed
    assert installed - set(pinned) == set(), "required and not pinned"
    assert {n: version(n).partition("+")[0] for n in installed} == {n: pinned[n] for n in installed}


def test_constraints_hold_what_pyproject_asks_for() -> None:
    pinned = pins()
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(r) for r in PROJECT["dependencies"] + extras["dev"] + extras["docs"]]
    for requirement in asked:
        if requirement.name != "mohs":
            assert Version(pinned[canonicalize_name(requirement.name)]) in requirement.specifier, requirement


def test_constraints_name_no_local_build() -> None:
    assert pins()["torch"] == "2.13.0"
    assert [pin for pin in pins().values() if "+" in pin] == []


def isolated(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "120"},
    )


HEAVY = "torch, sklearn, scipy, onnx, onnxruntime"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import mohs", id="import mohs"),
        pytest.param("import mohs; dir(mohs)", id="dir(mohs)"),
        pytest.param("import mohs.report", id="import mohs.report"),
        pytest.param("import mohs.cli, sys; sys.argv[1:] = ['--help']; call(mohs.cli.main)", id="mohs --help"),
    ],
)
def test_light_parts_load_no_torch(code: str) -> None:
    """A shell's completion, `--help` and a report of a finished run must not wait seconds for torch."""
    prelude = """
def call(main):
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
"""
    check = f"\nimport sys\nprint('heavy:', sorted(set({HEAVY!r}.split(', ')) & set(sys.modules)))"
    done = isolated(prelude + code + check)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_public_names_are_the_listed_ones() -> None:
    """`tests/public_names.txt` is the public surface: whoever changes it changes the file, in sight of a reviewer."""
    import mohs

    listed = (ROOT / "tests" / "public_names.txt").read_text().split()
    assert listed == sorted(listed)
    assert sorted(mohs.__all__) == listed
    assert [name for name in listed if not hasattr(mohs, name)] == []
    assert set(listed) <= set(dir(mohs))


def test_version_is_told_once() -> None:
    assert version("mohs") == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_core_needs_no_extra() -> None:
    extras = {
        canonicalize_name(Requirement(r).name)
        for name, group in PROJECT["optional-dependencies"].items()
        for r in group
        if name != "dev"
    }
    assert extras & {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]} == set()


def tracked_text() -> list[Path]:
    """Files of the repository that people write: those git knows or would take."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    suffixes = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".html", ".j2", ".css", ".js", ""}
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [f for f in files if f.suffix in suffixes and f.is_file()]


def test_no_file_names_a_machine() -> None:
    """Absolute paths of whoever wrote a file mean nothing to whoever reads it."""
    machine = re.compile(r"(?<![\w.}/])/(?:work|home|Users|root)/(?=\w)")
    files = tracked_text()
    assert Path(__file__) in files
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if machine.search(line)
    ]
    assert found == []


def test_every_mutant_stands_once_and_names_tests_that_exist() -> None:
    """What `make mutants` breaks on purpose: a list that went stale would break nothing."""
    from tests.mutants import MUTANTS

    assert len({(m.file, m.text, m.instead) for m in MUTANTS}) == len(MUTANTS)
    defined: dict[str, set[str]] = {}
    for mutant in MUTANTS:
        file = ROOT / "src/mohs" / mutant.file
        assert file.is_file(), mutant
        code = file.read_text(encoding="utf-8")
        assert code.count(mutant.text) == 1, mutant
        assert mutant.instead != mutant.text, mutant
        ast.parse(code.replace(mutant.text, mutant.instead))
        assert mutant.tests, mutant
        for test in mutant.tests.split():
            name, _, function = test.partition("::")
            if name not in defined:
                tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
                defined[name] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert not function or function.partition("[")[0] in defined[name], mutant


def test_the_page_of_goals_is_what_the_attacks_say() -> None:
    from tests.goals import page

    assert (ROOT / "docs/goals.md").read_text() == page(), "write it anew: python -m tests.goals > docs/goals.md"
