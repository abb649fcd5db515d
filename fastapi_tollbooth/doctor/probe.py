"""What a caller sees of a running service: ``fastapi-tollbooth doctor shop:app --probe https://api.example.com``."""

import ipaddress
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from fastapi_tollbooth.doctor import Finding, ok, problem, warning
from fastapi_tollbooth.doctor.reachable import MOST_HEADER_BYTES, SECONDS, clock
from fastapi_tollbooth.lightning.dev_routes import PAY_PATH

STRANGER = "https://doctor.invalid"


async def probe(url: str) -> AsyncIterator[Finding]:
    """Call a running service as a client would, and pay nothing."""
    try:
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as client:
            async for finding in _called(client, url):
                yield finding
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield problem("reachable", f"{url} does not answer ({type(error).__name__})", "start the service")


async def _called(client: httpx.AsyncClient, url: str) -> AsyncIterator[Finding]:
    answer = await client.get("/openapi.json")
    yield ok("reachable", f"{url} answers")
    for finding in [*_encrypted(url), *clock(answer)]:
        yield finding
    for check in (_development, _strangers):
        async for finding in check(client):
            yield finding
    priced = list(_priced(answer))
    if not priced:
        yield warning("probe", "no priced operation without parameters is documented", "call one of your own")
    for method, path in priced[:5]:
        for finding in _offer(method, path, await client.request(method, path)):
            yield finding


def _encrypted(url: str) -> Iterator[Finding]:
    host = urlsplit(url).hostname or ""
    if url.startswith("https://"):
        yield ok("tls", "credentials travel encrypted")
    elif host == "localhost" or _is_private(host):
        yield warning("tls", f"{host} is a private address, without TLS", "probe the address that callers use")
    else:
        yield problem("tls", "credentials travel unencrypted: whoever sees one spends it", "terminate TLS in a proxy")


async def _development(client: httpx.AsyncClient) -> AsyncIterator[Finding]:
    answer = await client.post(PAY_PATH, json={})
    if answer.status_code in (404, 405):
        yield ok("development", "nobody pays with the development node")
    else:
        mend = "set TOLLBOOTH_ENVIRONMENT=production, and a real node"
        yield problem("development", f"{PAY_PATH} answers: everybody pays with made-up money", mend)


async def _strangers(client: httpx.AsyncClient) -> AsyncIterator[Finding]:
    headers = {"Origin": STRANGER, "Access-Control-Request-Method": "GET"}
    answer = await client.options("/", headers=headers)
    allowed = answer.headers.get("access-control-allow-origin")
    if allowed in ("*", STRANGER):
        yield problem("cors", "pages of every origin may call", "restrict CORS to your frontends")
    else:
        yield ok("cors", "a page of a foreign origin is not let in")


def _priced(answer: httpx.Response) -> Iterator[tuple[str, str]]:
    try:
        paths: Any = answer.json()["paths"]
    except (ValueError, KeyError, TypeError):
        return
    for path, item in paths.items():
        for method, operation in item.items():
            if isinstance(operation, dict) and "x-payment-info" in operation and not re.search(r"[{}]", path):
                yield method.upper(), path


def _offer(method: str, path: str, answer: httpx.Response) -> Iterator[Finding]:
    name = f"{method} {path}"
    if answer.status_code < 300:
        yield warning("offer", f"{name} is served without payment", "look whether it is free on purpose, or observed")
        return
    if answer.status_code != 402:
        mend = "look into the log: callers without a credential should get an offer"
        yield problem("offer", f"{name} answers {answer.status_code}, and not 402", mend)
        return
    size = sum(len(key) + len(value) + 4 for key, value in answer.headers.multi_items())
    offers = answer.headers.get_list("www-authenticate") + answer.headers.get_list("payment-required")
    if not offers:
        mend = "have the proxy pass WWW-Authenticate and PAYMENT-REQUIRED on"
        yield problem("offer", f"{name}: the 402 arrives without an offer", mend)
    if "no-store" not in answer.headers.get("cache-control", ""):
        mend = "have the proxy leave Cache-Control alone"
        yield problem("cache", f"{name}: the 402 may be stored by caches", mend)
    if size > MOST_HEADER_BYTES:
        yield problem("402-size", f"{name}: {size} bytes of headers", "offer fewer networks, or shorten descriptions")
    if offers and size <= MOST_HEADER_BYTES:
        yield ok("offer", f"{name} answers 402 with {len(offers)} offers in {size} bytes of headers")


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False
