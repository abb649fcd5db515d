import asyncio
import logging
import socket
import sqlite3
import time
from collections.abc import Callable

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import ConfigurationError, Tollbooth, priced
from fastapi_tollbooth.errors import TooManyRequests
from fastapi_tollbooth.rate_limits import RateLimits
from fastapi_tollbooth.terms import RateLimit
from fastapi_tollbooth.testing import FakeTollbooth
from tests.wallet import buy


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def limit(text: str) -> RateLimit:
    found = RateLimit.parse(text)
    assert found is not None
    return found


async def served(rates: RateLimits, text: str, *key: str) -> bool:
    try:
        await rates.hit(limit(text), *key)
    except TooManyRequests:
        return False
    return True


@pytest.mark.anyio
async def test_the_window_moves() -> None:
    clock = Clock()
    rates = RateLimits(clock=clock)
    times = [0.0, 30, 59, 59.9, 60.1, 61, 90.1, 119.2, 119.3]
    found = []
    for clock.now in times:
        found.append(await served(rates, "3/minute", "a"))
    # A window of the clock would have served six around its turn.
    assert found == [True, True, True, False, True, False, True, True, False]


@pytest.mark.anyio
async def test_callers_do_not_share_and_what_was_refused_does_not_count() -> None:
    clock = Clock()
    rates = RateLimits(clock=clock)
    assert [await served(rates, "1/second", key) for key in ("a", "b", "a")] == [True, True, False]
    clock.now = 0.99
    assert not await served(rates, "1/second", "a")
    clock.now = 1.0
    assert await served(rates, "1/second", "a")
    await rates.hit(None, "a")


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 5), st.integers(1, 3))
def test_never_more_than_the_limit_in_any_window(gaps: list[float], requests: int, seconds: int) -> None:
    async def run() -> list[float]:
        clock = Clock()
        rates, times = RateLimits(clock=clock), list[float]()
        for gap in gaps:
            clock.now += gap
            if await served(rates, f"{requests}/{seconds} seconds; 100/minute", "a"):
                times.append(clock.now)
        return times

    times = asyncio.run(run())
    for start in times:
        assert sum(start <= time < start + seconds for time in times) <= requests


@pytest.mark.anyio
async def test_the_refusal_says_when_to_come_again() -> None:
    rates = RateLimits()
    await rates.hit(limit("1/minute"), "a")
    with pytest.raises(TooManyRequests) as refused:
        await rates.hit(limit("1/minute"), "a")
    headers = dict(refused.value.raw_headers)
    assert 58 <= int(headers[b"retry-after"]) <= 60
    assert headers[b"ratelimit-policy"] == b'"tollbooth";q=1;w=60'
    assert headers[b"ratelimit"].startswith(b'"tollbooth";r=0;t=')
    assert refused.value.reason == "rate_limited"


@pytest.mark.parametrize("storage", ["memcached://localhost", "Memory", "", "http://localhost"])
def test_other_storages_are_refused(storage: str) -> None:
    with pytest.raises(ConfigurationError, match="TOLLBOOTH_RATE_LIMIT_STORAGE"):
        RateLimits(storage)


@pytest.mark.anyio
async def test_while_redis_does_not_answer_each_worker_counts_for_itself_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clock = Clock()
    rates = RateLimits(f"redis://127.0.0.1:{port}/0", clock)
    with caplog.at_level(logging.ERROR):
        assert [await served(rates, "2/minute", "a") for _ in range(4)] == [True, True, False, False]
    assert caplog.text.count("Redis does not answer") == 1
    assert not await rates.is_shared()
    clock.now = 6.0
    assert not await served(rates, "2/minute", "a")
    assert caplog.text.count("Redis does not answer") == 2
    await rates.close()


# ── on routes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def shop(runs: list[str], tollbooth: Tollbooth) -> FastAPI:
    app = FastAPI()
    tollbooth.install(app)

    @app.get("/paid", dependencies=[Depends(priced("$0.01", rate_limit="2/hour"))])
    async def paid() -> str:
        runs.append("paid")
        return "ok"

    @app.get("/free", dependencies=[Depends(priced("$0", rate_limit="2/hour"))])
    async def free() -> str:
        runs.append("free")
        return "ok"

    @app.get("/open", dependencies=[Depends(priced("$0"))])
    async def open_() -> str:
        runs.append("open")
        return "ok"

    return app


def test_a_free_route_serves_each_client_so_often() -> None:
    runs: list[str] = []
    app = shop(runs, FakeTollbooth())
    with TestClient(app) as client, TestClient(app, client=("203.0.113.9", 1)) as other:
        assert [client.get("/free").status_code for _ in range(3)] == [200, 200, 429]
        assert other.get("/free").status_code == 200
        refused = client.get("/free", headers={"X-Forwarded-For": "198.51.100.1"})
    assert refused.status_code == 429
    assert refused.json()["reason"] == "rate_limited"
    assert refused.headers["cache-control"] == "no-store"
    assert runs == ["free"] * 3


def test_a_payer_beyond_the_limit_is_not_charged(booth: Tollbooth, serve: Callable[..., TestClient]) -> None:
    runs: list[str] = []
    client = serve(shop(runs, booth))
    first, second = buy(client, "/paid"), buy(client, "/paid")
    answers = [client.get("/paid", headers=first) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert client.get("/paid", headers=second).status_code == 200
    assert runs == ["paid"] * 3
    with sqlite3.connect(booth.settings.database_url.removeprefix("sqlite:///")) as connection:
        for _ in range(100):
            rows = connection.execute(
                "SELECT posted, pending FROM tollbooth_account WHERE kind = 'payer' ORDER BY posted"
            ).fetchall()
            if rows == [(80_000, 0), (90_000, 0)]:
                break
            time.sleep(0.02)
    connection.close()
    assert rows == [(80_000, 0), (90_000, 0)]


def test_the_defaults_hold_where_a_route_says_nothing() -> None:
    runs: list[str] = []
    fake = FakeTollbooth()
    fake.settings.free_rate_limit, fake.settings.unpaid_rate_limit = limit("3/hour"), limit("2/hour")
    with TestClient(shop(runs, fake)) as client:
        assert [client.get("/open").status_code for _ in range(4)] == [200, 200, 200, 429]
        statuses = [client.get("/paid", headers={"X-Fake-Payment": str(n)}).status_code for n in range(3)]
        assert statuses == [402, 402, 429]
        assert len(fake.rail._payments) == 2
        assert client.get("/free").status_code == 200
