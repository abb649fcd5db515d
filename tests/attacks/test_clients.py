"""Attacks on who is calling, on what stands between, and on what is written down.

Each is named by its id in the project's list of attacks.
"""

import ast
import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpcore
import httpx
import pytest

import fastapi_tollbooth
from fastapi_tollbooth.terms import RateLimit
from tests.attacks.counters import Counter, X402Counter, counter_of
from tests.service import running


@contextmanager
def four_workers(tmp_path: Path, **settings: str) -> Iterator[str]:
    settings = {
        "TOLLBOOTH_FREE_TIER": "2",
        "TOLLBOOTH_FREE_RATE_LIMIT": "off",
        "TOLLBOOTH_DATABASE_URL": f"sqlite:///{tmp_path}/t.db",
        **settings,
    }
    # uvicorn itself would believe whoever connects from 127.0.0.1, which is where this test is.
    with running("example_app.main:app", "--workers", "4", "--no-proxy-headers", **settings) as base:
        yield base


def spoofed() -> str:
    return f"{random.randrange(1, 224)}.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(256)}"


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize(("trusted", "written_by_the_proxy"), [("", ""), ("1", ", 203.0.113.7")])
async def test_a31_of_200_requests_with_spoofed_addresses_exactly_the_free_ones_are_served(
    tmp_path: Path, trusted: str, written_by_the_proxy: str
) -> None:
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
    with four_workers(tmp_path, TOLLBOOTH_TRUSTED_PROXIES=trusted) as base:
        async with httpx.AsyncClient(base_url=base, limits=limits, timeout=60) as client:

            async def ask() -> int:
                lie = spoofed()
                headers = {
                    "X-Forwarded-For": lie + written_by_the_proxy,
                    "Forwarded": f"for={lie}",
                    "X-Real-IP": lie,
                    "True-Client-IP": lie,
                    "CF-Connecting-IP": lie,
                }
                return (await client.get("/weather/Lisbon", headers=headers)).status_code

            statuses = await asyncio.gather(*(ask() for _ in range(200)))
    assert sorted(statuses) == [200] * 2 + [402] * 198
    with sqlite3.connect(tmp_path / "t.db") as connection:
        used = connection.execute("SELECT used FROM tollbooth_free_use WHERE bucket = 'free_tier'").fetchall()
    connection.close()
    assert used == [(2,)]


def test_a32_a_flood_of_unpaid_requests_makes_few_offers(counter: Counter) -> None:
    limit = RateLimit.parse("20/hour")
    counter.tollbooth.settings.unpaid_rate_limit = limit
    answers = [counter.get("/goods") for _ in range(300)]
    assert [answer.status_code for answer in answers] == [402] * 20 + [429] * 280
    assert all(answer.headers["retry-after"] for answer in answers[20:])
    assert all("www-authenticate" not in answer.headers for answer in answers[20:])
    if counter.name == "l402":
        assert len({answer.json()["invoice"] for answer in answers[:20]}) == 1
    garbage = {"fake": {"X-Fake-Payment": "x"}, "l402": {"Authorization": "L402 A:" + "0" * 64}}
    assert counter.get("/goods", garbage.get(counter.name)).status_code == 429


def test_a33_offers_are_never_stored_and_paid_answers_are_private(counter: Counter) -> None:
    unpaid = counter.get("/goods")
    assert unpaid.headers["cache-control"] == "no-store"
    assert {"Authorization", "PAYMENT-SIGNATURE", "Accept"} <= {
        name.strip() for name in unpaid.headers["vary"].split(",")
    }
    for path in ("/goods", "/stream"):
        paid = counter.get(path, counter.buy(path))
        assert paid.status_code == 200
        assert paid.headers["cache-control"] == "private"
    html = counter.client.get("/goods", headers={"Accept": "text/html"})
    assert html.headers["cache-control"] == "no-store"


def test_a33_a_shared_cache_neither_gives_away_nor_poisons(counter: Counter) -> None:
    cache = SharedCache(counter)
    assert cache.get("/goods").status_code == 402
    credential = counter.buy()
    assert cache.get("/goods", credential).status_code == 200
    assert cache.get("/goods").status_code == 402
    assert cache.stored == {}
    assert counter.runs == ["/goods"]


