"""The rules of the ledger: double entry with two-phase transfers. Pure: no I/O, no SQL, no framework.

A `Book` holds the accounts, tolls and payments that one batch of operations is about. `apply` runs one operation
against it: the operation either happens as a whole, adding rows to the book, or is refused and changes nothing. Whoever
made the book (`ledger/store.py`) loads it from the database and writes the new rows back, all in one transaction.

After TigerBeetle's two-phase transfers (https://docs.tigerbeetle.com/coding/two-phase-transfers/): a pending transfer
is resolved at most once, by a post of at most its amount or by a void. A correction is a new transfer, never an edit.
"""

from collections.abc import Callable
from typing import Any

from fastapi_tollbooth.ledger.claims import Owed, begin, charge_owed, claim, complete, end
from fastapi_tollbooth.ledger.operations import (
    Authorize,
    Authorized,
    BeginSettlement,
    Capture,
    Claim,
    CompleteSettlement,
    Corrected,
    EndClaim,
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
    Kind,
    PaymentRecord,
    PaymentState,
    Phase,
    revenue_key,
    source_key,
)
from fastapi_tollbooth.money import MAX_AMOUNT, Money


def apply(book: Book, operation: Operation) -> Outcome:
    """Run one operation by the rules of this module. A refused operation leaves the book as it was."""
    return _RULES[type(operation)](book, operation)


def refusal_to_spend(book: Book, account: Account | None, amount: Money) -> Refused | None:
    """Why this account cannot promise this much now; None when it can."""
    if account is None or account.kind != "payer":
        return Refused(Reason.UNKNOWN_ACCOUNT)
    if account.revoked:
        return Refused(Reason.REVOKED)
    if account.expires_at is not None and account.expires_at <= book.now:
        return Refused(Reason.EXPIRED)
    if account.asset is not amount.asset:
        return Refused(Reason.WRONG_ASSET, account.balance)
    if account.available < amount.amount:
        return Refused(Reason.INSUFFICIENT, account.balance)
    return None


# ── credit ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fund(book: Book, operation: Fund) -> Outcome:
    payment, credit = operation.payment, operation.credit
    known = book.find(operation.account)
    if known is not None and known.kind != "payer":
        return Refused(Reason.UNKNOWN_ACCOUNT)
    if known is not None and known.asset is not credit.asset:
        return Refused(Reason.WRONG_ASSET, known.balance)
    spent = book.payments.get(payment.spend_key)
    if spent is not None:
        if known is None or spent.account_id != known.id or spent.state is not PaymentState.SETTLED:
            return Refused(Reason.UNKNOWN_ACCOUNT)
        return Funded(known.id, known.balance, new=False)
    source = book.open(source_key(payment.rail, credit.asset), "book", credit.asset)
    if (known.posted if known else 0) + credit.amount > MAX_AMOUNT or source.posted - credit.amount < -MAX_AMOUNT:
        return Refused(Reason.TOO_LARGE, known.balance if known else None)
    account = book.open(operation.account, "payer", credit.asset, operation.expires_at)
    if account.expires_at is not None and (operation.expires_at is None or operation.expires_at > account.expires_at):
        # New money keeps the old alive.
        account.expires_at = book.expiries[account.id] = operation.expires_at
    source.posted -= credit.amount
    account.posted += credit.amount
    book.write(source.id, account.id, credit.amount, "fund", "post")
    book.record(PaymentRecord(payment, account.id, PaymentState.SETTLED))
    return Funded(account.id, account.balance, new=True)


def _revoke(book: Book, operation: Revoke) -> Outcome:
    account = book.find(operation.account)
    if account is None or account.kind != "payer":
        return Refused(Reason.UNKNOWN_ACCOUNT)
    if account.revoked is not operation.revoked:
        account.revoked = book.revocations[account.id] = operation.revoked
    return Revoked(account.id, account.revoked)


# ── tolls ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _authorize(book: Book, operation: Authorize) -> Outcome:
    name, money, route, caps = operation
    account = book.find(name)
    refusal = refusal_to_spend(book, account, money)
    if account is None or refusal is not None:
        return refusal or Refused(Reason.UNKNOWN_ACCOUNT)
    for cap in caps:
        refusal = _refusal_under(book, cap, money)
        if refusal is not None:
            return refusal
    amount, payer = money.amount, account.id
    revenue = book.open(revenue_key(account.asset), "book", account.asset).id
    account.pending += amount
    toll = book.write(payer, revenue, amount, "charge", "pending", 0, route)
    charge = book.charges[toll] = Charge(toll, payer, revenue, amount, route, None, 0, None, None, caps)
    if caps:
        book.capped.append(charge)
        book.use(caps, amount)
    return Authorized(toll, payer, account.balance)


def _refusal_under(book: Book, cap: Cap, amount: Money) -> Refused | None:
    if cap.limit.asset is not amount.asset:
        return Refused(Reason.WRONG_ASSET)
    left = book.left(cap)
    return Refused(Reason.CAPPED, Money(left, amount.asset)) if left < amount.amount else None


def _capture(book: Book, operation: Capture) -> Outcome:
    payer, toll, amount, served = operation
    charge = book.charges.get(toll)
    if served and charge is not None and charge.resolved_by == "void" and charge.adjusted is None:
        return _capture_late(book, operation, charge)
    return _resolve(book, payer, charge, "post", amount)


