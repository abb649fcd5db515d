from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger import rows
from fastapi_tollbooth.ledger.naming import Names
from fastapi_tollbooth.ledger.operations import (
    BeginSettlement,
    Claim,
    Claimed,
    CompleteSettlement,
    Fund,
    Operation,
)
from fastapi_tollbooth.ledger.records import Account, Payment, PaymentRecord, PaymentState
from fastapi_tollbooth.ledger.store import Store
from fastapi_tollbooth.ledger.tables import AccountRow, PaymentRow

ENDS = datetime(2030, 1, 31, 23, 59, 58, 7, timezone(timedelta(hours=2)))
PAYMENT = Payment("x402", "x402:é\"'\\", 30, Asset.USD, "0x{payer}, NULL", None, "100000.000000", ENDS, "digest")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = Store(url)
    yield made
    made.close()


def run(store: Store, operation: Operation) -> object:
    [[outcome]] = store.transact([[operation]])
    return outcome


def loaded(store: Store, key: str) -> tuple[Account, PaymentRecord]:
    names = Names(keys={key}, spend_keys={PAYMENT.spend_key})
    book = store.execute(lambda connection: store._dialect.load(connection, names))
    account = book.find(key)
    assert account is not None
    return account, book.payments[PAYMENT.spend_key]


def test_new_rows_fill_every_column() -> None:
    assert sorted(rows.NEW_ACCOUNT) == sorted(AccountRow.model_fields)
    assert sorted(rows.NEW_PAYMENT) == sorted(PaymentRow.model_fields)


def test_a_payment_comes_back_as_it_was_written_and_as_it_was_changed(store: Store) -> None:
    claimed = run(store, Claim(PAYMENT, "a", Money(30, Asset.USD), "/x"))
    assert isinstance(claimed, Claimed)
    record = PaymentRecord(PAYMENT, claimed.account_id, PaymentState.CLAIMED, claimed.toll)
    assert loaded(store, "a")[1] == record
    run(store, BeginSettlement(PAYMENT.spend_key, claimed.toll))
    run(store, CompleteSettlement(PAYMENT.spend_key, "0xabc", Money(30, Asset.USD)))
    settled = replace(record, payment=replace(PAYMENT, reference="0xabc"), state=PaymentState.SETTLED, delivery="post")
    assert loaded(store, "a")[1] == settled


@pytest.mark.parametrize("expires_at", [None, ENDS])
def test_an_account_comes_back_as_it_was_written(store: Store, expires_at: datetime | None) -> None:
    key = 'l402:"a", {b}\\'
    run(store, Fund(key, Money(70, Asset.USD), PAYMENT, expires_at))
    account, record = loaded(store, key)
    assert account == Account(account.id, key, "payer", Asset.USD, 70, 0, False, expires_at)
    assert account.expires_at is None or account.expires_at.tzinfo is not None
    assert record == PaymentRecord(PAYMENT, account.id, PaymentState.SETTLED)
    assert expires_at is None or account.expires_at == ENDS.astimezone(UTC)
