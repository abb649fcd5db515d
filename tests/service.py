"""A real service: uvicorn processes on a free port."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(app: str, *options: str, **settings: str) -> Iterator[str]:
    """The base URL of a service that runs until the block ends; fails if it printed a traceback."""
    port = free_port()
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", app, "--port", str(port), *options],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
        )
        base = f"http://127.0.0.1:{port}"
        try:
            wait_for(base)
            yield base
        finally:
            server.terminate()
            server.wait(20)
        log.seek(0)
        printed = log.read()
    assert "Traceback" not in printed, printed


def wait_for(base: str) -> None:
    """Return when the service answers."""
    for _ in range(400):
        try:
            httpx.get(f"{base}/openapi.json")
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(f"{base} did not start")
