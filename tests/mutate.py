"""Break the code on purpose, one mutant of tests/mutants.py at a time: some test must fail. `make mutants`.

    python -m tests.mutate [WORD ...] [--jobs N] [--anew]

WORD: only mutants of files whose name holds one. Works in copies of the tree, so that one that is killed leaves no mutant
behind. What was killed stays so in benchmarks/results/mutants.json for as long as the mutated file is the same, so that a run
that was stopped goes on. A mutant is killed where a test fails that passes on the untouched code. Exit code 1 where any is not.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import cache_from_source
from pathlib import Path

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/mutants.json"
TEST_SECONDS, RUN_SECONDS = 120, 900  # of one test, of all that a mutant names
WARM = (
    "torch scipy.stats sklearn.datasets pyarrow.parquet safetensors.torch pydantic typer plotly.graph_objects hypothesis fastapi"
)
FORK = multiprocessing.get_context("fork")
Record = dict[str, str | float]


class Tree:
    """A copy of the working tree, of the files that git knows or would take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)

    def write(self, file: str, code: str) -> None:
        path = self.folder / "src/mohs" / file
        path.write_text(code)
        Path(cache_from_source(str(path))).unlink(missing_ok=True)  # it goes by size and whole seconds

    def failure(self, tests: list[str]) -> str | None:
        """The first of the tests that fails, None where all pass; RuntimeError where pytest could not tell."""
        output = self.folder / "output.txt"
        process = FORK.Process(target=_test, args=(self.folder, tests, output))
        process.start()
        process.join(RUN_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise RuntimeError(f"the tests ran longer than {RUN_SECONDS} s")
        if process.exitcode == 0:
            return None
        said = output.read_text(errors="replace")
        failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+?::.+?)(?: - .*)?$", said, re.MULTILINE)
        if process.exitcode != 1 or failed is None:
            raise RuntimeError(f"pytest ended with exit code {process.exitcode}: {said[-300:]}")
        return failed[1]


def _test(folder: Path, tests: list[str], output: Path) -> None:
    """pytest in a fork: of a process that has the slow libraries, and nothing of the tree, in memory."""
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ["MOHS_CASES"] = str((ROOT / os.environ.get("MOHS_CASES", "../shared/cases")).resolve())
    os.environ["PYTHONPATH"] = str(folder / "src")
    os.chdir(folder)
    sys.path[:0] = [str(folder / "src"), str(folder)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mohs", "tests")]:
        del sys.modules[name]
    sys.dont_write_bytecode = False  # of the tree, so that a mutant costs the compilation of one file
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "--timeout", str(TEST_SECONDS)]
    sys.exit(int(pytest.main([*options, *(f"tests/{test}" for test in tests)])))


def digest(mutant: Mutant) -> str:
    """Of a mutant and the file it is of."""
    return hashlib.sha256(repr(mutant).encode() + (ROOT / "src/mohs" / mutant.file).read_bytes()).hexdigest()[:16]


_tree: Tree | None = None  # of this process


def _own_tree(folder: Path) -> None:
    global _tree
    _tree = Tree(folder / str(os.getpid()))


def tried(mutant: Mutant) -> Record:
    """What became of a mutant: killed and by which test, survived, or why it could not be told."""
    assert _tree is not None
    tree, started = _tree, time.monotonic()
    code = (tree.folder / "src/mohs" / mutant.file).read_text()
    found: Record = {**mutant._asdict(), "result": "survived"}
    if code.count(mutant.text) != 1:
        raise SystemExit(f"{mutant.text!r} stands {code.count(mutant.text)} times in {mutant.file}")
    try:
        tree.write(mutant.file, code.replace(mutant.text, mutant.instead))
        killer = tree.failure(mutant.tests.split())
        tree.write(mutant.file, code)
        if killer is not None:
            sound = tree.failure([killer]) is None  # and no wonder that it fell
            found |= {"result": "killed" if sound else "its test fails on the untouched code", "by": killer}
    except RuntimeError as error:
        found["result"] = str(error)
    finally:
        tree.write(mutant.file, code)
    return found | {"seconds": round(time.monotonic() - started, 1)}


def known() -> dict[str, Record]:
    """The results so far, by digest."""
    return {str(record["of"]): record for record in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}


def keep(results: Iterable[Record]) -> None:
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(list(results), indent=1) + "\n")
    temporary.replace(RESULTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2))
    parser.add_argument("--anew", action="store_true", help="try again what was killed before")
    asked = parser.parse_args()
    chosen = [m for m in MUTANTS if not asked.words or any(word in m.file for word in asked.words)]
    names = {mutant: digest(mutant) for mutant in MUTANTS}
    found = {of: record for of, record in known().items() if of in names.values()}
    settled = [m for m in chosen if not asked.anew and found.get(names[m], {}).get("result") == "killed"]
    todo = sorted((m for m in chosen if m not in settled), key=lambda m: "::" not in m.tests)
    for name in WARM.split() if todo else ():
        importlib.import_module(name)
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ProcessPoolExecutor(asked.jobs, FORK, _own_tree, (Path(folder),)) as pool,
    ):
        for mutant, record in zip(todo, pool.map(tried, todo), strict=True):
            found[names[mutant]] = record | {"of": names[mutant]}
            keep(found[of] for of in names.values() if of in found)
            print(f"{record['seconds']:6.1f} s  {record['result']:9} {mutant.file}: {mutant.text[:70]!r}", flush=True)
    left = [record for m in chosen if (record := found[names[m]])["result"] != "killed"]
    for record in left:
        print(f"{record['file']}: {record['text']!r} -> {record['instead']!r}: {record['result']}; {record['tests']}")
    print(f"{len(chosen)} mutants, {len(chosen) - len(left)} killed, {len(left)} not")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
