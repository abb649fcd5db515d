"""What the ledger is made of, and the working set of one batch. Pure.

Every transfer takes ``amount`` from its debit account and gives it to its credit account, so the posted balances of all
accounts of one asset always sum to zero. What a payer has is ``posted``; what of it is promised to tolls that are still
running is ``pending``; what can be spent is the difference, and it never falls below zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Literal, NamedTuple

from fastapi_tollbooth.money import Asset, Money

Kind = Literal["fund", "charge", "refund", "adjust"]
"""Why money moved. An adjustment corrects a charge to what it really cost, once that is known."""

Phase = Literal["pending", "post", "void"]
"""What a transfer does to the balances: promise, settle (a promise, where there was one), or take a promise back."""

AccountKind = Literal["payer", "book"]

GRANT = "grant"
"""The rail of credit that the owner gave: its payments say who got what, and its source account how much in all."""
"""Payers may not fall below zero. Books are the service's own side: money received and money earned."""


class PaymentState(StrEnum):
    """How far an external payment has come.

    ``CLAIMED``: one request works for it. ``SETTLING``: somebody outside was asked to move the money. ``UNKNOWN``: they
    did not answer. ``SETTLED``: the money is here. ``RELEASED`` and ``FAILED``: it is not and nobody asks for it, so it
    may be claimed again; the second because it was refused.
    """

    CLAIMED = "claimed"
    SETTLING = "settling"
    UNKNOWN = "unknown"
    SETTLED = "settled"
    RELEASED = "released"
    FAILED = "failed"


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
    """One row of the append-only journal, written at its book's ``now``.

    A promise has 0 for its ``toll_id``: its own id is the toll's. Everything that follows from it carries that id, at
    most one transfer of each kind.
    """

    id: int
    debit_account_id: int
    credit_account_id: int
    amount: int
    kind: Kind
    phase: Phase
    toll_id: int
    route: str | None


class Cap(NamedTuple):
    """At most ``limit`` may be promised and spent by all tolls that are taken under this key."""

    key: str
    limit: Money


class Charge(NamedTuple):
    """What the journal says of one toll: what was promised, and what has become of it.

    ``adjusted`` is signed: above zero when the payer was charged more afterwards. What it costs, or may still cost,
    counts under its ``caps``.
    """

    toll: int
    account_id: int
    revenue_id: int
    held: int
    route: str | None
    resolved_by: Phase | None = None
    posted: int = 0
    refunded: int | None = None
    adjusted: int | None = None
    caps: tuple[Cap, ...] = ()

    @property
    def earned(self) -> int:
        """What the toll has cost so far, corrections included."""
        return self.posted + (self.adjusted or 0) - (self.refunded or 0)


@dataclass(frozen=True, slots=True)
class Payment:
    """One external payment. ``spend_key`` is unique for ever: the same money never funds twice.

    ``expires_at`` is when the payer's promise of it lapses, for payments that are claimed before they are settled.
    ``digest`` is that of the credential that it was claimed with, where only whoever has that may use what is owed.
    """

    rail: str
    spend_key: str
    amount: int
    asset: Asset
    payer: str
    reference: str | None = None
    rate: str | None = None
    expires_at: datetime | None = None
    digest: str | None = None


@dataclass(slots=True)
class PaymentRecord:
    """A payment as the ledger holds it. ``delivery`` says how the last toll that it paid for ended, if it has ended."""

    payment: Payment
    account_id: int
    state: PaymentState
    toll: int | None = None
    delivery: Phase | None = None


@dataclass(slots=True)
class Book:
    """The working set of one batch: what was loaded, and the rows that the batch adds or changes."""

    now: datetime
    next_id: int
    accounts: dict[int, Account] = field(default_factory=dict)
    charges: dict[int, Charge] = field(default_factory=dict)
    payments: dict[str, PaymentRecord] = field(default_factory=dict)
    opened: list[Account] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    new_payments: list[str] = field(default_factory=list)
    changed_payments: set[str] = field(default_factory=set)
    revocations: dict[int, bool] = field(default_factory=dict)
    expiries: dict[int, datetime | None] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    changed_uses: set[str] = field(default_factory=set)
    capped: list[Charge] = field(default_factory=list)
    _loaded: dict[int, tuple[int, int]] = field(default_factory=dict)
    _by_key: dict[str, Account] = field(default_factory=dict)

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.transfers or self.changed_payments or self.revocations or self.opened)

    def add(self, accounts: Iterable[Account]) -> None:
        """Put loaded accounts into the book."""
        found = list(accounts)
        self.accounts.update({account.id: account for account in found})
        self._by_key.update({account.key: account for account in found})
        self._loaded.update({account.id: (account.posted, account.pending) for account in found})

    def changed(self) -> list[Account]:
        """The loaded accounts whose balances changed."""
        accounts = self.accounts
        return [a for id_, before in self._loaded.items() if before != ((a := accounts[id_]).posted, a.pending)]

    def change_of(self, account: Account) -> tuple[int, int]:
        """What was added to posted and to pending of an account that was loaded."""
        posted, pending = self._loaded[account.id]
        return account.posted - posted, account.pending - pending

    def find(self, account: int | str) -> Account | None:
        """The account of that id or key, if the book holds it."""
        return self.accounts.get(account) if isinstance(account, int) else self._by_key.get(account)

    def open(self, key: str, kind: AccountKind, asset: Asset, expires_at: datetime | None = None) -> Account:
        """The account of that key, opened empty when there is none."""
        account = self._by_key.get(key)
        if account is None:
            account = Account(self.next_id, key, kind, asset, expires_at=expires_at)
            self.next_id += 1
            self.accounts[account.id] = self._by_key[key] = account
            self.opened.append(account)
        return account

    def write(
        self,
        debit: int,
        credit: int,
        amount: int,
        kind: Kind,
        phase: Phase,
        toll_id: int = 0,
        route: str | None = None,
    ) -> int:
        """Add a transfer to the journal; its id. Balances are the caller's to move."""
        id_ = self.next_id
        self.next_id = id_ + 1
        self.transfers.append(Transfer(id_, debit, credit, amount, kind, phase, toll_id, route))
        return id_

    def left(self, cap: Cap) -> int:
        """What may still be promised and spent under a cap."""
        return max(0, cap.limit.amount - self.used.get(cap.key, 0))

    def use(self, caps: Iterable[Cap], amount: int) -> None:
        """Count what is promised or spent under caps; below zero, what is given back."""
        for key, _ in caps:
            self.used[key] = max(0, self.used.get(key, 0) + amount)
            self.changed_uses.add(key)

    def record(self, payment: PaymentRecord) -> None:
        """Put a new payment into the book, or mark a known one as changed."""
        spend_key = payment.payment.spend_key
        if spend_key not in self.payments:
            self.payments[spend_key] = payment
            self.new_payments.append(spend_key)
        elif spend_key not in self.new_payments:
            self.changed_payments.add(spend_key)


@cache
def revenue_key(asset: Asset) -> str:
    """The key of the account that earns what tolls of this asset cost."""
    return f"revenue:{asset}"


def source_key(rail: str, asset: Asset) -> str:
    """The key of the account that stands for the world outside: what a rail has brought in."""
    return f"source:{rail}:{asset}"
