"""``make demo``: a real server, a real client, and every step of a payment on the screen."""

import os
import shutil
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
MOST = 100


def main() -> None:
    """Meet the 402, pay, be served in every way that there is, run out of credit, pay again; then look at the books."""
    say("A FastAPI service with priced routes starts, with a SQLite ledger and the development Lightning node.")
    with running_service() as (base, database), httpx.Client(base_url=base) as client:
        show("GET /health", client.get("/health"))
        say("Free routes are free, and two cents a day of the cheap language model are, too:")
        show("POST /chat", client.post("/chat", json=question("sparrow-1")))

        say("The weather costs a cent, and we have not paid:")
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
        account = f"l402:{offer['paymentHash']}"

        say("Macaroon and preimage together are the credential. It is good on every route until its credit is spent.")
        headers = {"Authorization": f"L402 {offer['macaroon']}:{preimage}"}
        show("GET /weather/Lisbon", client.get("/weather/Lisbon", headers=headers))
        show("GET /climate/Oslo", client.get("/climate/Oslo", headers=headers))
        csv = {**headers, "X-Toll-Tier": "csv"}
        show("  the same as csv", client.get("/climate/Oslo", headers=csv))
        say("What fails costs nothing. A price can depend on the body: here, on the model that it names.")
        show("POST /chat  dodo-1", client.post("/chat", headers=headers, json=question("dodo-1")))
        show("POST /chat  eagle-1", client.post("/chat", headers=headers, json=question("eagle-1")))

        say("Too little is left, so we are asked to pay, and do. What we buy is added to what we have.")
        refused = client.post("/chat/stream", headers=headers, json=question("sparrow-1"))
        show("POST /chat/stream", refused, refused.json()["detail"])
        offer = refused.json()
        headers = {"Authorization": f"L402 {offer['macaroon']}:{pay(client, offer)}"}

        say("This route streams and is metered: two cents are held, and what is charged is counted by the token.")
        stream(client, headers)
        show("GET /joke", client.get("/joke", headers=headers))

        say("Every cent of this is a row in the ledger, and the ledger proves itself:")
        keep_books("statement", account, database)
        keep_books("verify", database)
        say(
            f"Try it yourself: {uvicorn()} example_app.main:app, then open http://127.0.0.1:8000/docs, which shows "
            "what each route costs. Stablecoins are taken, too, once TOLLBOOTH_X402__PAY_TO names a wallet."
        )


def uvicorn() -> str:
    """How to call it: ``make demo`` has put it into an environment that is not on the path."""
    return "uvicorn" if shutil.which("uvicorn") else os.path.relpath(Path(sys.executable).with_name("uvicorn"))


def question(model: str) -> dict[str, str]:
    """A question to a model."""
    return {"model": model, "prompt": "Will it rain in Lisbon?"}


def stream(client: httpx.Client, headers: dict[str, str]) -> None:
    """Ask for an answer that streams, and print it as it comes."""
    asked = client.stream("POST", "/chat/stream", headers=headers, json=question("sparrow-1"))
    with asked as response:
        show("POST /chat/stream", response, "")
        print(" " * 28, end="")
        for token in response.iter_text():
            print(token, end="", flush=True)
        print()


def keep_books(command: str, *arguments: str) -> None:
    """Run ``fastapi-tollbooth ledger`` as the owner would, and print what it says."""
    *rest, database = arguments
    program = Path(sys.executable).with_name("fastapi-tollbooth")
    print(f"  $ fastapi-tollbooth ledger {command} {' '.join(rest)}".rstrip())
    said = subprocess.run(
        [program, "ledger", command, *rest, "--database-url", database], capture_output=True, text=True, check=True
    )
    print(textwrap.indent(said.stdout, "    "), end="")


def pay(client: httpx.Client, offer: dict[str, Any]) -> str:
    """Pay an offer's invoice at the development node; the preimage."""
    response = client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})
    response.raise_for_status()
    preimage: str = response.json()["preimage"]
    return preimage


@contextmanager
def running_service() -> Iterator[tuple[str, str]]:
    """The example application in a process of its own, on a free port of this machine; its URL and its database's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLBOOTH_")}
    command = [sys.executable, "-m", "uvicorn", "example_app.main:app", "--port", str(port), "--log-level", "warning"]
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        database = environment["TOLLBOOTH_DATABASE_URL"] = f"sqlite:///{folder}/tollbooth.db"
        server = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            wait_for(base, server)
            yield base, database
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
    free = response.headers.get("x-free-remaining")
    left = f"   credit left: {balance}" if balance else f"   free today: {free}" if free else ""
    print(f"  {request:<22} -> {response.status_code} {response.reason_phrase}{left}")
    text = response.text if body is None else body
    if text:
        line = " ".join(text.split())
        print(" " * 28 + (line if len(line) <= MOST else f"{line[: MOST - 3]}..."))


def field(name: str, value: str) -> None:
    """A fact about the last answer."""
    print(f"      {name:<9} {value}")


if __name__ == "__main__":
    main()
