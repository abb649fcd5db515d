from collections.abc import AsyncIterator

import pytest

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.errors import LedgerRefused
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.books import Books
from fastapi_tollbooth.ledger.operations import Authorize, Authorized, Capture, Fund, Refused
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.writer import Ledger

pytestmark = pytest.mark.anyio
ALICE = "l402:aa"


def usd(text: str) -> Money:
    return Money.parse(text)


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    made = Ledger(url)
    await made.apply(Fund(ALICE, usd("$1"), Payment("l402", "p1", 1_000, Asset.BTC, ALICE)))
    yield made
    assert (await made.read(verify)).discrepancy is None
    await made.close()


async def toll(ledger: Ledger, amount: str) -> Authorized:
    [outcome] = await ledger.apply(Authorize(ALICE, usd(amount), "/weather"))
    assert isinstance(outcome, Authorized)
    return outcome


async def test_a_grant_is_credit_and_the_same_one_counts_once(ledger: Ledger) -> None:
    books = Books(ledger)
    assert await books.grant(ALICE, "$0.50", grant_id="sorry-for-monday") == usd("$1.50")
    assert await books.grant(ALICE, "$0.50", grant_id="sorry-for-monday") == usd("$1.50")
    assert await books.grant(ALICE, usd("$0.25")) == usd("$1.75")
    assert [entry.rail for entry in await books.payments(rail="grant")] == ["grant", "grant"]
    for account, amount, reason in (("nobody", "$1", "unknown_account"), (ALICE, "5 sat", "wrong_asset")):
        with pytest.raises(LedgerRefused) as refused:
            await books.grant(account, amount)
        assert refused.value.reason == reason


async def test_a_toll_is_refunded_once(ledger: Ledger) -> None:
    books = Books(ledger)
    charged = await toll(ledger, "$0.10")
    with pytest.raises(LedgerRefused, match="open"):
        await books.refund(charged.toll)
    await ledger.apply(Capture(charged.account_id, charged.toll))
    with pytest.raises(LedgerRefused, match="more than"):
        await books.refund(charged.toll, "$0.11")
    assert await books.refund(charged.toll, "$0.04") == usd("$0.06")
    assert await books.refund(str(charged.toll)) == usd("$0.06")
    assert (await books.balance(ALICE)).available == usd("$0.94")
    for unknown in (charged.toll + 1, "free", 0):
        with pytest.raises(LedgerRefused, match="no such toll"):
            await books.refund(unknown)


async def test_a_toll_is_reconciled_once_and_never_above_what_was_held(ledger: Ledger) -> None:
    books = Books(ledger)
    charged = await toll(ledger, "$0.10")
    await ledger.apply(Capture(charged.account_id, charged.toll))
    assert await books.reconcile(charged.toll, "$0.031") == usd("$0.031")
    assert await books.reconcile(charged.toll, "$0.09") == usd("$0.031")
    with pytest.raises(LedgerRefused, match="another asset"):
        await books.reconcile(charged.toll, "5 sat")
    [entry] = await books.tolls(account=ALICE)
    assert (entry.state, entry.cost) == ("captured", usd("$0.031"))
    assert [(e.kind, e.amount) for e in await books.statement(ALICE)][-2:] == [("charge", -100_000), ("adjust", 69_000)]


async def test_a_revoked_account_keeps_what_it_holds(ledger: Ledger) -> None:
    books = Books(ledger)
    await books.revoke(ALICE)
    assert (await books.balance(ALICE)).revoked
    [refused] = await ledger.apply(Authorize(ALICE, usd("$0.01"), "/"))
    assert isinstance(refused, Refused)
    await books.revoke(ALICE, revoked=False)
    await toll(ledger, "$0.01")
    for account in ("nobody", "revenue:USD"):
        with pytest.raises(LedgerRefused):
            await books.revoke(account)


async def test_accounts_are_listed(ledger: Ledger) -> None:
    books = Books(ledger)
    assert [found.account for found in await books.balances()] == [ALICE]
    with pytest.raises(LedgerRefused):
        await books.statement("nobody")
