"""A server of a small linear model over HTTP, with faults to order. `python -m tests.stub LOG` runs one that logs every body."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

CLASSES, SHAPE = 4, (1, 4, 4)


def weights() -> np.ndarray:
    """[classes, 16]: four quadrants' sums."""
    w = np.zeros((CLASSES, 4, 4))
    for c in range(CLASSES):
        w[c, 2 * (c // 2) : 2 * (c // 2) + 2, 2 * (c % 2) : 2 * (c % 2) + 2] = 4.0
    return w.reshape(CLASSES, -1)


def examples(n: int = 24, *, grid: bool = False) -> tuple[Tensor, Tensor]:
    """x [n, 1, 4, 4], y [n]: a lit quadrant under noise; the nearest boundary in linf lies 0.03 to 0.2 away."""
    import torch

    rng = np.random.default_rng(0)
    y = np.arange(n) % CLASSES
    x = rng.uniform(0.3, 0.5, (n, 16)) + (weights()[y] > 0) * rng.uniform(0.06, 0.4, (n, 1))
    x = np.rint(x * 255) / 255 if grid else x
    return torch.from_numpy(x.reshape(n, *SHAPE).astype(np.float32)), torch.from_numpy(y)


def probabilities(x: np.ndarray) -> np.ndarray:
    z = x.reshape(len(x), -1) @ weights().T
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


Answer = Callable[[Any, dict[str, str]], Any]
Fault = Callable[[int], tuple[int, bytes, dict[str, str]] | None]


def serve_scores(body: Any, headers: dict[str, str]) -> Any:
    return {"scores": probabilities(np.array(body["inputs"])).tolist()}


def serve_labels(body: Any, headers: dict[str, str]) -> Any:
    return {"labels": probabilities(np.array(body["inputs"])).argmax(1).tolist()}


def serve_top(body: Any, headers: dict[str, str]) -> Any:
    p = probabilities(np.array(body["inputs"]))
    best = (-p).argsort(1)[:, :2]
    return {"top": [[{"class": int(c), "score": float(row[c])} for c in two] for row, two in zip(p, best, strict=True)]}


def picture(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)), dtype=np.float64)[None, None] / 255


def serve_picture(body: Any, headers: dict[str, str]) -> Any:
    return {"scores": probabilities(picture(base64.b64decode(body["image"])))[0].tolist()}


@dataclass
class Stub:
    """answer: of a request that is let through. fault(n): of the n-th request, status, body and headers, or None; a status of 0
    hangs. bodies: how often each was answered."""

    answer: Answer = serve_scores
    fault: Fault = lambda n: None
    log: Path | None = None
    pause: float = 0.0
    url: str = ""
    received: int = 0
    bodies: Counter[str] = field(default_factory=Counter)
    heads: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def handle(self, raw: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        with self.lock:
            self.received += 1
            number = self.received
            self.heads.append(headers)
            self.times.append(time.monotonic())
        time.sleep(self.pause)
        if (broken := self.fault(number)) is not None:
            if broken[0] == 0:
                time.sleep(0.4)
            return broken
        body = raw if "multipart" in headers.get("content-type", "") else json.loads(raw)
        reply = self.answer(body, headers)
        with self.lock:
            digest = hashlib.sha256(raw).hexdigest()
            self.bodies[digest] += 1
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(digest + "\n")
        if isinstance(reply, tuple):
            return reply
        return 200, json.dumps(reply).encode(), {"Content-Type": "application/json"}


@contextmanager
def running(stub: Stub) -> Iterator[Stub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, body, headers = stub.handle(raw, {name.lower(): value for name, value in self.headers.items()})
            if code == 0:
                self.close_connection = True
                return
            self.send_response(code)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:  # a client that hung up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/predict"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def flaky(seed: int = 0) -> Fault:
    """A fifth of requests fail: by 500 and 503, a hang, a cut body, a page of HTML; and bursts of 429."""
    draw = random.Random(seed)

    def fault(n: int) -> tuple[int, bytes, dict[str, str]] | None:
        if n % 50 < 3:
            return 429, b"slow down", {"Retry-After": "0"}
        if draw.random() > 0.2:
            return None
        kinds: list[tuple[int, bytes, dict[str, str]]] = [
            (500, b"oops", {}),
            (503, b"busy", {}),
            (200, b'{"scores": [[0.1, 0.', {}),
            (200, b"<html>maintenance</html>", {}),
            (200, b'{"scores": [[0.5, 0.5]]}', {}),
        ]
        return (0, b"", {}) if n % 40 == 7 else draw.choice(kinds)

    return fault


DESCRIPTION = """
url = "http://127.0.0.1:1/predict"
classes = 4
timeout = 30
concurrency = 8
price = 0.001

[answer]
scores = "$.scores"

[retry]
first = 0.001
longest = 0.05
pause = 0.01
attempts = 8
"""

if __name__ == "__main__":
    with running(Stub(log=Path(sys.argv[1]), pause=0.002)) as found:
        print(found.url, flush=True)
        sys.stdin.read()
