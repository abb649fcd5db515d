from datetime import UTC, datetime

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.records import (
    Account,
    Book,
    Charge,
    Payment,
    PaymentRecord,
    PaymentState,
    revenue_key,
    source_key,
)

PAYMENT = Payment("l402", "l402:1", 1, Asset.BTC, "payer")


def test_what_can_be_spent_is_what_is_not_promised() -> None:
    account = Account(1, "l402:aa", "payer", Asset.USD, posted=10, pending=4)
    assert account.available == 6
    assert account.balance == Money(6, Asset.USD)


def test_what_a_toll_has_earned_includes_its_corrections() -> None:
    charge = Charge(3, 1, 2, held=50, route="/", resolved_by="post", posted=30)
    assert charge.earned == 30
    assert charge._replace(adjusted=-5).earned == 25
    assert charge._replace(adjusted=8, refunded=38).earned == 0


def test_a_book_knows_what_there_is_to_write() -> None:
    book = Book(datetime.now(UTC), next_id=5)
    assert not book.is_changed
    loaded = PaymentRecord(PAYMENT, 1, PaymentState.CLAIMED)
    book.payments["l402:1"] = loaded
    book.record(loaded)
    assert book.is_changed
    assert (book.new_payments, book.changed_payments) == ([], {"l402:1"})


def test_a_payment_that_is_new_stays_new_when_it_changes() -> None:
    book = Book(datetime.now(UTC), next_id=5)
    record = PaymentRecord(PAYMENT, 1, PaymentState.CLAIMED)
    book.record(record)
    book.record(record)
    assert (book.new_payments, book.changed_payments) == (["l402:1"], set())


def test_accounts_and_transfers_share_one_sequence_of_ids() -> None:
    book = Book(datetime.now(UTC), next_id=5)
    payer, revenue = book.open("a", "payer", Asset.USD), book.open(revenue_key(Asset.USD), "book", Asset.USD)
    assert book.open("a", "payer", Asset.USD) is payer
    assert (payer.id, revenue.id, book.write(payer.id, revenue.id, 1, "charge", "pending")) == (5, 6, 7)
    assert book.find(5) is book.find("a") is payer
    assert source_key("l402", Asset.BTC) == "source:l402:BTC"
