"""The rules of the ledger, as examples and as a state machine that checks the invariants after every step."""

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_tollbooth import Asset, Money
from fastapi_tollbooth.ledger.book import apply
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    Capture,
    Corrected,
    Fund,
    Funded,
    Operation,
    Outcome,
    Reason,
    Reconcile,
    Refund,
    Refused,
    Resolved,
    Revoke,
    Revoked,
    Void,
)
from fastapi_tollbooth.ledger.records import (
    Account,
    Book,
    Cap,
    Charge,
    Payment,
    PaymentRecord,
    Phase,
    Transfer,
)
from fastapi_tollbooth.money import MAX_AMOUNT
from tests.ledger_machine import LedgerMachine

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
        dict(of.charges),
        {key: replace(record) for key, record in of.payments.items()},
        list(of.opened),
        dict(of.used),
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


def test_a_request_that_was_given_up_too_early_is_charged_as_far_as_the_credit_goes() -> None:
    for left, earned in ((0, 30), (80, 20)):
        ledger = book()
        apply(ledger, fund(100))
        toll = authorized(apply(ledger, Authorize(KEY, dollars(30), "/")))
        apply(ledger, Void(toll.account_id, toll.toll))
        apply(ledger, Authorize(KEY, dollars(left), "/"))
        late = Capture(toll.account_id, toll.toll, served=True)
        assert apply(ledger, late) == apply(ledger, late) == Resolved("void")
        revenue = ledger.find("revenue:USD")
        assert revenue is not None
        assert revenue.posted == earned


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


def captured(amount: int, held: int) -> tuple[Book, Authorized]:
    """A book with 100 of credit, of which a toll that held ``held`` has earned ``amount``."""
    ledger = book()
    apply(ledger, fund(100))
    toll = authorized(apply(ledger, Authorize(KEY, dollars(held), "/")))
    apply(ledger, Capture(toll.account_id, toll.toll, amount))
    return ledger, toll


def test_a_refund_is_a_new_transfer_and_happens_once() -> None:
    ledger, toll = captured(30, 30)
    assert refused(ledger, Refund(toll.account_id, toll.toll, 31)).reason is Reason.INSUFFICIENT
    assert apply(ledger, Refund(toll.account_id, toll.toll, 10)) == Corrected(dollars(20), dollars(80), True)
    assert apply(ledger, Refund(toll.account_id, toll.toll)) == Corrected(dollars(20), dollars(80), False)
    revenue = ledger.find("revenue:USD")
    assert revenue is not None
    assert revenue.posted == 20
    assert [(t.kind, t.amount, t.toll_id) for t in ledger.transfers[-1:]] == [("refund", 10, toll.toll)]


def test_what_it_really_cost_corrects_a_toll_once_and_never_beyond_what_was_held() -> None:
    for actual, earned in ((10, 10), (25, 25), (99, 40), (-3, 0), (30, 30)):
        ledger, toll = captured(30, 40)
        assert apply(ledger, Reconcile(toll.account_id, toll.toll, actual)) == Corrected(
            dollars(earned), dollars(100 - earned), True
        )
        again = apply(ledger, Reconcile(toll.account_id, toll.toll, 0))
        assert again == Corrected(dollars(earned), dollars(100 - earned), False)


def test_a_correction_never_takes_more_than_the_payer_has() -> None:
    ledger, toll = captured(30, 40)
    apply(ledger, Authorize(KEY, dollars(65), "/"))
    assert apply(ledger, Reconcile(toll.account_id, toll.toll, 40)) == Corrected(dollars(35), dollars(0), True)


def test_only_what_was_earned_is_corrected() -> None:
    ledger = book()
    apply(ledger, fund(100))
    toll = authorized(apply(ledger, Authorize(KEY, dollars(30), "/")))
    for operation in (Refund(toll.account_id, toll.toll), Reconcile(toll.account_id, toll.toll, 3)):
        assert refused(ledger, operation).reason is Reason.TOLL_OPEN
    apply(ledger, Void(toll.account_id, toll.toll))
    for operation in (Refund(toll.account_id, toll.toll), Reconcile(toll.account_id, toll.toll, 3)):
        assert refused(ledger, operation).reason is Reason.NOT_CHARGED
    assert refused(ledger, Refund(99, toll.toll)).reason is Reason.UNKNOWN_TOLL


