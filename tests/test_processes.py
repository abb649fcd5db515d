"""Several worker processes on one SQLite file, under real concurrency, through real sockets."""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The example application with two uvicorn workers; its address, and its ledger."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = tmp_path / "tollbooth.db"
    environment = {**os.environ, "TOLLBOOTH_DATABASE_URL": f"sqlite:///{database}", "TOLLBOOTH_TOP_UP": "10"}
    log = (tmp_path / "server.log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "example_app.main:app", "--port", str(port), "--workers", "2"],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{base}/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield base, database
    finally:
        server.terminate()
        server.wait(20)
        log.seek(0)
        printed = log.read()
        log.close()
    assert "Traceback" not in printed, printed


async def buy(client: httpx.AsyncClient) -> dict[str, str]:
    offer = (await client.get("/weather/Lisbon")).json()
    paid = (await client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})).json()
    assert "preimage" in paid, paid
    return {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}


def books(database: Path) -> tuple[list[tuple[int, int]], int, int]:
    """Payers' balances, the sum of all balances, and how many charges were posted."""
    with sqlite3.connect(database) as connection:
        payers = connection.execute("SELECT posted, pending FROM tollbooth_account WHERE kind = 'payer'").fetchall()
        total = connection.execute("SELECT sum(posted) FROM tollbooth_account").fetchone()[0]
        posted = connection.execute(
            "SELECT count(*) FROM tollbooth_transfer WHERE kind = 'charge' AND phase = 'post'"
        ).fetchone()[0]
    connection.close()
    return payers, total, posted


@pytest.mark.anyio
async def test_of_64_requests_on_credit_for_10_exactly_10_are_served(two_workers: tuple[str, Path]) -> None:
    base, database = two_workers
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=base, limits=limits, timeout=30) as client:
        credential = await buy(client)
        responses = await asyncio.gather(*(client.get("/weather/Lisbon", headers=credential) for _ in range(64)))
        statuses = sorted(response.status_code for response in responses)
        assert statuses == [200] * 10 + [402] * 54
        for _ in range(100):
            if books(database)[0] == [(0, 0)]:
                break
            await asyncio.sleep(0.02)
    assert books(database) == ([(0, 0)], 0, 10)


@pytest.mark.anyio
async def test_clients_that_buy_one_after_another_never_get_a_paid_invoice(two_workers: tuple[str, Path]) -> None:
    base, database = two_workers
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=base, limits=limits, timeout=30) as client:
        for _ in range(25):
            credential = await buy(client)
            assert (await client.get("/weather/Lisbon", headers=credential)).status_code == 200
    for _ in range(100):
        payers, total, posted = books(database)
        if posted == 25:
            break
        await asyncio.sleep(0.02)
    assert len(payers) == posted == 25
    assert total == 0
