"""The rules of the ledger: double entry with two-phase transfers. Pure: no I/O, no SQL, no framework.

A `Book` holds the accounts, pending transfers and payments that one batch of operations is about. `apply` runs one
operation against it: the operation either happens as a whole, adding rows to the book, or is refused and changes
nothing. Whoever made the book (`ledger/store.py`) loads it from the database and writes the new rows back, all in one
transaction.

Every transfer takes ``amount`` from its debit account and gives it to its credit account, so the posted balances of all
accounts of one asset always sum to zero. What a payer has is ``posted``; what of it is promised to tolls that are still
running is ``pending``; what can be spent is the difference, and it never falls below zero.

After TigerBeetle's two-phase transfers (https://docs.tigerbeetle.com/coding/two-phase-transfers/): a pending transfer
is resolved at most once, by a post of at most its amount or by a void.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from fastapi_tollbooth.money import MAX_AMOUNT, Asset, Money

Kind = Literal["fund", "charge"]
"""Why money moved."""

Phase = Literal["pending", "post", "void"]
"""What a transfer does to the balances: promise, settle (a promise, where there was one), or take a promise back."""

AccountKind = Literal["payer", "book"]
"""Payers may not fall below zero. Books are the service's own side: money received and money earned."""


@dataclass(slots=True)
class Account:
    """One account of the ledger; amounts in the smallest unit of its asset."""

    id: int
    key: str
    kind: AccountKind
    asset: Asset
    posted: int = 0
    pending: int = 0
    revoked: bool = False
    expires_at: datetime | None = None

    @property
    def available(self) -> int:
        """What can be spent now."""
        return self.posted - self.pending

    @property
    def balance(self) -> Money:
        """What can be spent now, as money."""
        return Money(self.available, self.asset)


class Transfer(NamedTuple):
    """One row of the append-only journal, written at its book's ``now``."""

    id: int
    debit_account_id: int
    credit_account_id: int
    amount: int
    kind: Kind
    phase: Phase
    pending_id: int | None
    route: str | None


@dataclass(frozen=True, slots=True)
class Payment:
    """One external payment. ``spend_key`` is unique for ever: the same money never funds twice."""

    rail: str
    spend_key: str
    amount: int
    asset: Asset
    payer: str
    reference: str | None = None
    rate: str | None = None


class Pending(NamedTuple):
    """A pending transfer, and how it was resolved if it was."""

    transfer: Transfer
    resolved_by: Phase | None = None


# ── operations ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Fund:
    """Credit an account, opened if need be, with the money of one payment. Doing it again changes nothing."""

    account: str
    credit: Money
    payment: Payment
    expires_at: datetime | None = None


class Authorize(NamedTuple):
    """Promise ``amount`` of an account, named by id or key, to the toll of one request."""

    account: int | str
    amount: Money
    route: str


class Capture(NamedTuple):
    """Post what a toll used, all of it when ``amount`` is None, and return the rest. Doing it again changes nothing."""

    account: int
    toll: int
    amount: int | None = None


class Void(NamedTuple):
    """Return all that was promised to a toll. Doing it again, or after a capture, changes nothing."""

    account: int
    toll: int


Operation = Fund | Authorize | Capture | Void


# ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Funded(NamedTuple):
    """The account holds the payment's money; ``new`` says whether this operation put it there."""

    account_id: int
    balance: Money
    new: bool


class Authorized(NamedTuple):
    """The promise stands. ``balance`` is what is left to spend after it."""

    toll: int
    account_id: int
    balance: Money


class Resolved(NamedTuple):
    """The pending transfer is resolved; ``phase`` says how, by this operation or an earlier one."""

    phase: Phase


class Reason(StrEnum):
    """Why the ledger refuses an operation."""

    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_TOLL = "unknown_toll"
    INSUFFICIENT = "insufficient_credit"
    REVOKED = "revoked"
    EXPIRED = "credit_expired"
    WRONG_ASSET = "wrong_asset"
    TOO_LARGE = "amount_too_large"


class Refused(NamedTuple):
    """Nothing changed. ``balance`` is what the account can spend, where there is one."""

    reason: Reason
    balance: Money | None = None


Outcome = Funded | Authorized | Resolved | Refused


# ── the book ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Book:
    """The working set of one batch: what was loaded, and the rows that the batch adds."""

    now: datetime
    next_id: int
    accounts: dict[int, Account] = field(default_factory=dict)
    pendings: dict[int, Pending] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    opened: list[Account] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    payments: list[tuple[Payment, int]] = field(default_factory=list)
    _by_key: dict[str, Account] = field(default_factory=dict)

    def add(self, accounts: Iterable[Account]) -> None:
        """Put loaded accounts into the book."""
        for account in accounts:
            self.accounts[account.id] = account
            self._by_key[account.key] = account

    def find(self, account: int | str) -> Account | None:
        """The account of that id or key, if the book holds it."""
        return self.accounts.get(account) if isinstance(account, int) else self._by_key.get(account)

    def allocate_id(self) -> int:
        """The next sequential id; accounts and transfers share one sequence."""
        allocated = self.next_id
        self.next_id += 1
        return allocated

    def open(self, key: str, kind: AccountKind, asset: Asset, expires_at: datetime | None = None) -> Account:
        """The account of that key, opened empty when there is none."""
        account = self._by_key.get(key)
        if account is None:
            account = Account(self.allocate_id(), key, kind, asset, expires_at=expires_at)
            self.add([account])
            self.opened.append(account)
        return account


