"""A process dies at any moment: nothing is lost, nothing is doubled, and what differs is in the payer's favour."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from fastapi_tollbooth.ledger.audit import Audit, verify
from fastapi_tollbooth.ledger.sweeper import sweep
from fastapi_tollbooth.ledger.writer import Ledger
from tests.kill_loop import kill_loop
from tests.till import FUNDED, PRICE, calls_until_death

POINTS = 8


@pytest.mark.parametrize("moment", ["before", "after"])
def test_at_every_commit_and_between_commit_and_answer(url: str, moment: Literal["before", "after"]) -> None:
    balance, answered_in_all = None, 0
    for point in range(1, POINTS + 1):
        answered = calls_until_death(url, point, moment)
        found, posted = asyncio.run(recovered(url))
        assert (found.discrepancy, found.open_tolls) == (None, 0)
        if posted is None:
            assert (moment, point, answered) == ("before", 1, 0)
            continue
        # Funded once, however often the process began anew.
        charged = ((FUNDED * PRICE if balance is None else balance) - posted) // PRICE
        assert answered - 1 <= charged <= answered
        balance = posted
        answered_in_all += answered
    assert answered_in_all > 3


async def recovered(url: str) -> tuple[Audit, int | None]:
    ledger = Ledger(url)
    await sweep(ledger, timedelta(0))
    found = await ledger.read(verify)
    posted = await ledger.read(
        lambda connection: connection.exec_driver_sql(
            "SELECT posted FROM tollbooth_account WHERE kind = 'payer'"
        ).scalar()
    )
    await ledger.close()
    return found, posted


@pytest.mark.slow
@pytest.mark.anyio
async def test_workers_that_are_killed_under_load(url: str, tmp_path: Path) -> None:
    report = await kill_loop(url, tmp_path, kills=10, callers=16, seed=20)
    assert report.problems == ()
    assert report.overcharged == 0
    assert report.given_away <= report.broken
    assert report.answered > 100
