import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from fastapi_tollbooth import Asset, Money, Tollbooth, TollboothSettings
from fastapi_tollbooth.doctor import Finding, Level, Patient, reachable
from fastapi_tollbooth.ledger.operations import Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.rails import Challenge
from fastapi_tollbooth.testing import FakeTollbooth
from tests.service import free_port
from tests.x402_payer import PAY_TO


def patient(tmp_path: Path, **settings: Any) -> Patient:
    url = f"sqlite:///{tmp_path}/t.db"
    booth = Tollbooth(TollboothSettings(_env_file=None, **{"database_url": url, **settings}))
    booth.install(app := FastAPI())
    return Patient(app, booth)


def findings(patient: Patient, check: Any = reachable.ask) -> list[Finding]:
    async def run() -> list[Finding]:
        found = [finding async for finding in check(patient)]
        await patient.tollbooth.close()
        return found

    return asyncio.run(run())


def levels(found: list[Finding]) -> set[Level]:
    return {finding.level for finding in found}


def test_a_healthy_service_is_healthy(tmp_path: Path) -> None:
    found = findings(patient(tmp_path))
    assert levels(found) == {Level.OK}
    assert {finding.check for finding in found} == {"database", "offers"}


def test_every_way_to_be_paid_makes_its_offer(tmp_path: Path) -> None:
    [finding] = findings(patient(tmp_path, x402={"pay_to": PAY_TO, "networks": ["base-sepolia"]}), reachable.offers)
    assert (finding.level, finding.detail[:13]) == (Level.OK, "2 ways to pay")


def test_a_database_that_is_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "t.db").write_bytes(b"this is not a database, whatever it is called" * 100)
    [finding] = findings(patient(tmp_path), reachable.database)
    assert finding.level is Level.PROBLEM
    assert finding.mend


def test_a_ledger_of_the_future_is_found(tmp_path: Path) -> None:
    made = patient(tmp_path)

    async def fund() -> None:
        money = Money(100, Asset.USD)
        await made.tollbooth.ledger.apply(Fund("l402:aa", money, Payment("l402", "p1", 1, Asset.BTC, "l402:aa")))
        await made.tollbooth.close()

    asyncio.run(fund())
    assert levels(findings(made, reachable.database)) == {Level.OK}
    with sqlite3.connect(tmp_path / "t.db") as connection:
        ahead = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
        connection.execute("UPDATE tollbooth_transfer SET created_at = ?", (ahead,))
    connection.close()
    assert ("clock", Level.PROBLEM) in {(found.check, found.level) for found in findings(made, reachable.database)}


def test_a_node_that_is_down_is_found(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    lightning = {"backend": "lnbits", "url": url, "api_key": "0" * 32, "timeout": 1}
    [finding] = findings(patient(tmp_path, lightning=lightning, btc_usd="100000"), reachable.offers)
    assert finding.level is Level.PROBLEM
    assert "'l402' can offer nothing" in finding.detail


def test_offers_that_are_too_large_for_headers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTollbooth()
    fake.install(app := FastAPI())
    assert levels(findings(Patient(app, fake), reachable.offers)) == {Level.OK}

    async def huge(*_: Any) -> Challenge:
        return Challenge((("PAYMENT-REQUIRED", "x" * 9_000),), {}, datetime.now(UTC))

    monkeypatch.setattr(fake.rail, "challenge", huge)
    [finding] = findings(Patient(app, fake), reachable.offers)
    assert (finding.check, finding.level) == ("402-size", Level.PROBLEM)


@pytest.fixture
def facilitator() -> Iterator[Callable[[int, float], str]]:
    """Start a facilitator that answers with this status, and whose clock is so many seconds ahead."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, ahead: float) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response_only(status)
                self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "ahead", "expected"),
    [
        (200, 0, {("facilitators", Level.OK), ("clock", Level.OK)}),
        (503, 0, {("facilitators", Level.PROBLEM), ("clock", Level.OK)}),
        (200, 600, {("facilitators", Level.OK), ("clock", Level.PROBLEM)}),
    ],
)
def test_facilitators_and_the_clock_are_looked_at(
    tmp_path: Path,
    facilitator: Callable[[int, float], str],
    status: int,
    ahead: float,
    expected: set[tuple[str, Level]],
) -> None:
    made = _with_facilitator(tmp_path, facilitator(status, ahead))
    assert {(found.check, found.level) for found in findings(made, reachable.facilitators)} == expected


def test_a_facilitator_that_is_down_is_found(tmp_path: Path) -> None:
    [finding] = findings(_with_facilitator(tmp_path, f"http://127.0.0.1:{free_port()}"), reachable.facilitators)
    assert (finding.check, finding.level) == ("facilitators", Level.PROBLEM)
    assert findings(patient(tmp_path), reachable.facilitators) == []


def test_redis_is_asked(tmp_path: Path) -> None:
    storage = f"redis://127.0.0.1:{free_port()}/0"
    [finding] = findings(patient(tmp_path, rate_limit_storage=storage), reachable.shared_limits)
    assert (finding.check, finding.level) == ("redis", Level.PROBLEM)
    assert findings(patient(tmp_path), reachable.shared_limits) == []


def test_an_answer_without_a_date_says_nothing_of_the_clock() -> None:
    request = httpx.Request("GET", "http://x")
    assert list(reachable.clock(httpx.Response(200, request=request))) == []
    assert list(reachable.clock(httpx.Response(200, headers={"Date": "soon"}, request=request))) == []


def _with_facilitator(tmp_path: Path, url: str) -> Patient:
    made = patient(tmp_path)
    made.tollbooth.settings.x402.pay_to = "0x" + "11" * 20
    made.tollbooth.settings.x402.facilitator_url = url
    return made
