"""What the Python drivers share: a wallet, and the calls that each client makes.

Drivers run inside their client's own environment, as modules from the root of the repository, so nothing but the
standard library may be imported here. The first argument is the server's base URL.
"""

import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

BASE = sys.argv[1]
CALLS = [("GET", "/weather")] * 4 + [("POST", "/echo")] * 2 + [("GET", "/joke")]
ECHO_BODY = {"say": "hello", "times": 2}

_paid: list[str] = []


def pay(invoice: str) -> dict[str, str]:
    """Pay an invoice at the server's development node; its payment hash and preimage, in hex."""
    request = urllib.request.Request(
        f"{BASE}/tollbooth/dev/pay",
        json.dumps({"invoice": invoice}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        paid: dict[str, str] = json.load(response)
    _paid.append(invoice)
    return paid


def payments_made() -> int:
    """How often `pay` has paid in this process."""
    return len(_paid)


def play(call: Callable[[str, str, Any], tuple[int, Any]], payments: Callable[[], int] = payments_made) -> None:
    """Make every call through ``call(method, url, json_body)``; print status, body and payments made until then."""
    answers = []
    for method, path in CALLS:
        status, body = call(method, BASE + path, ECHO_BODY if method == "POST" else None)
        answers.append({"path": path, "status": status, "body": body, "payments": payments()})
    print(json.dumps(answers))
