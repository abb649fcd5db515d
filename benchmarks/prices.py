"""What a dynamic price adds to a priced request: the application called in this process, a ledger in memory."""

import asyncio
import json
import random
import time
from statistics import median
from typing import Any

from fastapi import Depends, FastAPI

from fastapi_tollbooth import Money, Tollbooth, TollboothSettings, priced

ROUNDS, CALLS = 15, 400
BODY = json.dumps({"model": "claude-opus-4", "pad": "x" * 980}).encode()
RULES = [{"where": {"body.model": f"{name}-*"}, "price": "$0.01"} for name in ("haiku", "sonnet", "claude")]


async def _cent(body: dict[str, Any]) -> Money:
    return Money.parse("$0.01")


PRICES = {
    "static": priced("$0.01"),
    "three-rule match": priced(match=RULES, fallback="$0.01"),
    "model table": priced(models={"claude-opus-4": "$0.01"}, fallback="$0.01"),
    "async function": priced(_cent),
}


def report() -> str:
    """Microseconds of a paid request of 1 KiB by kind of price, and what each kind adds to a static price."""
    medians = asyncio.run(_measure())
    lines = [f"a paid POST of {len(BODY)} bytes in this process, ledger in memory, median of {ROUNDS} rounds"]
    lines += [f"  {name:<18}{value:7.1f} µs  {value - medians['static']:+7.1f} µs" for name, value in medians.items()]
    return "\n".join(lines)


async def _measure() -> dict[str, float]:
    settings = TollboothSettings(_env_file=None, database_url="sqlite://", top_up=100_000_000)
    tollbooth, app = Tollbooth(settings), FastAPI()
    tollbooth.install(app)
    for name, price in PRICES.items():
        app.post(f"/{name}", dependencies=[Depends(price)])(_complete)
    offer = json.loads((await _call(app, "static", b""))[1])
    node = tollbooth.dev_node
    assert node is not None
    preimage = (await node.pay(offer["invoice"])).preimage
    credential = f"L402 {offer['macaroon']}:{preimage}".encode()
    samples: dict[str, list[float]] = {name: [] for name in PRICES}
    for _ in range(ROUNDS):
        for name in random.sample(list(PRICES), len(PRICES)):
            started = time.perf_counter()
            for _ in range(CALLS):
                status, _ = await _call(app, name, credential)
                assert status == 200
            samples[name].append((time.perf_counter() - started) / CALLS * 1e6)
    await tollbooth.close()
    return {name: median(values) for name, values in samples.items()}


async def _complete(prompt: dict[str, Any]) -> str:
    return "ok"


async def _call(app: FastAPI, path: str, credential: bytes) -> tuple[int, bytes]:
    status, content = 0, b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, content
        status = message.get("status", status)
        content += message.get("body", b"")

    headers = [(b"content-type", b"application/json"), *([(b"authorization", credential)] if credential else [])]
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/{path}",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return status, content


if __name__ == "__main__":
    print(report())
