"""``python -m benchmarks.x402``: our x402 beside the official middleware, in one run, over one loopback facilitator.

The official package is installed in an environment of its own first, which needs a package registry.
"""

import argparse
import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.load import Order, encode, measure
from benchmarks.servers import START_SECONDS, ServerError, free_port

OFFICIAL = "x402[evm,fastapi]==2.25.0"
PAY_TO = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
PAYER, TOKEN = "0x" + "ab" * 20, "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PAYMENTS = 40_000
_ROOT = Path(__file__).parent.parent
BARE, OURS, THEIRS = "bare FastAPI", "fastapi-tollbooth", "official middleware"
REQUESTS = {
    "unpriced route": (encode("/free"), 200),
    "402 without payment": (encode("/paid"), 402),
    "paid over loopback": (encode("/paid", [("PAYMENT-SIGNATURE", "{payment}")]), 200),
}


def main() -> None:
    """Measure each kind of request at each server in turn, and print requests per second."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.x402", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--python", type=Path, help=f"an interpreter that has {OFFICIAL}; by default one is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="x402-benchmark-") as name, ExitStack() as stack:
        directory = Path(name)
        python = options.python or _environment(directory)
        facilitator = stack.enter_context(_running([sys.executable, "-m", "benchmarks.loopback_facilitator"], {}))
        url = f"http://127.0.0.1:{facilitator}"
        ours = {
            "TOLLBOOTH_DATABASE_URL": f"sqlite:///{directory}/ours.db",
            "TOLLBOOTH_UNPAID_RATE_LIMIT": "off",
            "TOLLBOOTH_LIGHTNING__BACKEND": "none",
            "TOLLBOOTH_BTC_USD": "100000",
            # The other side describes its routes to no directory either.
            "TOLLBOOTH_X402__DISCOVERY": "false",
            "TOLLBOOTH_X402__PAY_TO": PAY_TO,
            "TOLLBOOTH_X402__NETWORKS": '["base-sepolia"]',
            "TOLLBOOTH_X402__FACILITATOR_URL": url,
        }
        ports = {
            BARE: stack.enter_context(_running(_uvicorn(Path(sys.executable), "benchmarks.apps:bare"), {})),
            OURS: stack.enter_context(_running(_uvicorn(Path(sys.executable), "benchmarks.apps:priced"), ours)),
            THEIRS: stack.enter_context(
                _running(
                    _uvicorn(python, "benchmarks.official_x402:official"), {"FACILITATOR_URL": url, "PAY_TO": PAY_TO}
                )
            ),
        }
        rates: dict[tuple[str, str], list[float]] = {}
        for number in range(options.rounds):
            for kind, (request, status) in {"bare": (encode("/plain"), 200), **REQUESTS}.items():
                for server in [BARE] if kind == "bare" else [OURS, THEIRS]:
                    payments = _payments(directory / f"{number}") if "{payment}" in request else None
                    order = Order(
                        ports[server], (request,), status, options.connections, 0.5, options.seconds, payments
                    )
                    rates.setdefault((kind, server), []).append(measure(order).rate)
        _report(rates)


def _report(rates: Mapping[tuple[str, str], list[float]]) -> None:
    bare = median(rates["bare", BARE])
    print(f"{BARE}: {bare:,.0f} requests/s\n")
    print(f"| | {OURS} | {THEIRS} | ratio |\n|---|---|---|---|")
    for kind in REQUESTS:
        ours, theirs = (median(rates[kind, server]) for server in (OURS, THEIRS))
        ratio = median(a / b for a, b in zip(rates[kind, OURS], rates[kind, THEIRS], strict=True))
        print(f"| {kind} | {ours:,.0f} ({ours / bare:.2f}) | {theirs:,.0f} ({theirs / bare:.2f}) | {ratio:.1f} |")


def _payments(path: Path) -> str:
    """A file of payments, each with a nonce of its own: ours takes none twice."""
    accepted = {
        "scheme": "exact",
        "network": "eip155:84532",
        "amount": "10000",
        "asset": TOKEN,
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 300,
        "extra": {"name": "USDC", "version": "2"},
    }
    until = str(int(time.time()) + 300)
    with path.open("w") as file:
        for _ in range(PAYMENTS):
            authorization = {
                "from": PAYER,
                "to": PAY_TO,
                "value": "10000",
                "validAfter": "0",
                "validBefore": until,
                "nonce": "0x" + secrets.token_hex(32),
            }
            payload = {"signature": "0x" + "11" * 65, "authorization": authorization}
            document = {"x402Version": 2, "accepted": accepted, "payload": payload}
            file.write(base64.b64encode(json.dumps(document).encode()).decode() + "\n")
    return str(path)


def _environment(directory: Path) -> Path:
    folder = directory / "official"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", OFFICIAL, "uvicorn[standard]"], check=True)
    return python


def _uvicorn(python: Path, app: str) -> list[str]:
    quiet = ["--no-access-log", "--log-level", "warning"]
    return [str(python), "-m", "uvicorn", "--factory", app, "--app-dir", str(_ROOT), *quiet, "--port"]


@contextmanager
def _running(command: list[str], variables: Mapping[str, str]) -> Iterator[int]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLBOOTH_")}
    process = subprocess.Popen([*command, str(port)], cwd=_ROOT, env=environment | dict(variables))
    try:
        _wait(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(15)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise ServerError("a server did not start")


if __name__ == "__main__":
    main()
