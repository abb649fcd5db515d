"""``make demo``: a real server, a real client, and every step of a payment on the screen."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Meet the 402, pay, be served until the credit is spent, and be asked to pay again."""
    say("A FastAPI service with priced routes starts, with a SQLite ledger and the development Lightning node.")
    with running_service() as base, httpx.Client(base_url=base) as client:
        show("GET /health", client.get("/health"))
        say("Free routes are free. The weather costs a cent, and we have not paid:")
        unpaid = client.get("/weather/Lisbon")
        offer = unpaid.json()
        show("GET /weather/Lisbon", unpaid, f"{offer['detail']}")
        field("price", offer["price"])
        field("invoice", f"{offer['invoice'][:44]}...  ({offer['amountSats']} sats)")
        field("macaroon", f"{offer['macaroon'][:44]}...")
        field("it buys", f"{offer['credential']['credit']} of credit, {offer['credential']['requests']} such requests")

        say("We pay the Lightning invoice. A wallet would do this; here the development node plays the wallet.")
        preimage = pay(client, offer)
        field("preimage", f"{preimage[:16]}...  the proof of payment")

        say("Macaroon and preimage together are the credential. We send it along and are served until it is spent.")
        headers = {"Authorization": f"L402 {offer['macaroon']}:{preimage}"}
        show("GET /weather/Lisbon", client.get("/weather/Lisbon", headers=headers))
        show("GET /weather/Oslo", client.get("/weather/Oslo", headers=headers))
        show("POST /trip", client.post("/trip", headers=headers, json={"cities": ["Lisbon", "Rome"]}))
        show("GET /story", client.get("/story", headers=headers))
        say("A request that fails costs nothing: this one's body is wrong.")
        show("POST /trip", client.post("/trip", headers=headers, json={"towns": []}))
        show("GET /joke", client.get("/joke", headers=headers))

        say("Less than a cent is left. The next request is refused, with a fresh offer, and we pay again.")
        refused = client.get("/weather/Lisbon", headers=headers)
        show("GET /weather/Lisbon", refused, refused.json()["detail"])
        offer = refused.json()
        headers = {"Authorization": f"L402 {offer['macaroon']}:{pay(client, offer)}"}
        show("GET /weather/Lisbon", client.get("/weather/Lisbon", headers=headers))
        say(
            "Every cent of this is a row in the ledger. Try it yourself: uvicorn example_app.main:app, "
            "then open http://127.0.0.1:8000/docs, which shows the prices."
        )


def pay(client: httpx.Client, offer: dict[str, Any]) -> str:
    """Pay an offer's invoice at the development node; the preimage."""
    response = client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})
    response.raise_for_status()
    preimage: str = response.json()["preimage"]
    return preimage


@contextmanager
def running_service() -> Iterator[str]:
    """The example application in a process of its own, with a new ledger, on a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLBOOTH_")}
    command = [sys.executable, "-m", "uvicorn", "example_app.main:app", "--port", str(port), "--log-level", "warning"]
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        environment["TOLLBOOTH_DATABASE_URL"] = f"sqlite:///{folder}/tollbooth.db"
        server = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            wait_for(base, server)
            yield base
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(10)


def wait_for(base: str, server: subprocess.Popen[bytes]) -> None:
    """Return when the service answers.

    Raises:
        SystemExit: it does not start.
    """
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            httpx.get(f"{base}/health")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("the example service did not start")


def say(text: str) -> None:
    """A line of the story."""
    print("\n" + textwrap.fill(text, 100))


def show(request: str, response: httpx.Response, body: str | None = None) -> None:
    """A request and what came of it."""
    balance = response.headers.get("x-credit-balance")
    left = f"   credit left: {balance}" if balance else ""
    print(f"  {request:<22} -> {response.status_code} {response.reason_phrase}{left}")
    print(textwrap.indent(textwrap.shorten(body or response.text, 90), " " * 28))


def field(name: str, value: str) -> None:
    """A fact about the last answer."""
    print(f"      {name:<9} {value}")


if __name__ == "__main__":
    main()