def test_a_revoked_account_pays_nothing_until_it_is_opened_again() -> None:
    ledger, toll = captured(30, 30)
    assert apply(ledger, Revoke(KEY)) == Revoked(toll.account_id, True)
    assert refused(ledger, Authorize(KEY, dollars(1), "/")).reason is Reason.REVOKED
    apply(ledger, Revoke(KEY, False))
    authorized(apply(ledger, Authorize(KEY, dollars(1), "/")))
    assert refused(ledger, Revoke("nobody")).reason is Reason.UNKNOWN_ACCOUNT
    assert refused(ledger, Revoke("revenue:USD")).reason is Reason.UNKNOWN_ACCOUNT


class _Rules:
    """The pure rules as a keeper: each operation has a book of its own, loaded from the rows of those before."""

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}
        self.transfers: list[Transfer] = []
        self.payments: dict[str, PaymentRecord] = {}
        self.caps: dict[int, tuple[Cap, ...]] = {}
        self.used: dict[str, int] = {}

    def load(self) -> Book:
        loaded = Book(NOW, next_id=1 + len(self.accounts) + len(self.transfers))
        loaded.add(replace(account) for account in self.accounts.values())
        loaded.used.update(self.used)
        for entry in self.transfers:
            if entry.phase == "pending" and entry.kind == "charge":
                loaded.charges[entry.id] = Charge(
                    *entry[0:3], entry.amount, entry.route, caps=self.caps.get(entry.id, ())
                )
        for entry in self.transfers:
            self._follow(loaded, entry)
        for key, record in self.payments.items():
            charge = loaded.charges.get(record.toll or 0)
            delivery: Phase | None = None if charge is None else charge.resolved_by or "pending"
            loaded.payments[key] = replace(record, delivery=delivery)
        return loaded

    def _follow(self, loaded: Book, entry: Transfer) -> None:
        toll = entry.toll_id
        if not toll:
            return
        claim = next((t for t in self.transfers if t.id == toll and t.kind == "fund"), None)
        if entry.kind == "charge":
            known = loaded.charges.get(toll)
            if known is None and claim is not None:
                known = Charge(toll, entry.debit_account_id, entry.credit_account_id, claim.amount, None)
            assert known is not None
            assert known.resolved_by is None, "a toll was resolved twice"
            loaded.charges[toll] = known._replace(resolved_by=entry.phase, posted=entry.amount)
        elif entry.kind == "refund":
            assert loaded.charges[toll].refunded is None
            loaded.charges[toll] = loaded.charges[toll]._replace(refunded=entry.amount)
        elif entry.kind == "adjust":
            known = loaded.charges[toll]
            assert known.adjusted is None
            sign = 1 if entry.debit_account_id == known.account_id else -1
            loaded.charges[toll] = known._replace(adjusted=sign * entry.amount)

    def run(self, operation: Operation) -> Outcome:
        loaded = self.load()
        before = snapshot(loaded)
        outcome = apply(loaded, operation)
        if isinstance(outcome, Refused):
            assert snapshot(loaded) == before, f"{operation} was refused and changed something"
        self.accounts = loaded.accounts
        self.transfers += loaded.transfers
        self.payments = loaded.payments
        self.caps |= {charge.toll: charge.caps for charge in loaded.capped}
        self.used = loaded.used
        return outcome

    def crash(self) -> None:
        """Everything is written down after every operation."""

    def hand_over(self, reconnects: bool) -> None:
        """Nobody else keeps these books."""

    def balances(self) -> dict[str, tuple[int, int]]:
        return {account.key: (account.posted, account.pending) for account in self.accounts.values()}

    def uses(self) -> dict[str, int]:
        return self.used

    def problem(self) -> str | None:
        posted: dict[int, int] = defaultdict(int)
        for entry in self.transfers:
            if entry.phase != "pending":
                posted[entry.debit_account_id] -= entry.amount
                posted[entry.credit_account_id] += entry.amount
        wrong = [account.key for account in self.accounts.values() if account.posted != posted[account.id]]
        return f"{wrong} are not what their transfers say" if wrong else None

    def close(self) -> None:
        """Nothing to give back."""


