"""What waits for the ledger is bounded, and can be seen."""

import asyncio
import threading

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Asset, Money, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund, Resolved
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.writer import Ledger
from tests.databases import sqlite_url

KEY = "l402:aa"


def charge() -> Authorize:
    return Authorize(KEY, Money(1, Asset.USD), "/")


async def funded(url: str, most_waiting: int = 4_096) -> Ledger:
    ledger = Ledger(url, most_waiting=most_waiting)
    await ledger.apply(Fund(KEY, Money(10_000, Asset.USD), Payment("l402", "p1", 1, Asset.BTC, KEY)))
    return ledger


class Stuck:
    """Keeps a ledger's writer busy until released."""

    def __init__(self, ledger: Ledger) -> None:
        self.go = threading.Event()
        entered = threading.Event()

        def block(_: object) -> None:
            entered.set()
            self.go.wait(20)

        self.task = asyncio.create_task(ledger.read(block))
        self.entered = entered

    async def wait(self) -> None:
        await asyncio.to_thread(self.entered.wait, 20)


@pytest.mark.anyio
async def test_what_is_too_much_is_refused_at_once_and_the_rest_is_served(url: str) -> None:
    ledger = await funded(url, most_waiting=20)
    [toll] = await ledger.apply(charge())
    assert isinstance(toll, Authorized)
    stuck = Stuck(ledger)
    await stuck.wait()
    waiting = [asyncio.create_task(ledger.apply(charge())) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert (ledger.stats().waiting, ledger.stats().writing) == (20, 1)
    refused = [task for task in waiting if task.done()]
    assert len(refused) == ledger.stats().refused == 30
    for task in refused:
        error = task.exception()
        assert isinstance(error, Unavailable)
        assert (error.reason, dict(error.raw_headers)[b"retry-after"]) == ("ledger_busy", b"2")
    with pytest.raises(Unavailable):
        await ledger.read(lambda _: None)
    # A handler has run for this one: it is written whatever waits.
    capture = asyncio.create_task(ledger.apply(Capture(toll.account_id, toll.toll)))
    ledger.apply_later(Capture(toll.account_id, toll.toll))
    stuck.go.set()
    await stuck.task
    assert await capture == [Resolved("post")]
    served = [await task for task in waiting if task not in refused]
    assert all(isinstance(outcome, Authorized) for [outcome] in served)
    assert len(served) == 20
    assert (await ledger.apply(charge()))[0] is not None
    await ledger.close()


@pytest.mark.anyio
async def test_the_size_of_batches_can_be_seen(url: str) -> None:
    ledger = await funded(url)
    before = ledger.stats()
    stuck = Stuck(ledger)
    await stuck.wait()
    waiting = [asyncio.create_task(ledger.apply(charge())) for _ in range(100)]
    await asyncio.sleep(0.05)
    stuck.go.set()
    await asyncio.gather(stuck.task, *waiting)
    after = ledger.stats()
    assert after.operations - before.operations == 100
    assert after.last_batch == 100
    assert (after.batches - before.batches, after.waiting, after.failed_batches, after.refused) == (1, 0, 0, 0)
    assert after.writing == 0
    await ledger.close()


def test_a_caller_is_told_and_no_handler_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    url = sqlite_url(tmp_path_factory.mktemp("busy"))
    booth = Tollbooth(TollboothSettings(_env_file=None, database_url=url, secret="s" * 32, top_up=10))
    booth.ledger._most_waiting = 10
    app, runs = FastAPI(), []
    booth.install(app)

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def handler() -> None:
        runs.append(1)

    with TestClient(app) as client:
        offer = client.get("/x").json()
        paid = client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]}).json()
        credential = {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}
        assert client.get("/x", headers=credential).status_code == 200
        booth.ledger._most_waiting = 0
        refused = client.get("/x", headers=credential)
        assert (refused.status_code, refused.json()["reason"]) == (503, "ledger_busy")
        assert "retry-after" in refused.headers
        assert "www-authenticate" not in refused.headers
        assert runs == [1]
        booth.ledger._most_waiting = 10
        assert client.get("/x", headers=credential).status_code == 200
    assert runs == [1, 1]
