import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund, Outcome, Refused
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.testing import run

KEY = "l402:aa"


def dollars(amount: int) -> Money:
    return Money(amount, Asset.USD)


def fund(amount: int) -> Fund:
    return Fund(KEY, dollars(amount), Payment("l402", "p1", 1, Asset.BTC, KEY))


async def balances(ledger: Ledger) -> tuple[int, int]:
    def read(connection: Connection) -> tuple[int, int]:
        row = connection.execute(text("SELECT posted, pending FROM tollbooth_account WHERE kind = 'payer'")).one()
        return row.posted, row.pending

    return await ledger.read(read)


_FORKS = """
import asyncio, os, sys, warnings
from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.ledger.writer import Ledger

warnings.simplefilter("ignore")
ledger, closes = Ledger(sys.argv[1]), sys.argv[2] == "closes"

async def use(close=False):
    try:
        await asyncio.wait_for(ledger.read(lambda connection: None), 10)
    except ConfigurationError as error:
        return error.reason
    if close:
        await ledger.close()
    return "used"

print(asyncio.run(use(closes)))
sys.stdout.flush()
if os.fork() == 0:
    print(asyncio.run(use()), flush=True)
    os._exit(0)
os.wait()
print(asyncio.run(use(True)))
"""


@pytest.mark.parametrize("parent", ["closes", "goes on"])
def test_a_forked_process_uses_the_ledger_or_says_why_not(url: str, parent: str) -> None:
    command = [sys.executable, "-c", _FORKS, url, parent]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    refused = url.startswith("sqlite") and parent == "goes on"
    assert said == ["used", "forked_ledger" if refused else "used", "used"]


@pytest.mark.anyio
async def test_a_crowd_is_decided_one_by_one(url: str) -> None:
    ledger = Ledger(url)
    await ledger.apply(fund(100))
    outcomes = await asyncio.gather(*(ledger.apply(Authorize(KEY, dollars(3), "/")) for _ in range(200)))
    won = [outcome for [outcome] in outcomes if isinstance(outcome, Authorized)]
    assert len(won) == 33
    assert sum(isinstance(outcome, Refused) for [outcome] in outcomes) == 167
    for toll in won:
        ledger.apply_later(Capture(toll.account_id, toll.toll))
    assert await balances(ledger) == (1, 0)
    await ledger.close()


