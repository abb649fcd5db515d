"""Attacks on who is calling, each named by its id in the project's list of attacks."""

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

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
