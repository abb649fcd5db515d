"""The rules for payments that are claimed first and settled later, one payment for one request. Pure.

    claim ──▶ CLAIMED ──begin──▶ SETTLING ──complete──▶ SETTLED ──claim, while owed──▶ charged anew
                 │                  │   └───lost───▶ UNKNOWN ──complete──▶ SETTLED
               release             fail                └──────fail──────▶ FAILED
                 ▼                  ▼
              RELEASED           FAILED          (both may be claimed again: no money has moved)

A claim is a pending transfer from the world outside to the payer's account: it promises money that is yet to come. The
payer's account shows it only once it is settled. A settled payment is *owed* until a toll that it was charged for is
posted: the same payment is then good for the same request again, and no second one is needed. Who pays, and with which
nonce, is public once money has moved: what may be owed is claimed with the credential that was found good, or not.
"""

from dataclasses import replace
from typing import NamedTuple

from fastapi_tollbooth.ledger.operations import (
    Authorized,
    BeginSettlement,
    Claim,
    Claimed,
    CompleteSettlement,
    EndClaim,
    Moved,
    Outcome,
    Reason,
    Refused,
)
from fastapi_tollbooth.ledger.records import (
    Account,
    Book,
    Charge,
    PaymentRecord,
    PaymentState,
    revenue_key,
    source_key,
)
from fastapi_tollbooth.money import MAX_AMOUNT

_IN_DOUBT = (PaymentState.SETTLING, PaymentState.UNKNOWN)

TRANSITIONS: frozenset[tuple[PaymentState, PaymentState]] = frozenset(
    {
        (PaymentState.CLAIMED, PaymentState.SETTLING),
        (PaymentState.CLAIMED, PaymentState.RELEASED),
        (PaymentState.SETTLING, PaymentState.SETTLED),
        (PaymentState.SETTLING, PaymentState.FAILED),
        (PaymentState.SETTLING, PaymentState.UNKNOWN),
        (PaymentState.UNKNOWN, PaymentState.SETTLED),
        (PaymentState.UNKNOWN, PaymentState.FAILED),
        (PaymentState.RELEASED, PaymentState.CLAIMED),
        (PaymentState.FAILED, PaymentState.CLAIMED),
    }
)
"""Every way in which a payment may go from one state to another."""


class Owed(NamedTuple):
    """The payment is settled and nothing was delivered for it yet."""

    record: PaymentRecord


def claim(book: Book, operation: Claim) -> Outcome | Owed:
    """Promise the payment to one request; `Owed` when its money is here and waits to be charged."""
    payment, record = operation.payment, book.payments.get(operation.payment.spend_key)
    account, source = book.find(operation.account), book.find(source_key(payment.rail, payment.asset))
    refusal = _refusal(operation, account, record)
    if refusal is not None:
        return refusal
    if record is not None and record.state is PaymentState.SETTLED:
        return Owed(record)
    held, brought_in = (source.pending, -source.posted) if source is not None else (0, 0)
    if max(account.posted if account else 0, held + brought_in) + payment.amount > MAX_AMOUNT:
        return Refused(Reason.TOO_LARGE)
    source = book.open(source_key(payment.rail, payment.asset), "book", payment.asset)
    account = book.open(operation.account, "payer", payment.asset)
    source.pending += payment.amount
    toll = book.write(source.id, account.id, payment.amount, "fund", "pending", 0, operation.route)
    if record is None:
        record = PaymentRecord(payment, account.id, PaymentState.CLAIMED, toll)
    else:
        record.payment, record.state, record.toll, record.delivery = payment, PaymentState.CLAIMED, toll, None
    book.record(record)
    return Claimed(toll, account.id, settled=False, spend_key=payment.spend_key)


def _refusal(operation: Claim, account: Account | None, record: PaymentRecord | None) -> Refused | None:
    if account is not None:
        if account.kind != "payer" or (record is not None and record.account_id != account.id):
            return Refused(Reason.UNKNOWN_ACCOUNT)
        if account.revoked:
            return Refused(Reason.REVOKED)
    if record is not None:
        used = _use(record)
        if used in (None, Reason.UNSETTLED) and _is_altered(record, operation):
            return Refused(Reason.ALTERED)
        if used is not None:
            return Refused(used)
    asset, amount = (operation.payment.asset, operation.payment.amount)
    if record is not None and record.state is PaymentState.SETTLED:
        asset, amount = record.payment.asset, record.payment.amount
    if operation.price.asset is not asset or (account is not None and account.asset is not asset):
        return Refused(Reason.WRONG_ASSET)
    return Refused(Reason.INSUFFICIENT) if operation.price.amount > amount else None