@pytest.mark.anyio
async def test_a_crowd_shares_few_commits(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(url)
    await ledger.apply(fund(1_000))
    batches: list[int] = []
    transact = ledger._store.transact

    def counted(groups):  # type: ignore[no-untyped-def]
        batches.append(len(groups))
        return transact(groups)

    monkeypatch.setattr(ledger._store, "transact", counted)
    await asyncio.gather(*(ledger.apply(Authorize(KEY, dollars(1), "/")) for _ in range(300)))
    assert sum(batches) == 300
    assert len(batches) < 60
    await ledger.close()


def test_every_event_loop_gets_its_own_answers(url: str) -> None:
    ledger = Ledger(url)
    for _ in range(3):
        asyncio.run(ledger.apply(fund(100)))
    results: list[list[Outcome]] = []

    async def spend() -> None:
        results.extend(await asyncio.gather(*(ledger.apply(Authorize(KEY, dollars(1), "/")) for _ in range(50))))

    threads = [threading.Thread(target=lambda: asyncio.run(spend())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [outcome for [outcome] in results if isinstance(outcome, Authorized)]
    assert len(won) == 100
    asyncio.run(ledger.close())


@pytest.mark.anyio
async def test_a_cancelled_authorization_is_taken_back(url: str) -> None:
    ledger = Ledger(url)
    await ledger.apply(fund(100))
    for _ in range(20):
        task = asyncio.create_task(ledger.apply(Authorize(KEY, dollars(60), "/")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await ledger.read(lambda _: None)  # the batches that took them back are behind this one or ahead of the next
    await asyncio.sleep(0.01)
    assert await balances(ledger) == (100, 0)
    await ledger.close()


@pytest.mark.anyio
async def test_an_answer_that_came_before_the_cancellation_is_taken_back(url: str) -> None:
    ledger = Ledger(url)
    await ledger.apply(fund(100))
    task = asyncio.create_task(ledger.apply(Authorize(KEY, dollars(60), "/")))
    await asyncio.sleep(0)
    run(ledger.read(lambda _: None))  # blocks this loop until the answer is waiting for it
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await balances(ledger) == (100, 0)
    await ledger.close()


def test_a_loop_that_closed_meanwhile_loses_nothing(url: str) -> None:
    ledger = Ledger(url)
    asyncio.run(ledger.apply(fund(100)))
    began, closed = threading.Event(), threading.Event()

    def occupy(_: Connection) -> None:
        began.set()
        closed.wait(60)

    busy = threading.Thread(target=lambda: asyncio.run(ledger.read(occupy)))
    busy.start()
    assert began.wait(60)

    async def leave() -> None:
        asyncio.get_running_loop().create_task(ledger.apply(Authorize(KEY, dollars(60), "/")))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    closed.set()
    busy.join()

    async def settled() -> tuple[int, int]:
        for _ in range(200):
            if await balances(ledger) == (100, 0):
                break
            await asyncio.sleep(0.01)
        return await balances(ledger)

    assert asyncio.run(settled()) == (100, 0)
    asyncio.run(ledger.close())


@pytest.mark.anyio
async def test_a_database_that_does_not_answer_is_503_and_captures_are_kept(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(url)
    [_, toll] = await ledger.apply(fund(100), Authorize(KEY, dollars(60), "/"))
    assert isinstance(toll, Authorized)
    transact, broken = ledger._store.transact, True

    def sometimes(groups):  # type: ignore[no-untyped-def]
        if broken:
            raise OperationalError("BEGIN", {}, Exception("disk I/O error"))
        return transact(groups)

    monkeypatch.setattr(ledger._store, "transact", sometimes)
    ledger.apply_later(Capture(toll.account_id, toll.toll))
    with pytest.raises(Unavailable) as refusal:
        await ledger.apply(Authorize(KEY, dollars(1), "/"))
    assert refusal.value.reason == "ledger_unavailable"
    broken = False
    for _ in range(200):
        if await balances(ledger) == (40, 0):
            break
        await asyncio.sleep(0.01)
    assert await balances(ledger) == (40, 0)
    await ledger.close()


@pytest.mark.anyio
async def test_closing_writes_what_is_queued_and_the_ledger_opens_again(url: str) -> None:
    ledger = Ledger(url)
    [_, toll] = await ledger.apply(fund(100), Authorize(KEY, dollars(60), "/"))
    assert isinstance(toll, Authorized)
    ledger.apply_later(Capture(toll.account_id, toll.toll))
    await ledger.close()
    await ledger.close()
    assert await balances(ledger) == (40, 0)
    await ledger.close()


def test_closing_beside_requests_never_makes_two_writers(url: str) -> None:
    ledger = Ledger(url)
    asyncio.run(ledger.apply(fund(1_000_000)))
    served: list[int] = []

    def load() -> None:
        async def spend() -> int:
            outcomes = [(await ledger.apply(Authorize(KEY, dollars(1), "/")))[0] for _ in range(150)]
            for outcome in outcomes:
                assert isinstance(outcome, Authorized)
                ledger.apply_later(Capture(outcome.account_id, outcome.toll))
            return len(outcomes)

        served.append(asyncio.run(spend()))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        asyncio.run(ledger.close())
    asyncio.run(ledger.close())
    assert sum(served) == 600
    assert asyncio.run(balances(ledger)) == (1_000_000 - 600, 0)
    asyncio.run(ledger.close())


def test_what_is_owed_is_written_when_the_process_ends_without_a_lifespan(url: str) -> None:
    script = (
        "import asyncio, sys\n"
        "from tests.test_writer import *\n"
        "ledger = Ledger(sys.argv[1])\n"
        "async def main():\n"
        "    [_, toll] = await ledger.apply(fund(100), Authorize(KEY, dollars(60), '/'))\n"
        "    ledger.apply_later(Capture(toll.account_id, toll.toll))\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", script, url], check=True, cwd=Path(__file__).parent.parent)
    ledger = Ledger(url)
    assert asyncio.run(balances(ledger)) == (40, 0)
    asyncio.run(ledger.close())


@pytest.mark.anyio
async def test_one_bad_operation_does_not_take_the_others_with_it(url: str) -> None:
    ledger = Ledger(url)
    [_, toll] = await ledger.apply(fund(100), Authorize(KEY, dollars(10), "/"))
    assert isinstance(toll, Authorized)
    ledger.apply_later(Capture(toll.account_id, toll.toll))
    bad, good = await asyncio.gather(
        ledger.apply(Authorize(KEY, dollars(1), "\udcff")),
        ledger.apply(Authorize(KEY, dollars(1), "/")),
        return_exceptions=True,
    )
    assert isinstance(bad, Unavailable)
    assert isinstance(good, list)
    assert await balances(ledger) == (90, 1)
    await ledger.close()


@pytest.mark.anyio
async def test_the_exception_of_a_query_belongs_to_its_caller(url: str) -> None:
    ledger = Ledger(url)

    def fail(_: Connection) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await ledger.read(fail)
    with pytest.raises(Unavailable):
        await ledger.read(lambda connection: connection.execute(text("SELECT nonsense")))
    await ledger.apply(fund(1))
    await ledger.close()