def _void(book: Book, operation: Void) -> Outcome:
    return _resolve(book, operation.account, book.charges.get(operation.toll), "void", 0)


def _resolve(book: Book, payer: int, charge: Charge | None, phase: Phase, amount: int | None) -> Outcome:
    account = book.accounts.get(payer)
    if account is None or charge is None or charge.account_id != payer:
        return Refused(Reason.UNKNOWN_TOLL)
    toll, _, revenue, held, route, resolved_by, _, _, _, caps = charge
    if resolved_by is not None:
        return Resolved(resolved_by)
    posted = held if amount is None else amount
    if posted > held:
        return Refused(Reason.INSUFFICIENT, account.balance)
    account.pending -= held
    if posted:
        account.posted -= posted
        book.accounts[revenue].posted += posted
    if caps:
        book.use(caps, posted - held)
    book.write(payer, revenue, posted, "charge", phase, toll, route)
    book.charges[toll] = Charge(toll, payer, revenue, held, route, phase, posted, None, None, caps)
    return Resolved(phase)


def _capture_late(book: Book, operation: Capture, charge: Charge) -> Outcome:
    """Charge a request that was served after all: it was given up too early, and its promise taken back."""
    account = book.accounts.get(operation.account)
    if account is None or charge.account_id != account.id:
        return Refused(Reason.UNKNOWN_TOLL)
    used = charge.held if operation.amount is None else operation.amount
    owed = min(used, charge.held, _spendable(book, account, charge))
    _correct(book, account, charge._replace(adjusted=owed), owed, "adjust")
    return Resolved("void")


def _refund(book: Book, operation: Refund) -> Outcome:
    account, charge, refusal = _earned(book, operation.account, operation.toll)
    if account is None or charge is None:
        return refusal
    if charge.refunded is not None:
        return Corrected(Money(charge.earned, account.asset), account.balance, new=False)
    amount = charge.earned if operation.amount is None else operation.amount
    if amount > charge.earned:
        return Refused(Reason.INSUFFICIENT, account.balance)
    return _correct(book, account, charge._replace(refunded=amount), -amount, "refund")


def _reconcile(book: Book, operation: Reconcile) -> Outcome:
    account, charge, refusal = _earned(book, operation.account, operation.toll)
    if account is None or charge is None:
        return refusal
    if charge.adjusted is not None:
        return Corrected(Money(charge.earned, account.asset), account.balance, new=False)
    change = min(max(0, operation.actual), charge.held) - charge.posted
    # What a refund gave back is not taken again, and a charge beyond the first is limited to what may still be spent.
    more = 0 if charge.refunded is not None else _spendable(book, account, charge)
    change = max(change, -charge.earned) if change < 0 else min(change, more)
    return _correct(book, account, charge._replace(adjusted=change), change, "adjust")


def _spendable(book: Book, account: Account, charge: Charge) -> int:
    """What a resolved toll may still be charged: what the payer has, and its caps allow."""
    return min([account.available, *(book.left(cap) for cap in charge.caps)])


def _earned(book: Book, account_id: int, toll: int) -> tuple[Account | None, Charge | None, Refused]:
    account, charge = book.accounts.get(account_id), book.charges.get(toll)
    if account is None or charge is None or charge.account_id != account_id:
        return None, None, Refused(Reason.UNKNOWN_TOLL)
    if charge.resolved_by is None:
        return None, None, Refused(Reason.TOLL_OPEN, account.balance)
    if charge.resolved_by == "void" and charge.adjusted is None:
        return None, None, Refused(Reason.NOT_CHARGED, account.balance)
    return account, charge, Refused(Reason.NOT_POSSIBLE)


def _correct(book: Book, account: Account, corrected: Charge, change: int, kind: Kind) -> Outcome:
    """Charge ``change`` more, or give it back when it is below zero, in one transfer."""
    if account.posted - change > MAX_AMOUNT:
        return Refused(Reason.TOO_LARGE, account.balance)
    revenue = book.accounts[corrected.revenue_id]
    account.posted -= change
    revenue.posted += change
    book.use(corrected.caps, change)
    debit, credit = (account.id, revenue.id) if change > 0 else (revenue.id, account.id)
    book.write(debit, credit, abs(change), kind, "post", corrected.toll, corrected.route)
    book.charges[corrected.toll] = corrected
    return Corrected(Money(corrected.earned, account.asset), account.balance, new=True)


# ── payments for one request ──────────────────────────────────────────────────────────────────────────────────────────


def _claim(book: Book, operation: Claim) -> Outcome:
    outcome = claim(book, operation)
    if not isinstance(outcome, Owed):
        return outcome
    authorized = _authorize(book, Authorize(outcome.record.account_id, operation.price, operation.route))
    return charge_owed(book, outcome, authorized)


_RULES: dict[type[Operation], Callable[[Book, Any], Outcome]] = {
    Fund: _fund,
    Revoke: _revoke,
    Authorize: _authorize,
    Capture: _capture,
    Void: _void,
    Refund: _refund,
    Reconcile: _reconcile,
    Claim: _claim,
    BeginSettlement: begin,
    CompleteSettlement: complete,
    EndClaim: end,
}
