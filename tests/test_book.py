"""The rules of the ledger, as examples and as a state machine that checks the invariants after every step."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.book import (
    Authorize,
    Authorized,
    Book,
    Capture,
    Fund,
    Funded,
    Operation,
    Outcome,
    Payment,
    Pending,
    Phase,
    Reason,
    Refused,
    Resolved,
    Void,
    apply,
    keys_of,
)
from fastapi_tollbooth.money import MAX_AMOUNT

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "l402:aa"


def book() -> Book:
    return Book(NOW, next_id=1)


def dollars(amount: int) -> Money:
    return Money(amount, Asset.USD)


def fund(amount: int, spend_key: str = "l402:p1", account: str = KEY, asset: Asset = Asset.USD) -> Fund:
    return Fund(account, Money(amount, asset), Payment("l402", spend_key, 21_000, Asset.BTC, account))


def snapshot(of: Book) -> object:
    return (
        {key: (account.posted, account.pending) for key, account in of.accounts.items()},
        list(of.transfers),
        dict(of.pendings),
        list(of.payments),
        of.next_id,
    )


def refused(of: Book, operation: Operation) -> Refused:
    """Apply an operation that must be refused and must change nothing."""
    before = snapshot(of)
    outcome = apply(of, operation)
    assert isinstance(outcome, Refused)
    assert snapshot(of) == before
    return outcome


def authorized(outcome: Outcome) -> Authorized:
    assert isinstance(outcome, Authorized)
    return outcome


def test_a_payment_funds_an_account_once() -> None:
    ledger = book()
    first = apply(ledger, fund(100))
    again = apply(ledger, fund(100))
    assert isinstance(first, Funded)
    assert first.new
    assert isinstance(again, Funded)
    assert not again.new
    assert again.balance == dollars(100)
    assert len(ledger.payments) == 1
    assert len(ledger.transfers) == 1


def test_a_second_payment_tops_up() -> None:
    ledger = book()
    apply(ledger, fund(100))
    more = apply(ledger, fund(50, spend_key="l402:p2"))
    assert isinstance(more, Funded)
    assert more.balance == dollars(150)


def test_a_payment_that_funded_another_account_funds_nothing() -> None:
    ledger = book()
    apply(ledger, fund(100))
    assert refused(ledger, fund(100, account="l402:bb")).reason is Reason.UNKNOWN_ACCOUNT


def test_credit_has_one_asset_and_a_largest_amount() -> None:
    ledger = book()
    apply(ledger, fund(MAX_AMOUNT - 10))
    assert refused(ledger, fund(5, spend_key="x", asset=Asset.BTC)).reason is Reason.WRONG_ASSET
    assert refused(ledger, fund(11, spend_key="x")).reason is Reason.TOO_LARGE


def test_a_toll_is_promised_then_posted() -> None:
    ledger = book()
    apply(ledger, fund(100))
    toll = authorized(apply(ledger, Authorize(KEY, dollars(30), "/weather")))
    assert toll.balance == dollars(70)
    assert apply(ledger, Capture(toll.account_id, toll.toll)) == Resolved("post")
    account = ledger.accounts[toll.account_id]
    assert (account.posted, account.pending) == (70, 0)
    assert [(t.phase, t.amount, t.route) for t in ledger.transfers[1:]] == [
        ("pending", 30, "/weather"),
        ("post", 30, "/weather"),
    ]


def test_part_of_a_toll_is_posted_and_the_rest_returned() -> None:
    ledger = book()
    apply(ledger, fund(100))
    toll = authorized(apply(ledger, Authorize(KEY, dollars(30), "/")))
    assert refused(ledger, Capture(toll.account_id, toll.toll, 31)).reason is Reason.INSUFFICIENT
    apply(ledger, Capture(toll.account_id, toll.toll, 12))
    account = ledger.accounts[toll.account_id]
    assert (account.posted, account.pending) == (88, 0)


def test_a_toll_is_resolved_once() -> None:
    orders: list[tuple[Any, Any, Phase]] = [
        (Capture, Void, "post"),
        (Void, Capture, "void"),
        (Capture, Capture, "post"),
    ]
    for first, then, phase in orders:
        ledger = book()
        apply(ledger, fund(100))
        toll = authorized(apply(ledger, Authorize(KEY, dollars(30), "/")))
        apply(ledger, first(toll.account_id, toll.toll))
        before = snapshot(ledger)
        assert apply(ledger, then(toll.account_id, toll.toll)) == Resolved(phase)
        assert snapshot(ledger) == before


def test_no_more_is_promised_than_there_is() -> None:
    ledger = book()
    apply(ledger, fund(100))
    for _ in range(3):
        authorized(apply(ledger, Authorize(KEY, dollars(30), "/")))
    outcome = refused(ledger, Authorize(KEY, dollars(30), "/"))
    assert (outcome.reason, outcome.balance) == (Reason.INSUFFICIENT, dollars(10))


def test_what_is_not_there_cannot_be_used() -> None:
    ledger = book()
    apply(ledger, fund(100))
    toll = authorized(apply(ledger, Authorize(KEY, dollars(1), "/")))
    assert refused(ledger, Authorize("l402:zz", dollars(1), "/")).reason is Reason.UNKNOWN_ACCOUNT
    assert refused(ledger, Authorize(999, dollars(1), "/")).reason is Reason.UNKNOWN_ACCOUNT
    assert refused(ledger, Authorize("revenue:USD", dollars(1), "/")).reason is Reason.UNKNOWN_ACCOUNT
    assert refused(ledger, Authorize(KEY, Money(1, Asset.BTC), "/")).reason is Reason.WRONG_ASSET
    assert refused(ledger, Capture(toll.account_id, 999)).reason is Reason.UNKNOWN_TOLL
    assert refused(ledger, Void(999, toll.toll)).reason is Reason.UNKNOWN_TOLL


def test_a_toll_of_another_account_cannot_be_resolved() -> None:
    ledger = book()
    apply(ledger, fund(100))
    apply(ledger, fund(100, spend_key="l402:p2", account="l402:bb"))
    toll = authorized(apply(ledger, Authorize(KEY, dollars(1), "/")))
    other = ledger.find("l402:bb")
    assert other is not None
    assert refused(ledger, Capture(other.id, toll.toll)).reason is Reason.UNKNOWN_TOLL


def test_revoked_and_expired_credit_cannot_be_spent() -> None:
    ledger = book()
    apply(ledger, fund(100))
    account = ledger.find(KEY)
    assert account is not None
    account.expires_at = NOW
    assert refused(ledger, Authorize(KEY, dollars(1), "/")).reason is Reason.EXPIRED
    account.expires_at = NOW + timedelta(seconds=1)
    authorized(apply(ledger, Authorize(KEY, dollars(1), "/")))
    account.revoked = True
    assert refused(ledger, Authorize(KEY, dollars(1), "/")).reason is Reason.REVOKED


def test_what_a_batch_has_to_look_up() -> None:
    assert keys_of(fund(1)) == (KEY, "source:l402:USD")
    assert keys_of(Authorize(KEY, dollars(1), "/")) == (KEY,)
    assert keys_of(Authorize(7, dollars(1), "/")) == ()
    assert keys_of(Capture(1, 2)) == keys_of(Void(1, 2)) == ()


class LedgerMachine(RuleBasedStateMachine):
    """Any order of operations keeps the promises of the ledger."""

    open_tolls: Bundle[Authorized] = Bundle("open_tolls")

    @initialize()
    def start(self) -> None:
        self.book = book()
        self.earned = 0
        self.paid_in = 0
        self.payments = 0

    @rule(account=st.sampled_from("abc"), amount=st.integers(0, 1_000), again=st.booleans())
    def fund(self, account: str, amount: int, again: bool) -> None:
        self.payments += 0 if again and self.payments else 1
        outcome = apply(self.book, fund(amount, f"p{self.payments}", account))
        if isinstance(outcome, Funded) and outcome.new:
            self.paid_in += amount

    @rule(target=open_tolls, account=st.sampled_from("abc"), amount=st.integers(0, 400))
    def authorize(self, account: str, amount: int) -> Authorized:
        known = self.book.find(account)
        before = known.available if known else 0
        outcome = apply(self.book, Authorize(account, dollars(amount), "/"))
        if isinstance(outcome, Authorized):
            assert outcome.balance.amount == before - amount
            return outcome
        assert known is None or before < amount
        return Authorized(-1, -1, dollars(0))

    @rule(toll=open_tolls, part=st.none() | st.integers(0, 400))
    def capture(self, toll: Authorized, part: int | None) -> None:
        pending = self.book.pendings.get(toll.toll)
        outcome = apply(self.book, Capture(toll.account_id, toll.toll, part))
        if pending is not None and pending.resolved_by is None and isinstance(outcome, Resolved):
            self.earned += pending.transfer.amount if part is None else part

    @rule(toll=consumes(open_tolls))
    def void(self, toll: Authorized) -> None:
        apply(self.book, Void(toll.account_id, toll.toll))

    @precondition(lambda self: self.book.transfers)
    @rule()
    def crash_and_load_again(self) -> None:
        """What is in the rows is all that is needed to go on."""
        posted, pending, resolved = replay(self.book)
        loaded = Book(NOW, next_id=self.book.next_id, spent=set(self.book.spent))
        for account in self.book.accounts.values():
            account.posted, account.pending = posted[account.id], pending[account.id]
        loaded.add(self.book.accounts.values())
        loaded.transfers = self.book.transfers
        loaded.payments = self.book.payments
        for transfer in self.book.transfers:
            if transfer.phase == "pending":
                loaded.pendings[transfer.id] = Pending(transfer, resolved.get(transfer.id))
        self.book = loaded

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "book"):
            return
        accounts = self.book.accounts.values()
        assert sum(account.posted for account in accounts) == 0
        assert all(account.pending >= 0 and account.available >= 0 for account in accounts if account.kind == "payer")
        revenue, source = self.book.find("revenue:USD"), self.book.find("source:l402:USD")
        assert (revenue.posted if revenue else 0) == self.earned
        assert (-source.posted if source else 0) == self.paid_in
        posted, pending, _ = replay(self.book)
        assert {a.id: a.posted for a in accounts if a.posted} == {key: value for key, value in posted.items() if value}
        assert {a.id: a.pending for a in accounts if a.pending} == {
            key: value for key, value in pending.items() if value
        }
        keys = [payment.spend_key for payment, _ in self.book.payments]
        assert len(keys) == len(set(keys))


def replay(of: Book) -> tuple[dict[int, int], dict[int, int], dict[int, Phase]]:
    """Posted and pending balances, and resolutions, from the transfers alone."""
    posted: dict[int, int] = defaultdict(int)
    pending: dict[int, int] = defaultdict(int)
    held: dict[int, int] = {}
    resolved: dict[int, Phase] = {}
    for transfer in of.transfers:
        if transfer.phase == "pending":
            held[transfer.id] = transfer.amount
            pending[transfer.debit_account_id] += transfer.amount
            continue
        if transfer.pending_id is not None:
            assert transfer.pending_id not in resolved, "a pending transfer was resolved twice"
            resolved[transfer.pending_id] = transfer.phase
            pending[transfer.debit_account_id] -= held[transfer.pending_id]
        posted[transfer.debit_account_id] -= transfer.amount
        posted[transfer.credit_account_id] += transfer.amount
    return posted, pending, resolved


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_any_order_of_operations = LedgerMachine.TestCase