def revenue_key(asset: Asset) -> str:
    """The key of the account that earns what tolls of this asset cost."""
    return f"revenue:{asset}"


def source_key(rail: str, asset: Asset) -> str:
    """The key of the account that stands for the world outside: what a rail has brought in."""
    return f"source:{rail}:{asset}"


def keys_of(operation: Operation) -> tuple[str, ...]:
    """The account keys to look up for this operation, besides the revenue accounts that every batch needs."""
    match operation:
        case Fund(account=key, credit=credit, payment=payment):
            return (key, source_key(payment.rail, credit.asset))
        case Authorize(account=str(key)):
            return (key,)
        case _:
            return ()


def apply(book: Book, operation: Operation) -> Outcome:
    """Run one operation by the rules of this module. A refused operation leaves the book as it was."""
    if isinstance(operation, Authorize):
        return _authorize(book, operation)
    if isinstance(operation, Capture):
        return _resolve(book, operation.account, operation.toll, "post", operation.amount)
    if isinstance(operation, Void):
        return _resolve(book, operation.account, operation.toll, "void", 0)
    return _fund(book, operation)


def _fund(book: Book, operation: Fund) -> Outcome:
    payment, credit = operation.payment, operation.credit
    known = book.find(operation.account)
    if known is not None and known.asset is not credit.asset:
        return Refused(Reason.WRONG_ASSET, known.balance)
    if payment.spend_key in book.spent:
        if known is None:
            return Refused(Reason.UNKNOWN_ACCOUNT)
        return Funded(known.id, known.balance, new=False)
    source = book.open(source_key(payment.rail, credit.asset), "book", credit.asset)
    if (known.posted if known else 0) + credit.amount > MAX_AMOUNT or source.posted - credit.amount < -MAX_AMOUNT:
        return Refused(Reason.TOO_LARGE, known.balance if known else None)
    account = book.open(operation.account, "payer", credit.asset, operation.expires_at)
    source.posted -= credit.amount
    account.posted += credit.amount
    _journal(book, source.id, account.id, credit.amount, "fund", "post")
    book.spent.add(payment.spend_key)
    book.payments.append((payment, account.id))
    return Funded(account.id, account.balance, new=True)


def _authorize(book: Book, operation: Authorize) -> Outcome:
    account = book.find(operation.account)
    if account is None or account.kind != "payer":
        return Refused(Reason.UNKNOWN_ACCOUNT)
    if account.revoked:
        return Refused(Reason.REVOKED)
    if account.expires_at is not None and account.expires_at <= book.now:
        return Refused(Reason.EXPIRED)
    if account.asset is not operation.amount.asset:
        return Refused(Reason.WRONG_ASSET, account.balance)
    if account.available < operation.amount.amount:
        return Refused(Reason.INSUFFICIENT, account.balance)
    revenue = book.open(revenue_key(account.asset), "book", account.asset)
    account.pending += operation.amount.amount
    toll = _journal(book, account.id, revenue.id, operation.amount.amount, "charge", "pending", route=operation.route)
    book.pendings[toll.id] = Pending(toll)
    return Authorized(toll.id, account.id, account.balance)


def _resolve(book: Book, account_id: int, toll_id: int, phase: Phase, amount: int | None) -> Outcome:
    account, pending = book.accounts.get(account_id), book.pendings.get(toll_id)
    if account is None or pending is None or pending.transfer.debit_account_id != account_id:
        return Refused(Reason.UNKNOWN_TOLL)
    if pending.resolved_by is not None:
        return Resolved(pending.resolved_by)
    held = pending.transfer.amount
    posted = held if amount is None else amount
    if posted > held:
        return Refused(Reason.INSUFFICIENT, account.balance)
    account.pending -= held
    if posted:
        account.posted -= posted
        book.accounts[pending.transfer.credit_account_id].posted += posted
    _journal(
        book,
        account_id,
        pending.transfer.credit_account_id,
        posted,
        "charge",
        phase,
        pending_id=toll_id,
        route=pending.transfer.route,
    )
    book.pendings[toll_id] = Pending(pending.transfer, resolved_by=phase)
    return Resolved(phase)


def _journal(
    book: Book,
    debit: int,
    credit: int,
    amount: int,
    kind: Kind,
    phase: Phase,
    *,
    pending_id: int | None = None,
    route: str | None = None,
) -> Transfer:
    transfer = Transfer(book.allocate_id(), debit, credit, amount, kind, phase, pending_id, route)
    book.transfers.append(transfer)
    return transfer
