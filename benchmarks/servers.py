"""Real uvicorn servers, one worker each, on loopback; and how to buy credit from a priced one."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from benchmarks.apps import TUNED_GC

START_SECONDS = 30.0
STOP_SECONDS = 15.0
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers on a port of the loopback interface, and the URL of its ledger, if it has one."""

    port: int
    url_of_ledger: str

    @property
    def url(self) -> str:
        """The server's base URL."""
        return f"http://127.0.0.1:{self.port}"


class ServerError(Exception):
    """A server did not start or did not stop as it should."""


@contextmanager
def serve(
    app: Literal["bare", "priced", "orm"], directory: Path, *, tuned_gc: bool, ledger: str = "", workers: int = 1
) -> Iterator[Server]:
    """Run an application of `benchmarks.apps`. Leaving the context stops it, and so writes all that its ledger owes.

    The ledger is a new SQLite file, or in the database of that URL.

    Raises:
        ServerError: it did not start, or had to be killed.
    """
    name = f"{app}-tuned" if tuned_gc else app
    server = Server(free_port(), ledger or f"sqlite:///{directory / name}.db")
    # A developer's own settings must not change what is measured: neither variables, nor a .env where we were started.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TOLLBOOTH_")}
    environment |= {
        "TOLLBOOTH_DATABASE_URL": server.url_of_ledger,
        "TOLLBOOTH_SECRET": "s" * 32,
        "TOLLBOOTH_UNPAID_RATE_LIMIT": "off",
        "TOLLBOOTH_TOP_UP": "100000000",
        "TOLLBOOTH_TUNE_GC": str(tuned_gc).lower(),
        TUNED_GC: str(tuned_gc).lower(),
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", f"benchmarks.apps:{app}", "--app-dir", str(_ROOT)]
    command += ["--host", "127.0.0.1", "--port", str(server.port), "--no-access-log", "--log-level", "warning"]
    command += ["--workers", str(workers)] if workers > 1 else []
    log = directory / f"{name}-{server.port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=output, stderr=output)
    try:
        _wait_until_ready(process, server, log)
        yield server
    finally:
        stopped = _stop(process)
    if not stopped:
        raise ServerError(f"the server did not stop within {STOP_SECONDS:g} s:\n{log.read_text()}")


def buy_credit(server: Server) -> str:
    """Pay once at a priced server; the ``Authorization`` header that spends the credit. Makes no paid call."""
    return buy_credits(server, 1)[0]


def buy_credits(server: Server, number: int) -> list[str]:
    """Pay so many times, each for an account of its own."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=10) as client:
        return [_buy(client) for _ in range(number)]


def _buy(client: httpx.Client) -> str:
    challenge = client.get("/paid")
    if challenge.status_code != 402:
        raise ServerError(f"expected a 402, got {challenge.status_code}: {challenge.text}")
    offer = challenge.json()
    paid = client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]}).raise_for_status().json()
    return f"L402 {offer['macaroon']}:{paid['preimage']}"


def get(server: Server, path: str, authorization: str | None = None) -> httpx.Response:
    """One request outside any measurement."""
    headers = {} if authorization is None else {"Authorization": authorization}
    return httpx.get(server.url + path, headers=headers, trust_env=False, timeout=10)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{server.url}/plain", trust_env=False, timeout=1)
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise ServerError(f"the server did not start:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> bool:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True
