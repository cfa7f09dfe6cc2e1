"""kill -9 at random moments of a run, then resume. Prints how many of them gave the records of an uninterrupted run.

python -m benchmarks.kills TIMES
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mohs
from mohs.auditing import resume
from mohs.store import Run

OPTIONS = {"threats": ["linf:0.15", "l2:0.8"], "profile": "quick", "rows": 16, "limit": 96}
WORK = "import sys, json, mohs; mohs.audit('demo', 'digits', out=sys.argv[1], **json.loads(sys.argv[2]))"


def contents(run: Run) -> list:
    table = run.records().drop_columns(["seconds"])
    rows = table.sort_by([("threat", "ascending"), ("stage", "ascending"), ("id", "ascending")]).to_pylist()
    stored = sorted(
        (int(e["threat"][k]), int(i), e["adversarial"][k].tobytes()) for e in run.examples() for k, i in enumerate(e["ids"])
    )
    return [*rows, *stored]


def begin(target: Path) -> subprocess.Popen:
    """A run in a process of its own, once its folder is there."""
    process = subprocess.Popen([sys.executable, "-c", WORK, str(target), json.dumps(OPTIONS)])
    while not (target / "run.json").exists():
        time.sleep(0.01)
    return process


def main(times: int) -> None:
    draw = random.Random(0)
    whole = mohs.audit("demo", "digits", **OPTIONS)  # whose run lives as long as it does
    expected = contents(whole.run)
    assert expected
    equal, moments = 0, []
    with tempfile.TemporaryDirectory() as folder:
        process = begin(Path(folder) / "whole")
        started = time.monotonic()
        process.wait()
        span = time.monotonic() - started
        for number in range(times):
            target = Path(folder) / str(number)
            process = begin(target)
            moment = draw.uniform(0, span)
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            process.wait()
            committed = len(list((target / "records").glob("*.parquet")))
            moments.append({"seconds": round(moment, 3), "units_committed": committed})
            equal += contents(resume(target).run) == expected
    print(json.dumps({"kills": times, "equal": equal, "moments": moments}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
