import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Connection, text

from fastapi_tollbooth import Asset, Money, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.ledger import sweeper
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund, Reason, Refused, Resolved
from fastapi_tollbooth.ledger.records import Cap, Payment
from fastapi_tollbooth.ledger.sweeper import sweep
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.ledger.writer import Ledger
from tests.wallet import buy

KEY = "l402:aa"
NOW, LATER = timedelta(0), timedelta(hours=1)


def cents(amount: int) -> Money:
    return Money(amount, Asset.USD)


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    made = Ledger(url)
    await made.apply(Fund(KEY, cents(100), Payment("l402", "p1", 1, Asset.BTC, KEY)))
    yield made
    await made.close()


async def promise(ledger: Ledger, amount: int = 10) -> Authorized:
    [outcome] = await ledger.apply(Authorize(KEY, cents(amount), "/x"))
    assert isinstance(outcome, Authorized)
    return outcome


async def balances(ledger: Ledger) -> tuple[int, int]:
    query = text("SELECT posted, pending FROM tollbooth_account WHERE kind = 'payer'")
    row = await ledger.read(lambda connection: connection.execute(query).one())
    return row.posted, row.pending


@pytest.mark.anyio
async def test_only_what_is_past_its_deadline_is_given_back(ledger: Ledger) -> None:
    await promise(ledger)
    assert await sweep(ledger, LATER) == 0
    assert await balances(ledger) == (100, 10)
    assert await sweep(ledger, NOW) == 1
    assert await balances(ledger) == (100, 0)
    assert await sweep(ledger, NOW) == 0


@pytest.mark.anyio
async def test_a_cap_gets_back_what_a_crash_left_open(ledger: Ledger, url: str) -> None:
    capped = Authorize(KEY, cents(10), "/x", (Cap("narrowed", cents(10)),))
    assert isinstance((await ledger.apply(capped))[0], Authorized)
    assert await ledger.apply(capped) == [Refused(Reason.CAPPED, cents(0))]
    elsewhere = Ledger(url)
    assert await sweep(elsewhere, NOW) == 1
    await elsewhere.close()
    assert isinstance((await ledger.apply(capped))[0], Authorized)


@pytest.mark.anyio
async def test_what_is_resolved_stays_so(ledger: Ledger) -> None:
    tolls = [await promise(ledger) for _ in range(3)]
    await ledger.apply(Capture(tolls[0].account_id, tolls[0].toll))
    assert await sweep(ledger, NOW) == 2
    assert await balances(ledger) == (90, 0)
    assert await ledger.apply(Capture(tolls[1].account_id, tolls[1].toll)) == [Resolved("void")]
    assert await balances(ledger) == (90, 0)


@pytest.mark.anyio
async def test_each_part_of_the_journal_is_looked_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "STRETCH", 4)
    monkeypatch.setattr(sweeper, "UNSETTLED", NOW)
    for _ in range(10):
        await promise(ledger, 1)
    assert await sweep(ledger, NOW) == 10
    query = text("SELECT looked_up_to, owner, leased_until FROM tollbooth_sweep")
    looked, owner, leased = await ledger.read(lambda connection: connection.execute(query).one())
    assert (owner, leased) == (None, None)
    await promise(ledger, 1)
    assert await sweep(ledger, NOW) == 1
    assert (await ledger.read(lambda connection: connection.execute(query).one())).looked_up_to > looked


@pytest.mark.anyio
async def test_what_was_written_late_with_an_early_id_is_found(ledger: Ledger) -> None:
    early, late = await promise(ledger), await promise(ledger)

    async def rename(id_: int, to: int) -> None:
        move = text("UPDATE tollbooth_transfer SET id = :to WHERE id = :id")
        await ledger.execute(lambda connection: connection.execute(move, {"id": id_, "to": to}))

    # As when a transaction that took its ids first commits last.
    await rename(early.toll, -1)
    assert await sweep(ledger, NOW) == 1
    await rename(-1, early.toll)
    assert await sweep(ledger, NOW) == 1
    assert await balances(ledger) == (100, 0)
    assert late.toll > early.toll