def _is_altered(record: PaymentRecord, operation: Claim) -> bool:
    """Whether what may have been paid already is claimed with another credential than that which was found good."""
    if record.state in (PaymentState.RELEASED, PaymentState.FAILED):
        return False
    return record.payment.digest not in (None, operation.payment.digest)


def _use(record: PaymentRecord) -> Reason | None:
    """What a known payment is in use for; None when it may be claimed, anew or because it is owed."""
    match record.state:
        case PaymentState.CLAIMED:
            return Reason.IN_USE
        case PaymentState.SETTLING | PaymentState.UNKNOWN:
            return Reason.UNSETTLED
        case PaymentState.SETTLED if record.toll is None or record.delivery == "post":
            return Reason.ALREADY_SPENT
        case PaymentState.SETTLED if record.delivery == "pending":
            return Reason.IN_USE
        case _:
            return None


def charge_owed(book: Book, owed: Owed, authorized: Outcome) -> Outcome:
    """Bind an owed payment to the toll that was just authorized from its account."""
    if not isinstance(authorized, Authorized):
        return authorized
    owed.record.toll, owed.record.delivery = authorized.toll, "pending"
    book.record(owed.record)
    return Claimed(authorized.toll, authorized.account_id, settled=True, spend_key=owed.record.payment.spend_key)


def begin(book: Book, operation: BeginSettlement) -> Outcome:
    """From here on the money may move: a crash leaves a payment that has to be asked for."""
    record = book.payments.get(operation.spend_key)
    if record is None or record.toll != operation.toll:
        return Refused(Reason.UNKNOWN_PAYMENT)
    return _move(book, record, PaymentState.SETTLING)


def complete(book: Book, operation: CompleteSettlement) -> Outcome:
    """Post the money of a claim, and charge for its request when that was served."""
    record = book.payments.get(operation.spend_key)
    if record is None or record.toll is None:
        return Refused(Reason.UNKNOWN_PAYMENT)
    if record.state is PaymentState.SETTLED:
        return Moved(record.state)
    if record.state not in _IN_DOUBT:
        return Refused(Reason.NOT_POSSIBLE)
    account, source, toll = book.accounts[record.account_id], _source(book, record), record.toll
    amount, charge = record.payment.amount, operation.charge
    if charge is not None and (charge.asset is not account.asset or charge.amount > amount):
        return Refused(Reason.INSUFFICIENT, account.balance)
    source.pending -= amount
    source.posted -= amount
    account.posted += amount
    book.write(source.id, account.id, amount, "fund", "post", toll)
    record.payment = replace(record.payment, reference=operation.reference or record.payment.reference)
    record.delivery = None
    if charge is not None:
        revenue = book.open(revenue_key(account.asset), "book", account.asset)
        account.posted -= charge.amount
        revenue.posted += charge.amount
        book.write(account.id, revenue.id, charge.amount, "charge", "post", toll)
        book.charges[toll] = Charge(toll, account.id, revenue.id, amount, None, "post", charge.amount)
        record.delivery = "post"
    return _move(book, record, PaymentState.SETTLED)


def end(book: Book, operation: EndClaim) -> Outcome:
    """Take the promise of a claim back, or write down that its fate is unknown."""
    record = book.payments.get(operation.spend_key)
    if record is None or record.toll != operation.toll:
        return Refused(Reason.UNKNOWN_PAYMENT)
    if record.state is operation.state:
        return Moved(record.state)
    if (record.state, operation.state) not in TRANSITIONS:
        return Refused(Reason.NOT_POSSIBLE)
    if operation.state is not PaymentState.UNKNOWN:
        source = _source(book, record)
        source.pending -= record.payment.amount
        book.write(source.id, record.account_id, 0, "fund", "void", operation.toll)
    return _move(book, record, operation.state)


def _move(book: Book, record: PaymentRecord, state: PaymentState) -> Outcome:
    if record.state is not state:
        if (record.state, state) not in TRANSITIONS:
            return Refused(Reason.NOT_POSSIBLE)
        record.state = state
        book.record(record)
    return Moved(state)


def _source(book: Book, record: PaymentRecord) -> Account:
    payment = record.payment
    return book.open(source_key(payment.rail, payment.asset), "book", payment.asset)
