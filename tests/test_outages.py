"""The database fails as databases do: callers get 503, no handler runs, and it mends without a restart."""

import asyncio
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.ledger import audit
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.sweeper import sweep
from fastapi_tollbooth.ledger.writer import Ledger
from tests.databases import PostgresServer, sqlite_url
from tests.till import PRICE, Worker, fund, workers

SECONDS = 20.0


def paid(worker: Worker) -> httpx.Response:
    url = f"http://127.0.0.1:{worker.port}/paid"
    return httpx.get(url, headers={"X-Account": "a"}, timeout=SECONDS, trust_env=False)


def runs(worker: Worker) -> int:
    return int(httpx.get(f"http://127.0.0.1:{worker.port}/runs", trust_env=False).text)


def fails_and_mends(worker: Worker, break_: Callable[[], object], mend: Callable[[], object]) -> int:
    """How many calls were answered since it started."""
    answered = runs(worker)
    for _ in range(3):
        assert paid(worker).status_code == 200
        answered += 1
    break_()
    try:
        for _ in range(4):
            refused = paid(worker)
            assert (refused.status_code, refused.json()["reason"]) == (503, "ledger_unavailable")
            assert "retry-after" in refused.headers
            assert "www-authenticate" not in refused.headers
            assert runs(worker) == answered
    finally:
        mend()
    until = time.monotonic() + SECONDS
    while paid(worker).status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    answered += 1
    assert runs(worker) == answered
    return answered


def settled(url: str, answered: int, calls: int = 1_000) -> None:
    """What was answered is charged, whatever broke in between; nothing else is."""
    store = Store(url)
    assert store.read(audit.verify).discrepancy is None
    row = store.read(
        lambda connection: connection.exec_driver_sql(
            "SELECT posted, pending FROM tollbooth_account WHERE kind = 'payer'"
        ).one()
    )
    store.close()
    assert tuple(row) == ((calls - answered) * PRICE, 0)


def funded(url: str) -> None:
    async def main() -> None:
        ledger = Ledger(url)
        await fund(ledger, ["a"], 1_000)
        await ledger.close()

    asyncio.run(main())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    funded(sqlite_url(tmp_path))
    return tmp_path / "ledger.db"


@pytest.fixture
def worker(file: Path) -> Iterator[Worker]:
    with workers(1, f"sqlite:///{file}", file.parent) as [one]:
        yield one


def test_a_disk_that_is_full(worker: Worker, file: Path) -> None:
    assert worker.process is not None
    pid = worker.process.pid or 0
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond this, which is what a full disk is to a program that writes.
    answered = fails_and_mends(
        worker,
        lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (4_096, hard)),
        lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard)),
    )
    worker.stop()
    settled(f"sqlite:///{file}", answered)


def test_a_file_that_is_gone_and_comes_back(worker: Worker, file: Path) -> None:
    away = file.with_name("away.db")
    answered = fails_and_mends(worker, lambda: file.rename(away), lambda: away.rename(file))
    worker.stop()
    settled(f"sqlite:///{file}", answered)


def test_a_file_that_is_replaced_is_the_truth_from_then_on(worker: Worker, file: Path) -> None:
    assert paid(worker).status_code == 200
    copy = file.with_name("copy.db")
    time.sleep(0.2)
    store = Store(f"sqlite:///{file}")
    store.read(lambda connection: connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)"))
    store.close()
    shutil.copy(file, copy)
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    copy.rename(file)
    assert paid(worker).status_code == 200
    worker.stop()
    settled(f"sqlite:///{file}", 2)


def test_a_log_of_the_file_before_is_not_written_into_the_new_one(worker: Worker, file: Path) -> None:
    assert paid(worker).status_code == 200
    time.sleep(0.2)
    copy = file.with_name("copy.db")
    with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(copy)) as backup:
        live.backup(backup)
    for _ in range(3):
        assert paid(worker).status_code == 200  # which the backup does not know
    time.sleep(0.2)
    copy.rename(file)
    for _ in range(2):
        refused = paid(worker)
        assert (refused.status_code, refused.json()["reason"]) == (503, "ledger_unavailable")
    assert runs(worker) == 4
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink()
    assert paid(worker).status_code == 200
    worker.stop()
    settled(f"sqlite:///{file}", 2)


def test_a_database_that_may_only_be_read(file: Path) -> None:
    async def main() -> None:
        ledger = Ledger(f"sqlite:///{file}")
        [toll] = await ledger.apply(Authorize("a", Money(PRICE, Asset.USD), "/"))
        assert isinstance(toll, Authorized)
        await ledger.read(lambda connection: connection.exec_driver_sql("PRAGMA query_only = ON"))
        ledger.apply_later(Capture(toll.account_id, toll.toll))
        with pytest.raises(Unavailable):
            await ledger.apply(Authorize("a", Money(PRICE, Asset.USD), "/"))
        assert ledger.stats().owed == 1
        await ledger.read(lambda connection: connection.exec_driver_sql("PRAGMA query_only = OFF"))
        await ledger.close()
        assert ledger.stats().owed == 0

    asyncio.run(main())
    settled(f"sqlite:///{file}", 1)


def test_a_server_that_stops_and_starts(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.fresh()
    funded(url)
    with workers(1, url, tmp_path) as [worker]:
        fails_and_mends(worker, postgres_server.stop, postgres_server.start)
        answered = fails_and_mends(worker, lambda: postgres_server.stop("immediate"), postgres_server.start)
    settled(url, answered)


def test_a_server_that_may_only_be_read_since_another_took_over(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.fresh()
    funded(url)
    database = url.partition("?")[0].rpartition("/")[2]

    def demote() -> None:
        postgres_server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        postgres_server.cut_connections()

    with workers(1, url, tmp_path) as [worker]:
        promote = f"ALTER DATABASE {database} RESET default_transaction_read_only"
        answered = fails_and_mends(worker, demote, lambda: postgres_server.execute(promote))
    settled(url, answered)


@pytest.mark.anyio
async def test_connections_that_break_under_load_lose_nothing_and_double_nothing(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.fresh()
    ledger = Ledger(url)
    await fund(ledger, [f"a{number}" for number in range(8)], 100_000)
    served, failed, stop = 0, 0, asyncio.Event()

    async def caller(account: str) -> None:
        nonlocal served, failed
        while not stop.is_set():
            try:
                [toll] = await ledger.apply(Authorize(account, Money(PRICE, Asset.USD), "/"))
            except Unavailable:
                failed += 1
                await asyncio.sleep(0.01)
                continue
            assert isinstance(toll, Authorized)
            served += 1
            ledger.apply_later(Capture(toll.account_id, toll.toll))

    callers = [asyncio.create_task(caller(f"a{number % 8}")) for number in range(32)]
    for _ in range(10):
        await asyncio.sleep(0.1)
        await asyncio.to_thread(postgres_server.cut_connections)
    await asyncio.sleep(0.2)
    stop.set()
    await asyncio.gather(*callers)
    await ledger.close()
    # A commit whose answer was lost may have happened: its promises are found and given back.
    assert await sweep(ledger, timedelta(0)) <= failed
    found = await ledger.read(audit.verify)
    assert (found.discrepancy, found.open_tolls) == (None, 0)
    charged = await ledger.read(
        lambda connection: connection.exec_driver_sql(
            "SELECT count(*) FROM tollbooth_transfer WHERE kind = 'charge' AND phase = 'post'"
        ).scalar()
    )
    assert failed > 0
    assert charged == served > 100
    await ledger.close()