@pytest.mark.anyio
@pytest.mark.parametrize("minutes", [0, 7, 30, 60, 90])
async def test_the_last_transfer_before_a_moment_is_found_by_halves(ledger: Ledger, minutes: int) -> None:
    written = [(await promise(ledger, 1)).toll for _ in range(60)]
    start = datetime.now(UTC) - timedelta(minutes=60)

    def age(connection: Connection) -> None:
        for number, toll in enumerate(written):
            moment = start + timedelta(minutes=number)
            transfer = metadata.tables["tollbooth_transfer"]
            connection.execute(transfer.update().where(transfer.c.id == toll).values(created_at=moment))

    await ledger.execute(age)
    moment = start + timedelta(minutes=minutes, seconds=-1)
    found = await ledger.read(lambda connection: sweeper._last_before(connection, written[0] - 1, moment))
    assert found == (written[min(minutes, 60) - 1] if minutes else written[0] - 1)


@pytest.mark.anyio
async def test_of_several_workers_one_sweeps(ledger: Ledger, url: str) -> None:
    others = [Ledger(url) for _ in range(3)]
    for _ in range(20):
        await promise(ledger, 1)
    found = await asyncio.gather(*(sweep(each, NOW) for each in (ledger, *others)))
    assert sum(found) == 20
    assert await balances(ledger) == (100, 0)
    for other in others:
        await other.close()


@pytest.mark.anyio
async def test_a_lease_whose_holder_died_runs_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await promise(ledger)
    assert await sweep(ledger, LATER) == 0
    hold = text("UPDATE tollbooth_sweep SET owner = 'dead', leased_until = '2999-01-01 00:00:00.000000'")
    await ledger.execute(lambda connection: connection.execute(hold))
    assert await sweep(ledger, NOW) == 0
    expire = text("UPDATE tollbooth_sweep SET leased_until = '2020-01-01 00:00:00.000000'")
    await ledger.execute(lambda connection: connection.execute(expire))
    assert await sweep(ledger, NOW) == 1


CRASH = """
import asyncio, os, sys
from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.operations import Authorize
from fastapi_tollbooth.ledger.writer import Ledger

async def main():
    ledger = Ledger(sys.argv[1])
    await ledger.apply(Authorize("l402:aa", Money(30, Asset.USD), "/x"))
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.mark.anyio
async def test_what_a_killed_process_held_is_given_back_when_the_service_starts_again(ledger: Ledger, url: str) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    killed = subprocess.run([sys.executable, "-c", CRASH, url], check=False)
    assert killed.returncode == -9
    assert await balances(ledger) == (100, 30)
    app = FastAPI()
    Tollbooth(TollboothSettings(_env_file=None, database_url=url, secret="s" * 32, toll_deadline=0.001)).install(app)

    def start() -> None:
        with TestClient(app):
            other = Ledger(url)
            for _ in range(200):
                if asyncio.run(balances(other)) == (100, 0):
                    break
            asyncio.run(other.close())

    await asyncio.to_thread(start)
    assert await balances(ledger) == (100, 0)


def test_an_answer_that_outlived_its_toll_is_withheld(
    settings: TollboothSettings, serve: Callable[..., TestClient]
) -> None:
    booth = Tollbooth(settings.model_copy(update={"toll_deadline": 0.1, "top_up": 1}))
    app = FastAPI()
    booth.install(app)

    @app.get("/slow", dependencies=[Depends(priced("21 sat"))])
    async def slow(sweep: bool = True) -> str:
        await asyncio.sleep(0.2)
        if sweep:
            await booth.recover()
        return "late"

    client = serve(app)
    paid = buy(client, "/slow")
    refused = client.get("/slow", headers=paid)
    assert (refused.status_code, refused.json()["reason"]) == (503, "toll_expired")
    assert client.get("/slow?sweep=false", headers=paid).text == '"late"'
    assert client.get("/slow?sweep=false", headers=paid).status_code == 402