class RulesMachine(LedgerMachine):
    def make_keeper(self) -> _Rules:
        return _Rules()


RulesMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_any_order_of_operations = RulesMachine.TestCase


# ── caps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

CAP = Cap("narrowed", Money(100, Asset.USD))
INNER = Cap("narrower", Money(30, Asset.USD))


def under(of: Book, amount: int, *caps: Cap) -> Outcome:
    return apply(of, Authorize("a", Money(amount, Asset.USD), "/x", caps))


def capped_book() -> Book:
    entries = Book(NOW, 1)
    apply(entries, Fund("a", Money(1_000, Asset.USD), Payment("l402", "p", 1, Asset.BTC, "a")))
    return entries


def test_a_cap_bounds_what_is_promised_and_spent_under_it() -> None:
    entries = capped_book()
    first = under(entries, 60, CAP)
    assert isinstance(first, Authorized)
    assert under(entries, 41, CAP) == Refused(Reason.CAPPED, Money(40, Asset.USD))
    apply(entries, Capture(first.account_id, first.toll))
    assert under(entries, 41, CAP) == Refused(Reason.CAPPED, Money(40, Asset.USD))
    assert isinstance(under(entries, 40, CAP), Authorized)
    assert isinstance(under(entries, 500), Authorized)  # nobody else is bound


def test_what_was_not_used_is_the_cap_s_again_once() -> None:
    entries = capped_book()
    first, second = under(entries, 60, CAP), under(entries, 40, CAP)
    assert isinstance(first, Authorized)
    assert isinstance(second, Authorized)
    for _ in range(3):
        apply(entries, Void(first.account_id, first.toll))
        apply(entries, Capture(second.account_id, second.toll, 15))
    assert entries.used == {"narrowed": 15}


def test_all_caps_hold_and_a_refusal_uses_none() -> None:
    entries = capped_book()
    assert under(entries, 31, CAP, INNER) == Refused(Reason.CAPPED, Money(30, Asset.USD))
    assert under(entries, 5_000, CAP).__class__ is Refused
    assert entries.used == {}
    assert isinstance(under(entries, 30, CAP, INNER), Authorized)
    assert under(entries, 1, INNER) == Refused(Reason.CAPPED, Money(0, Asset.USD))
    assert entries.used == {"narrowed": 30, "narrower": 30}


def test_a_cap_in_another_asset_allows_nothing() -> None:
    assert under(capped_book(), 1, Cap("sats", Money(100, Asset.BTC))) == Refused(Reason.WRONG_ASSET)


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["hold", "capture", "part", "void"])), max_size=40))
def test_a_cap_is_never_exceeded_and_nothing_of_it_is_lost(steps: list[tuple[int, str]]) -> None:
    entries, spent = capped_book(), 0
    for amount, how in steps:
        outcome = under(entries, amount, CAP)
        if isinstance(outcome, Authorized):
            used = {"hold": amount, "capture": amount, "part": amount // 2, "void": 0}[how]
            spent += used
            match how:
                case "capture" | "part":
                    apply(entries, Capture(outcome.account_id, outcome.toll, used))
                case "void":
                    apply(entries, Void(outcome.account_id, outcome.toll))
        else:
            assert spent + amount > 100
    assert entries.used.get("narrowed", 0) == spent <= 100


# ── credit that ends ──────────────────────────────────────────────────────────────────────────────────────────────────


def funded(of: Book, key: str, expires_at: datetime | None) -> Account:
    payment = Payment("l402", key, 1, Asset.BTC, "a")
    outcome = apply(of, Fund("a", Money(10, Asset.USD), payment, expires_at))
    assert isinstance(outcome, Funded)
    return of.accounts[outcome.account_id]


def test_new_money_keeps_the_old_alive() -> None:
    entries, later = Book(NOW, 1), NOW + timedelta(days=30)
    assert funded(entries, "p1", NOW).expires_at == NOW
    assert under(entries, 1) == Refused(Reason.EXPIRED)
    assert funded(entries, "p2", later).expires_at == later
    assert isinstance(under(entries, 20), Authorized)
    assert funded(entries, "p3", NOW).expires_at == later
    assert funded(entries, "p4", None).expires_at is None
    assert funded(entries, "p5", NOW).expires_at is None
