"""Requests a second of `mohs serve` on loopback: python -m benchmarks.serving CASE CLIENTS SECONDS

`httpx` is what a Python client gets; `sockets` sends the same bytes over bare asyncio streams; `wrk` does so in C, where it
is installed. Clients and server share the cores. Every client has a connection and a test image of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.cases import case

SCRIPT = """
local bodies = {}
for line in io.lines("bodies.txt") do bodies[#bodies + 1] = line end
local i = 0
request = function()
  i = i % #bodies + 1
  return wrk.format("POST", "/predict", {["Content-Type"] = "application/json"}, bodies[i])
end
"""


@contextmanager
def server(name: str, folder: Path) -> Iterator[tuple[str, int]]:
    """`mohs serve` of a case's exported model, in a process of its own: its address and process id."""
    module, x, _ = case(name, 2)
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},)), folder / "model.pt2")
    command = [sys.executable, "-m", "mohs", "serve", str(folder / "model.pt2"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://[\d.]+:\d+", line)
            if found is None:
                raise SystemExit(f"the server did not start: {line}")
            yield found[0], process.pid
        finally:
            process.terminate()


def seconds_of(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def megabytes_of(pid: int) -> float:
    """The most memory a process has held."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


async def by_httpx(url: str, bodies: list[bytes], seconds: float) -> int:
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=len(bodies)), timeout=60) as client:

        async def work(body: bytes) -> int:
            done, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                answer = await client.post(f"{url}/predict", content=body)
                assert answer.status_code == 200
                done += 1
            return done

        return sum(await asyncio.gather(*map(work, bodies)))


async def by_sockets(url: str, bodies: list[bytes], seconds: float) -> int:
    host, port = url.removeprefix("http://").split(":")

    async def work(body: bytes) -> int:
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        done, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")
            await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", answer)[1]))  # type: ignore[index]
            done += 1
        writer.close()
        return done

    return sum(await asyncio.gather(*map(work, bodies)))


def by_wrk(url: str, bodies: list[bytes], seconds: float, folder: Path) -> dict[str, Any]:
    (folder / "bodies.txt").write_bytes(b"\n".join(bodies) + b"\n")
    (folder / "post.lua").write_text(SCRIPT)
    command = ["wrk", "-t1", f"-c{len(bodies)}", f"-d{seconds:.0f}s", "--latency", "-s", "post.lua", url]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    latency = {share: re.search(rf"{share}%\s+(\S+)", said) for share in ("50", "99")}
    return {
        "requests_a_second": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),  # type: ignore[index]
        "latency": {share: found[1] for share, found in latency.items() if found},
        "errors": re.findall(r"Non-2xx.*|Socket errors.*", said),
    }


def main(name: str, clients: int, seconds: float) -> dict[str, Any]:
    _, x, _ = case(name, clients)
    bodies = [json.dumps({"inputs": [row.tolist()]}).encode() for row in x]
    found: dict[str, Any] = {"case": name, "clients": clients, "seconds": seconds, "bytes": len(bodies[0])}
    with tempfile.TemporaryDirectory() as folder, server(name, Path(folder)) as (url, pid):
        asyncio.run(by_sockets(url, bodies, 1))  # warm
        for way, run in (("httpx", by_httpx), ("sockets", by_sockets)):
            used, mine, started = seconds_of(pid), time.process_time(), time.monotonic()
            done = asyncio.run(run(url, bodies, seconds))
            found[way] = {
                "requests_a_second": done / (time.monotonic() - started),
                "server_ms_a_request": 1000 * (seconds_of(pid) - used) / done,
                "client_ms_a_request": 1000 * (time.process_time() - mine) / done,
            }
        if shutil.which("wrk"):
            used = seconds_of(pid)
            found["wrk"] = by_wrk(url, bodies, seconds, Path(folder))
            done = found["wrk"]["requests_a_second"] * seconds
            found["wrk"]["server_ms_a_request"] = 1000 * (seconds_of(pid) - used) / done
        metrics = httpx.get(f"{url}/metrics").text
        sums = {part: float(re.search(rf"mohs_batch_examples_{part} ([\d.]+)", metrics)[1]) for part in ("sum", "count")}  # type: ignore[index]
        found["examples_a_call"] = sums["sum"] / sums["count"]
        found["megabytes_at_most"] = megabytes_of(pid)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
