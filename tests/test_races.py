"""Two workers with 64 connections each: nobody spends what is not there, and no transfer is lost or doubled."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Connection

from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.writer import Ledger
from tests.till import PRICE, Caller, Worker, fund, workers

CONNECTIONS = 64


async def spend(pair: list[Worker], requests: list[str]) -> Counter[int]:
    """Ask for the priced route once for each of these accounts, over 64 connections to each worker; the statuses."""
    waiting, statuses = iter(requests), Counter[int]()

    async def ask(port: int) -> None:
        caller = Caller("")
        for account in waiting:
            caller.account = account
            statuses[await caller.call(port) or 0] += 1
        caller.close()

    await asyncio.gather(*(ask(worker.port) for worker in pair for _ in range(CONNECTIONS)))
    return statuses


@pytest.mark.anyio
@pytest.mark.parametrize(("accounts", "calls", "asked"), [(1, 500, 800), (1_000, 2, 3)], ids=["hot", "1000"])
async def test_exactly_what_is_there_is_spent(url: str, tmp_path: Path, accounts: int, calls: int, asked: int) -> None:
    names = [f"account-{number}" for number in range(accounts)]
    ledger = Ledger(url)
    await fund(ledger, names, calls)
    requests = names * asked
    random.Random(1).shuffle(requests)
    with workers(2, url, tmp_path) as pair:
        statuses = await spend(pair, requests)
        logs = "".join(worker.log.read_text() for worker in pair)
    assert statuses == {200: accounts * calls, 402: accounts * (asked - calls)}
    assert logs == ""

    def books(connection: Connection) -> tuple[tuple[int, ...], tuple[int, ...]]:
        payers = connection.exec_driver_sql(
            "SELECT count(*), sum(posted), sum(pending) FROM tollbooth_account WHERE kind = 'payer'"
        ).one()
        charged = connection.exec_driver_sql(
            "SELECT count(*), sum(amount) FROM tollbooth_transfer WHERE kind = 'charge' AND phase = 'post'"
        ).one()
        return tuple(map(int, payers)), tuple(map(int, charged))

    spent = accounts * calls
    assert await ledger.read(books) == ((accounts, 0, 0), (spent, spent * PRICE))
    audit = await ledger.read(verify)
    assert (audit.discrepancy, audit.open_tolls) == (None, 0)
    await ledger.close()
