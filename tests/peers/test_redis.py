"""Rate limits in a real Redis: what workers count together, and what happens while it is gone."""

import asyncio
import logging
import time
from pathlib import Path

import httpx
import pytest

from fastapi_tollbooth.errors import TooManyRequests
from fastapi_tollbooth.rate_limits import RETRY_SECONDS, RateLimits
from fastapi_tollbooth.terms import RateLimit
from tests.peers.redis_server import Redis
from tests.service import running

pytestmark = pytest.mark.peer


def limit(text: str) -> RateLimit:
    found = RateLimit.parse(text)
    assert found is not None
    return found


async def served(rates: RateLimits, text: str) -> bool:
    try:
        await rates.hit(limit(text), "free", "203.0.113.1")
    except TooManyRequests:
        return False
    return True


@pytest.mark.anyio
async def test_workers_count_together_and_the_window_moves(redis: Redis) -> None:
    workers = [RateLimits(redis.url) for _ in range(2)]
    assert await workers[0].is_shared()
    start, times = time.monotonic(), list[float]()
    while time.monotonic() - start < 3:
        for worker in workers:
            if await served(worker, "5/second"):
                times.append(time.monotonic())
        await asyncio.sleep(0.02)
    assert 10 <= len(times) <= 20
    for first in times:
        # The clock of Redis and ours may differ by a hair.
        assert sum(first <= other < first + 0.98 for other in times) <= 5
    await workers[0].hit(limit("1/minute"), "b")
    with pytest.raises(TooManyRequests) as refused:
        await workers[1].hit(limit("1/minute"), "b")
    for worker in workers:
        await worker.close()
    assert 1 <= int(dict(refused.value.raw_headers)[b"retry-after"]) <= 61


@pytest.mark.anyio
async def test_two_workers_of_a_service_share_a_limit(redis: Redis, tmp_path: Path) -> None:
    settings = {
        "TOLLBOOTH_RATE_LIMIT_STORAGE": redis.url,
        "TOLLBOOTH_UNPAID_RATE_LIMIT": "10/minute",
        "TOLLBOOTH_DATABASE_URL": f"sqlite:///{tmp_path}/t.db",
    }
    limits = httpx.Limits(max_connections=40, max_keepalive_connections=0)
    with running("example_app.main:app", "--workers", "2", **settings) as base:
        async with httpx.AsyncClient(base_url=base, limits=limits, timeout=30) as client:
            answers = await asyncio.gather(*(client.get("/weather/Lisbon") for _ in range(40)))
    assert sorted(answer.status_code for answer in answers) == [402] * 10 + [429] * 30


@pytest.mark.anyio
async def test_limits_survive_the_loss_of_redis_and_are_shared_again_when_it_is_back(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    rates = RateLimits(redis.url, lambda: now[0])
    assert [await served(rates, "2/minute") for _ in range(3)] == [True, True, False]
    redis.stop()
    with caplog.at_level(logging.ERROR):
        assert [await served(rates, "2/minute") for _ in range(3)] == [True, True, False]
    assert caplog.text.count("Redis does not answer") == 1
    await asyncio.to_thread(redis.start)
    now[0] += RETRY_SECONDS
    assert [await served(rates, "2/minute") for _ in range(3)] == [True, True, False]
    assert await rates.is_shared()
    await rates.close()
