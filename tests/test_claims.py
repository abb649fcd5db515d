"""Payments that are claimed by one request and settled later."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.book import apply
from fastapi_tollbooth.ledger.claims import TRANSITIONS
from fastapi_tollbooth.ledger.operations import (
    BeginSettlement,
    Capture,
    Claim,
    Claimed,
    CompleteSettlement,
    EndClaim,
    Fund,
    Moved,
    Operation,
    Reason,
    Refund,
    Refused,
    Revoke,
    Void,
)
from fastapi_tollbooth.ledger.records import Book, Payment, PaymentState

PAYER, KEY = "x402:eip155:8453:0xaa", "x402:eip155:8453:0xaa:0x01"


def usd(amount: int) -> Money:
    return Money(amount, Asset.USD)


def claim(amount: int = 100, price: int = 100, key: str = KEY, payer: str = PAYER) -> Claim:
    return Claim(Payment("x402", key, amount, Asset.USD, payer), payer, usd(price), "/weather")


@pytest.fixture
def book() -> Book:
    return Book(datetime(2026, 1, 1, tzinfo=UTC), next_id=1)


def claimed(book: Book, operation: Claim | None = None) -> Claimed:
    outcome = apply(book, operation or claim())
    assert isinstance(outcome, Claimed)
    return outcome


def settling(book: Book) -> Claimed:
    of = claimed(book)
    assert apply(book, BeginSettlement(KEY, of.toll)) == Moved(PaymentState.SETTLING)
    return of


def by(digest: str | None) -> Claim:
    operation = claim()
    return operation._replace(payment=replace(operation.payment, digest=digest))


@pytest.mark.parametrize("other", ["another", None])
def test_what_may_be_owed_is_claimed_with_the_credential_that_was_found_good(book: Book, other: str | None) -> None:
    of = claimed(book, by("first"))
    assert reason(book, by(other)) is Reason.IN_USE
    apply(book, BeginSettlement(KEY, of.toll))
    assert reason(book, by(other)) is Reason.ALTERED
    assert reason(book, by("first")) is Reason.UNSETTLED
    apply(book, EndClaim(KEY, of.toll, PaymentState.UNKNOWN))
    assert reason(book, by(other)) is Reason.ALTERED
    apply(book, CompleteSettlement(KEY, "0x1"))
    assert reason(book, by(other)) is Reason.ALTERED
    assert claimed(book, by("first")).settled


def test_what_was_not_paid_may_be_signed_anew(book: Book) -> None:
    of = claimed(book, by("first"))
    apply(book, EndClaim(KEY, of.toll, PaymentState.RELEASED))
    of = claimed(book, by("second"))
    apply(book, BeginSettlement(KEY, of.toll))
    assert reason(book, by("first")) is Reason.ALTERED
    assert reason(book, by("second")) is Reason.UNSETTLED


def reason(book: Book, operation: Operation) -> Reason:
    outcome = apply(book, operation)
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def balances(book: Book) -> dict[str, tuple[int, int]]:
    return {account.key: (account.posted, account.pending) for account in book.accounts.values()}


def test_a_payment_is_claimed_once_and_charged_when_it_is_settled(book: Book) -> None:
    of = settling(book)
    assert balances(book) == {"source:x402:USD": (0, 100), PAYER: (0, 0)}
    assert apply(book, CompleteSettlement(KEY, "0xfeed", usd(100))) == Moved(PaymentState.SETTLED)
    assert balances(book) == {"source:x402:USD": (-100, 0), PAYER: (0, 0), "revenue:USD": (100, 0)}
    assert book.payments[KEY].payment.reference == "0xfeed"
    assert reason(book, claim()) is Reason.ALREADY_SPENT
    assert [(t.kind, t.phase, t.toll_id) for t in book.transfers] == [
        ("fund", "pending", 0),
        ("fund", "post", of.toll),
        ("charge", "post", of.toll),
    ]


def test_a_second_request_with_the_same_payment_is_told_that_it_is_in_use(book: Book) -> None:
    of = claimed(book)
    assert reason(book, claim()) is Reason.IN_USE
    apply(book, BeginSettlement(KEY, of.toll))
    assert reason(book, claim()) is Reason.UNSETTLED


@pytest.mark.parametrize("state", [PaymentState.RELEASED, PaymentState.FAILED])
def test_a_payment_that_did_not_move_may_be_claimed_again(book: Book, state: PaymentState) -> None:
    of = claimed(book)
    if state is PaymentState.FAILED:
        apply(book, BeginSettlement(KEY, of.toll))
    end = EndClaim(KEY, of.toll, state)  # type: ignore[arg-type]
    assert apply(book, end) == apply(book, end) == Moved(state)
    assert balances(book) == {"source:x402:USD": (0, 0), PAYER: (0, 0)}
    again = claimed(book, claim(amount=70, price=70))
    assert again.toll != of.toll
    assert reason(book, BeginSettlement(KEY, of.toll)) is Reason.UNKNOWN_PAYMENT
    assert book.payments[KEY].payment.amount == 70


def test_what_was_lost_and_found_is_owed_until_it_is_delivered(book: Book) -> None:
    of = settling(book)
    assert apply(book, EndClaim(KEY, of.toll, PaymentState.UNKNOWN)) == Moved(PaymentState.UNKNOWN)
    assert balances(book)["source:x402:USD"] == (0, 100)
    apply(book, CompleteSettlement(KEY, "0xfeed"))
    assert balances(book)[PAYER] == (100, 0)

    first = claimed(book)
    assert first.settled
    assert balances(book)[PAYER] == (100, 100)
    apply(book, Void(first.account_id, first.toll))
    book.payments[KEY].delivery = "void"  # what a later batch loads

    second = claimed(book)
    assert second.settled
    assert second.toll != first.toll
    assert reason(book, claim()) is Reason.IN_USE
    apply(book, Capture(second.account_id, second.toll))
    book.payments[KEY].delivery = "post"
    assert reason(book, claim()) is Reason.ALREADY_SPENT
    assert balances(book) == {"source:x402:USD": (-100, 0), PAYER: (0, 0), "revenue:USD": (100, 0)}


def test_an_owed_payment_does_not_spend_the_money_of_another(book: Book) -> None:
    settling(book)
    apply(book, CompleteSettlement(KEY))
    apply(book, Fund(PAYER, usd(500), Payment("grant", "grant:1", 500, Asset.USD, PAYER)))
    assert reason(book, claim(amount=600, price=600)) is Reason.INSUFFICIENT


def test_part_of_a_payment_is_charged_and_the_rest_is_the_payer_s(book: Book) -> None:
    of = settling(book)
    assert reason(book, CompleteSettlement(KEY, None, usd(101))) is Reason.INSUFFICIENT
    apply(book, CompleteSettlement(KEY, None, usd(30)))
    assert balances(book)[PAYER] == (70, 0)
    apply(book, Refund(of.account_id, of.toll))
    assert balances(book)[PAYER] == (100, 0)


def test_a_claim_has_to_be_worth_its_price(book: Book) -> None:
    assert reason(book, claim(amount=99)) is Reason.INSUFFICIENT
    price = Claim(claim().payment, PAYER, Money(1, Asset.BTC), "/")
    assert reason(book, price) is Reason.WRONG_ASSET
    assert balances(book) == {}


def test_a_revoked_payer_claims_nothing(book: Book) -> None:
    of = claimed(book)
    apply(book, EndClaim(KEY, of.toll, PaymentState.RELEASED))
    apply(book, Revoke(PAYER))
    assert reason(book, claim()) is Reason.REVOKED


def test_one_payment_has_one_account(book: Book) -> None:
    of = claimed(book)
    apply(book, EndClaim(KEY, of.toll, PaymentState.RELEASED))
    claimed(book, claim(key="x402:other", payer="x402:bob"))
    assert reason(book, claim(payer="x402:bob")) is Reason.UNKNOWN_ACCOUNT


@pytest.mark.parametrize("state", list(PaymentState))
def test_a_payment_goes_only_the_ways_of_the_table(book: Book, state: PaymentState) -> None:
    of = claimed(book)
    book.payments[KEY].state = state
    moves: list[tuple[Operation, PaymentState]] = [
        (BeginSettlement(KEY, of.toll), PaymentState.SETTLING),
        *(
            (EndClaim(KEY, of.toll, target), target)
            for target in (PaymentState.RELEASED, PaymentState.FAILED, PaymentState.UNKNOWN)
        ),
    ]
    for operation, target in moves:
        book.payments[KEY].state = state
        outcome = apply(book, operation)
        if state is target or (state, target) in TRANSITIONS:
            assert outcome == Moved(target)
        else:
            assert outcome == Refused(Reason.NOT_POSSIBLE)
            assert book.payments[KEY].state is state


def test_what_nobody_claimed_is_not_known(book: Book) -> None:
    assert reason(book, CompleteSettlement("x402:none")) is Reason.UNKNOWN_PAYMENT
    assert reason(book, EndClaim("x402:none", 1, PaymentState.FAILED)) is Reason.UNKNOWN_PAYMENT
    of = claimed(book)
    assert reason(book, CompleteSettlement(KEY)) is Reason.NOT_POSSIBLE
    apply(book, EndClaim(KEY, of.toll, PaymentState.RELEASED))
    assert reason(book, CompleteSettlement(KEY)) is Reason.NOT_POSSIBLE
