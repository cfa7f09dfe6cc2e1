"""A server of the tests: uvicorn in a thread, on any free port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from mohs.serve.server import configured


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The base URL of a server of `app`, which is stopped at the end."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(configured(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


CLIENT = httpx.Client(timeout=60)


def ask(url: str, x: Any, **headers: str) -> httpx.Response:
    return CLIENT.post(f"{url}/predict", json={"inputs": x.tolist()}, headers=headers)
