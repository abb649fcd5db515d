from collections.abc import AsyncIterator

import pytest

from fastapi_tollbooth import Asset, ConfigurationError, Money
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
    given = [await books.grant(ALICE, "$0.50", grant_id="sorry-for-monday") for _ in range(2)]
    assert [(each.balance, each.new) for each in given] == [(usd("$1.50"), True), (usd("$1.50"), False)]
    assert (await books.grant(ALICE, usd("$0.25"))).balance == usd("$1.75")
    assert [(e.kind, e.amount) for e in await books.statement(ALICE)] == [
        ("fund", 1_000_000),
        ("grant", 500_000),
        ("grant", 250_000),
    ]
    assert [entry.rail for entry in await books.payments(rail="grant")] == ["grant", "grant"]
    await ledger.apply(Capture((charged := await toll(ledger, "$0.10")).account_id, charged.toll))
    for account, amount, reason in (
        ("nobody", "$1", "unknown_account"),
        ("revenue:USD", "$1", "unknown_account"),
        ("source:grant:USD", "$1", "unknown_account"),
        (ALICE, "5 sat", "wrong_asset"),
        (ALICE, "$0", "not_possible"),
    ):
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
    with pytest.raises(LedgerRefused, match="zero"):
        await books.refund(charged.toll, "$0")
    assert await books.refund(charged.toll, "$0.04") == (usd("$0.06"), usd("$0.94"), True)
    assert await books.refund(str(charged.toll)) == (usd("$0.06"), usd("$0.94"), False)
    assert (await books.balance(ALICE)).available == usd("$0.94")
    for unknown in (charged.toll + 1, "free", 0, 5.7, -charged.toll):
        with pytest.raises(LedgerRefused, match="no such toll"):
            await books.refund(unknown)  # type: ignore[arg-type]


async def test_a_toll_is_reconciled_once_and_never_above_what_was_held(ledger: Ledger) -> None:
    books = Books(ledger)
    charged = await toll(ledger, "$0.10")
    await ledger.apply(Capture(charged.account_id, charged.toll))
    assert await books.reconcile(charged.toll, "$0.031") == (usd("$0.031"), usd("$0.969"), True)
    assert await books.reconcile(charged.toll, "$0.09") == (usd("$0.031"), usd("$0.969"), False)
    with pytest.raises(ConfigurationError, match="not an amount"):
        await books.reconcile(charged.toll, 0.03)  # type: ignore[arg-type]
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


async def test_the_service_s_own_accounts_have_a_balance_and_no_statement(ledger: Ledger) -> None:
    books = Books(ledger)
    charged = await toll(ledger, "$0.10")
    await ledger.apply(Capture(charged.account_id, charged.toll))
    assert (await books.balance("revenue:USD")).available == usd("$0.10")
    with pytest.raises(LedgerRefused, match="no such account"):
        await books.statement("revenue:USD")
