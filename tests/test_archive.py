"""Archiving: what remains replays, balances stay, and a payment is as spent as before."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger import archive as archiving
from fastapi_tollbooth.ledger import memory
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.books import Books
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    BeginSettlement,
    Capture,
    Claim,
    Claimed,
    CompleteSettlement,
    Fund,
    Reason,
    Reconcile,
    Refund,
    Refused,
    Void,
)
from fastapi_tollbooth.ledger.records import Cap, Payment
from fastapi_tollbooth.ledger.writer import Ledger

pytestmark = pytest.mark.anyio
ALICE = "l402:aa"
LATER = datetime.now(UTC) + timedelta(days=1)
REMEMBERED, KEPT = timedelta(seconds=memory.REMEMBERED_SECONDS), archiving.KEPT


def usd(amount: int) -> Money:
    return Money(amount, Asset.USD)


def claim(number: int) -> Claim:
    return Claim(Payment("x402", f"x402:{number}", 50, Asset.USD, "0xcc"), f"x402:{number}", usd(50), "/c")


@pytest.fixture(autouse=True)
def _as_if_hours_had_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "KEPT", timedelta(0))
    monkeypatch.setattr(memory, "REMEMBERED_SECONDS", 0.0)


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    made = Ledger(url)
    await made.apply(Fund(ALICE, usd(1_000), Payment("l402", "p1", 1_000, Asset.BTC, ALICE)))
    yield made
    await made.close()


async def toll(ledger: Ledger, amount: int = 10) -> Authorized:
    [outcome] = await ledger.apply(Authorize(ALICE, usd(amount), "/a"))
    assert isinstance(outcome, Authorized)
    return outcome


async def spend(ledger: Ledger) -> None:
    for number in range(5):
        charged = await toll(ledger)
        await ledger.apply(Void(*charged[1::-1]) if number == 2 else Capture(*charged[1::-1]))
    corrected = await toll(ledger, 40)
    await ledger.apply(Capture(corrected.account_id, corrected.toll))
    await ledger.apply(Reconcile(corrected.account_id, corrected.toll, 30))
    await ledger.apply(Refund(corrected.account_id, corrected.toll, 5))
    for number, charge in ((1, usd(50)), (2, None)):
        [claimed] = await ledger.apply(claim(number))
        assert isinstance(claimed, Claimed)
        await ledger.apply(
            BeginSettlement(f"x402:{number}", claimed.toll), CompleteSettlement(f"x402:{number}", None, charge)
        )


async def test_what_is_archived_is_in_the_file_and_the_rest_still_proves_itself(ledger: Ledger, tmp_path: Path) -> None:
    await spend(ledger)
    still_open = await toll(ledger)
    await toll(ledger)
    books, file = Books(ledger), tmp_path / "old.jsonl"
    before, whole = await books.balances(), await ledger.read(verify)

    moved = await books.archive(LATER, file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert moved == len(lines) == len({line["id"] for line in lines}) > 15
    after = await ledger.read(verify)
    assert after.discrepancy is None
    assert (after.transfers, after.open_tolls) == (whole.transfers - moved, 2)
    assert await books.balances() == before

    await ledger.apply(Capture(still_open.account_id, still_open.toll))
    assert (await ledger.read(verify)).discrepancy is None
    assert (await books.statement(ALICE))[-1].balance == (await books.balance(ALICE)).available.amount + 10
    assert await books.archive(LATER, file) in (0, 2)
    assert (await ledger.read(verify)).discrepancy is None


async def test_a_payment_stays_spent_and_an_owed_one_stays_owed(ledger: Ledger, tmp_path: Path) -> None:
    await spend(ledger)
    await toll(ledger)
    await Books(ledger).archive(LATER, tmp_path / "old.jsonl")
    [again] = await ledger.apply(claim(1))
    assert isinstance(again, Refused)
    assert again.reason is Reason.ALREADY_SPENT
    [owed] = await ledger.apply(claim(2))
    assert isinstance(owed, Claimed)
    assert owed.settled
    [refunding] = await ledger.apply(Fund(ALICE, usd(1_000), Payment("l402", "p1", 1_000, Asset.BTC, ALICE)))
    assert not refunding.new  # type: ignore[union-attr]


async def test_caps_under_which_nothing_is_spent_leave_no_trace(ledger: Ledger, tmp_path: Path) -> None:
    def under(key: str) -> Authorize:
        return Authorize(ALICE, usd(10), "/a", (Cap(key, usd(15)),))

    async def caps() -> list[str]:
        query = text('SELECT "key" FROM tollbooth_cap ORDER BY "key"')
        return await ledger.read(lambda connection: list(connection.execute(query).scalars()))

    for number in range(5):
        [given_back] = await ledger.apply(under(f"made up {number}"))
        assert isinstance(given_back, Authorized)
        await ledger.apply(Void(given_back.account_id, given_back.toll))
    [refunded] = await ledger.apply(under("refunded"))
    [promised] = await ledger.apply(under("promised"))
    assert isinstance(refunded, Authorized)
    assert isinstance(promised, Authorized)
    await ledger.apply(Capture(refunded.account_id, refunded.toll))
    await Books(ledger).archive(datetime(2020, 1, 1, tzinfo=UTC), tmp_path / "early.jsonl")
    assert await caps() == ["promised", "refunded"]
    await ledger.apply(Refund(refunded.account_id, refunded.toll))
    await Books(ledger).archive(datetime(2020, 1, 1, tzinfo=UTC), tmp_path / "early.jsonl")
    assert await caps() == ["promised"]
    assert await ledger.apply(under("promised")) == [Refused(Reason.CAPPED, usd(5))]
    await ledger.apply(Void(promised.account_id, promised.toll))
    assert isinstance((await ledger.apply(under("refunded")))[0], Authorized)
    assert await ledger.apply(under("refunded")) == [Refused(Reason.CAPPED, usd(5))]


async def test_a_cap_counts_what_is_archived(ledger: Ledger, tmp_path: Path) -> None:
    capped = Authorize(ALICE, usd(10), "/a", (Cap("narrowed", usd(15)),))
    [charged] = await ledger.apply(capped)
    assert isinstance(charged, Authorized)
    await ledger.apply(Capture(charged.account_id, charged.toll))
    await toll(ledger)
    assert await Books(ledger).archive(LATER, tmp_path / "old.jsonl") > 0
    assert await ledger.apply(capped) == [Refused(Reason.CAPPED, usd(5))]
    rows = text("SELECT count(*) FROM tollbooth_capped_toll")
    assert await ledger.read(lambda connection: connection.execute(rows).scalar()) == 0


async def test_ids_go_on_after_the_last(ledger: Ledger, tmp_path: Path) -> None:
    charged = await toll(ledger)
    await ledger.apply(Capture(charged.account_id, charged.toll))
    file = tmp_path / "old.jsonl"
    await Books(ledger).archive(LATER, file)
    archived = {json.loads(line)["id"] for line in file.read_text().splitlines()}
    assert (await toll(ledger)).toll > max(archived)


async def test_a_moment_without_a_zone_is_in_utc(ledger: Ledger, tmp_path: Path) -> None:
    await spend(ledger)
    assert await Books(ledger).archive(LATER.replace(tzinfo=None), tmp_path / "old.jsonl") > 0


async def test_what_is_new_stays(ledger: Ledger, tmp_path: Path) -> None:
    await spend(ledger)
    assert await Books(ledger).archive(datetime.now(UTC) - timedelta(days=1), tmp_path / "old.jsonl") == 0


async def test_a_journal_is_archived_in_chunks(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await spend(ledger)
    await toll(ledger)
    monkeypatch.setattr(archiving, "CHUNK", 2)
    await Books(ledger).archive(LATER, tmp_path / "old.jsonl")
    audit = await ledger.read(verify)
    assert (audit.discrepancy, audit.open_tolls) == (None, 1)
    assert audit.transfers <= 2


async def test_a_run_that_is_broken_off_loses_nothing(ledger: Ledger, tmp_path: Path) -> None:
    await spend(ledger)
    await toll(ledger)
    before = await ledger.read(verify)

    def fail(text: str) -> None:
        raise OSError("no space left")

    with pytest.raises(Exception):  # noqa: B017, PT011 - as the ledger reports what its work raised
        await ledger.execute(lambda connection: archiving.archive_some(connection, LATER, fail))
    assert await ledger.read(verify) == before


async def test_a_slow_process_does_not_resolve_again_what_was_voided_and_archived(
    ledger: Ledger, url: str, tmp_path: Path
) -> None:
    sweeping = Ledger(url)
    slow, other = await toll(ledger), await toll(ledger)
    await sweeping.apply(Void(slow.account_id, slow.toll))
    [last] = await sweeping.apply(Authorize(ALICE, usd(1), "/a"))
    assert isinstance(last, Authorized)
    assert await Books(sweeping).archive(LATER, tmp_path / "old.jsonl") == 3
    assert await ledger.apply(Capture(slow.account_id, slow.toll)) == [Refused(Reason.UNKNOWN_TOLL)]
    await ledger.apply(Capture(other.account_id, other.toll))
    assert (await ledger.read(verify)).discrepancy is None
    assert (await Books(ledger).balance(ALICE)).available == usd(989)
    await sweeping.close()


async def test_the_last_hour_stays(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "KEPT", timedelta(hours=1))
    await spend(ledger)
    assert await Books(ledger).archive(LATER, tmp_path / "old.jsonl") == 0


async def test_what_was_resolved_in_the_last_hour_stays(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "KEPT", timedelta(hours=1))
    old, young = await toll(ledger), await toll(ledger)
    for each in (old, young, await toll(ledger)):
        await ledger.apply(Void(each.account_id, each.toll))
    ago = [(datetime.now(UTC) - timedelta(hours=hours)).isoformat(" ") for hours in (3, 2)]
    statements = [
        f"UPDATE tollbooth_transfer SET created_at = '{ago[0]}' WHERE id IN ({old.toll}, {young.toll})",
        f"UPDATE tollbooth_transfer SET created_at = '{ago[1]}' WHERE toll_id = {old.toll}",
    ]
    for statement in statements:
        await ledger.execute(partial(Connection.exec_driver_sql, statement=statement))
    assert await Books(ledger).archive(LATER, tmp_path / "old.jsonl") == 2
    [first, second] = map(json.loads, (tmp_path / "old.jsonl").read_text().splitlines())
    assert (first["id"], second["toll_id"]) == (old.toll, old.toll)


def test_what_may_be_archived_is_remembered_by_nobody() -> None:
    assert 3 * REMEMBERED < KEPT