class SharedCache:
    """A cache between callers and the service that stores all that RFC 9111 §3 lets a shared one store."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.stored: dict[str, Any] = {}

    def get(self, path: str, headers: dict[str, str] | None = None) -> Any:
        """A request through the cache."""
        if path in self.stored:
            return self.stored[path]
        answer = self._counter.get(path, headers)
        directives = {each.strip() for each in answer.headers.get("cache-control", "").split(",")}
        if not directives & {"no-store", "private"}:
            self.stored[path] = answer
        return answer


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Proto": "gopher", "Forwarded": "host=evil.example"},
        {"Referer": "http://169.254.169.254/latest/meta-data"},
        {"X-Facilitator-Url": "http://evil.example", "X-Original-URL": "http://evil.example"},
    ],
)
def test_a34_nothing_in_a_request_chooses_whom_the_service_calls(
    counter: Counter, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    connect = httpcore.AsyncConnectionPool.handle_async_request

    async def watch(self: Any, request: Any) -> Any:
        called.append(request.url.host.decode())
        return await connect(self, request)

    monkeypatch.setattr(httpcore.AsyncConnectionPool, "handle_async_request", watch)
    refused = counter.client.get("/goods?url=http://evil.example&callback=http://10.0.0.1", headers=headers)
    assert refused.status_code == 402
    paid = counter.client.get("/goods", headers={**headers, **counter.pay(refused)})
    assert paid.status_code in (200, 402)
    assert set(called) <= {"127.0.0.1"}


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"isValid": "yes"}),
        (200, {"isValid": True, "payer": "0x" + "00" * 20}),
        (200, []),
        (200, None),
        (200, "true"),
        (200, {}),
        (302, {"isValid": True}),
        (500, {"isValid": True}),
        (200, {"isValid": 1}),
    ],
)
def test_a35_a_facilitator_that_answers_nonsense_serves_nobody(tmp_path: Path, answer: tuple[int, Any]) -> None:
    with counter_of("x402", tmp_path) as counter:
        assert isinstance(counter, X402Counter)
        counter.facilitator.verify_answer = answer
        refused = counter.get("/goods", counter.buy())
        assert refused.status_code in (402, 403, 503)
        assert counter.runs == []


def test_a36_secrets_are_compared_in_constant_time() -> None:
    package = Path(fastapi_tollbooth.__file__).parent
    assert "hmac.compare_digest" in (package / "rails" / "l402_credential.py").read_text()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(each, ast.Eq | ast.NotEq) for each in node.ops):
                sides = [node.left, *node.comparators]
                names = {each.id if isinstance(each, ast.Name) else getattr(each, "attr", "") for each in sides}
                assert not {"signature", "preimage", "secret", "mac"} & names, f"{path}:{node.lineno}"


@pytest.mark.parametrize("size", [5_000, 60_000, 1_000_000])
@pytest.mark.parametrize("name", ["Authorization", "Macaroon", "PAYMENT-SIGNATURE", "X-PAYMENT", "X-Fake-Payment"])
def test_a37_an_oversized_credential_is_refused_at_once(counter: Counter, name: str, size: int) -> None:
    value = ("L402 " if name == "Authorization" else "") + "A" * size
    started = time.perf_counter()
    refused = counter.get("/goods", {name: value})
    assert refused.status_code in (400, 402)
    assert time.perf_counter() - started < 1
    assert len(refused.content) < 20_000
    assert counter.runs == []


@pytest.mark.parametrize("text", ["a\r\nX-Injected: 1", "a\nb", "\x00", '"><script>', "é", "\x7f"])
def test_a37_nothing_that_a_caller_sends_becomes_a_header(counter: Counter, text: str) -> None:
    for headers in ({b"authorization": f"L402 {text}".encode()}, {b"accept": text.encode()}):
        refused = counter.client.get(f"/goods?x={quote(text)}", headers=list(headers.items()))
        assert refused.status_code in (400, 402)
        assert "x-injected" not in refused.headers
        assert "<script>" not in refused.text


def test_a38_what_callers_write_does_not_forge_the_log(counter: Counter, caplog: pytest.LogCaptureFixture) -> None:
    def fail(connection: Any) -> None:
        raise RuntimeError("the hook fails")

    counter.tollbooth.on_request(fail)
    with caplog.at_level(logging.INFO, "fastapi_tollbooth"):
        for path in ("/goods?a=1%0aERROR%20forged", "/either%0aERROR%20forged", "/goods"):
            counter.client.get(path, headers={"User-Agent": "x\tERROR forged"})
    assert "forged" not in "\n".join(record.getMessage() for record in caplog.records if "tollbooth" in record.name)
