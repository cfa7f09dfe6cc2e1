"""Many clients of `mohs serve` at once: python -m benchmarks.clients CASE CLIENTS SECONDS

Each has a connection of its own on loopback and asks as soon as it is answered. What is not an answer of 200 with as many rows as
were sent is an error. Memory is what the server holds (resident), before, all along and after.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.cases import case
from benchmarks.serving import seconds_of, server

EVERY = 5.0  # seconds between looks at the memory


def resident(pid: int) -> float:
    """Megabytes that a process holds now."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def client(url: str, body: bytes, end: float, done: Counter[str]) -> None:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        while time.monotonic() < end:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", answer)
            content = await reader.readexactly(int(length[1]) if length else 0)
            good = answer.startswith(b"HTTP/1.1 200") and len(json.loads(content)["scores"]) == 1
            done["answered" if good else answer.split(b"\r\n", 1)[0].decode()] += 1
    except (OSError, asyncio.IncompleteReadError) as error:
        done[type(error).__name__] += 1
    finally:
        writer.close()


async def crowd(url: str, pid: int, bodies: list[bytes], seconds: float) -> tuple[Counter[str], list[float]]:
    done, held, end = Counter[str](), [resident(pid)], time.monotonic() + seconds
    asking = asyncio.gather(*(client(url, body, end, done) for body in bodies))
    while not asking.done():
        await asyncio.wait([asking], timeout=EVERY)
        held.append(resident(pid))
    return done, held


def main(name: str, clients: int, seconds: float) -> dict[str, Any]:
    _, x, _ = case(name, clients)
    bodies = [json.dumps({"inputs": [row.tolist()]}).encode() for row in x]
    with tempfile.TemporaryDirectory() as folder, server(name, Path(folder)) as (url, pid):
        asyncio.run(crowd(url, pid, bodies[:8], 2))  # the first requests make what is kept
        before, used = resident(pid), seconds_of(pid)
        done, held = asyncio.run(crowd(url, pid, bodies, seconds))
        answered = done.pop("answered", 0)
        return {
            "case": name,
            "clients": clients,
            "seconds": seconds,
            "answered": answered,
            "errors": dict(done),
            "megabytes_before": before,
            "megabytes": held,
            "megabytes_after": resident(pid),
            "grown_in_the_second_half": held[-1] - held[len(held) // 2],
            "server_ms_a_request": 1000 * (seconds_of(pid) - used) / max(answered, 1),
        }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
