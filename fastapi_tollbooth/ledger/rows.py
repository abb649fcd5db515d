"""The ledger's rows as both databases load and write them: which columns, in which order, and the records they make.

Values travel as numbers, texts and None. A moment is written as text, and read as whatever the database made of it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from fastapi_tollbooth.ledger.records import Account, Book, Cap, Charge, Payment, PaymentRecord, PaymentState
from fastapi_tollbooth.money import Asset, Money

Row = tuple[Any, ...]
Write = Callable[[datetime], str]
Read = Callable[[Any], datetime]


_ASSETS = {asset.value: asset for asset in Asset}


def names(columns: Iterable[str]) -> str:
    """Columns as a statement lists them."""
    return ", ".join(f'"{column}"' for column in columns)


def _as_it_is(moment: datetime) -> datetime:
    return moment


# ── accounts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ACCOUNT = ("id", "key", "kind", "asset", "posted", "pending", "revoked", "expires_at")
NEW_ACCOUNT = (*ACCOUNT, "created_at")


def accounts(rows: Iterable[Row], read: Read = _as_it_is) -> Iterator[Account]:
    """The accounts of loaded rows."""
    for id_, key, kind, asset, posted, pending, revoked, expires_at in rows:
        ends = expires_at and read(expires_at)
        yield Account(id_, key, kind, _ASSETS[asset], posted, pending, bool(revoked), ends)


def new_accounts(book: Book, write: Write) -> list[Row]:
    """The rows of the accounts that the batch opened."""
    now = write(book.now)
    return [
        (a.id, a.key, a.kind, a.asset, a.posted, a.pending, a.revoked, a.expires_at and write(a.expires_at), now)
        for a in book.opened
    ]


def changed_expiries(book: Book, write: Write) -> list[Row]:
    """The accounts whose credit ends at another time now."""
    return [(id_, expires_at and write(expires_at)) for id_, expires_at in book.expiries.items()]


# ── tolls ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

CHARGE = """
       t.id, coalesce(r.debit_account_id, t.debit_account_id), coalesce(r.credit_account_id, t.credit_account_id),
       t.amount, t.route, r.phase, coalesce(r.amount, 0), f.amount,
       CASE a.credit_account_id WHEN r.credit_account_id THEN a.amount ELSE -a.amount END
"""
"""The members of a `Charge`, in their order."""

CHARGES = """
  FROM tollbooth_transfer AS t
  LEFT JOIN tollbooth_transfer AS r ON r.toll_id = t.id AND r.kind = 'charge'
  LEFT JOIN tollbooth_transfer AS f ON f.toll_id = t.id AND f.kind = 'refund'
  LEFT JOIN tollbooth_transfer AS a ON a.toll_id = t.id AND a.kind = 'adjust'
 WHERE t.phase = 'pending' AND (t.kind = 'charge' OR r.id IS NOT NULL) AND t.id
"""
"""Where they are; what follows says which."""

CAPPED_TOLL = ("toll_id", "key", "most", "asset")


def charges(rows: Iterable[Row], capped: Iterable[Row]) -> Iterator[tuple[int, Charge]]:
    """The tolls of loaded rows, by their ids, with the caps that they were promised under."""
    caps: defaultdict[int, tuple[Cap, ...]] = defaultdict(tuple)
    for toll, key, most, asset in capped:
        caps[toll] += (Cap(key, Money(most, Asset(asset))),)
    for row in rows:
        yield row[0], Charge._make((*row, caps[row[0]]))


def new_capped_tolls(book: Book) -> list[Row]:
    """The rows that say which tolls of the batch were promised under which caps."""
    return [(charge.toll, cap.key, cap.limit.amount, cap.limit.asset) for charge in book.capped for cap in charge.caps]


USE = ("key", "used", "updated_at")


def changed_uses(book: Book, write: Write) -> list[Row]:
    """What is used now under the caps that the batch is about."""
    now = write(book.now)
    return [(key, book.used[key], now) for key in sorted(book.changed_uses)]


# ── payments ──────────────────────────────────────────────────────────────────────────────────────────────────────────

PAYMENT = """
       p.spend_key, p.rail, p.amount, p.asset, p.payer, p.reference, p.rate, p.expires_at, p.account_id, p.state,
       p.digest, p.toll_id, coalesce(r.phase, c.phase)
"""
"""What `payments` reads."""

PAYMENTS = """
  FROM tollbooth_payment AS p
  LEFT JOIN tollbooth_transfer AS r ON r.toll_id = p.toll_id AND r.kind = 'charge'
  LEFT JOIN tollbooth_transfer AS c ON c.id = p.toll_id AND c.kind = 'charge'
 WHERE p.spend_key
"""

CHANGED_PAYMENT = ("spend_key", "state", "amount", "reference", "rate", "digest", "toll_id", "expires_at", "updated_at")
NEW_PAYMENT = (*CHANGED_PAYMENT, "rail", "account_id", "asset", "payer", "created_at")


def payments(rows: Iterable[Row], read: Read = _as_it_is) -> Iterator[PaymentRecord]:
    """The payments of loaded rows."""
    for spend_key, rail, amount, asset, payer, reference, rate, expires_at, *held in rows:
        account_id, state, digest, toll, delivery = held
        ends = expires_at and read(expires_at)
        payment = Payment(rail, spend_key, amount, Asset(asset), payer, reference, rate, ends, digest)
        yield PaymentRecord(payment, account_id, PaymentState(state), toll, delivery)


def changed_payments(book: Book, write: Write) -> list[Row]:
    """What the batch changed of payments that were there."""
    now = write(book.now)
    return [_changes(book.payments[key], write, now) for key in book.changed_payments]


def new_payments(book: Book, write: Write) -> list[Row]:
    """The rows of the payments that the batch added."""
    now = write(book.now)
    added = [(record, record.payment) for record in map(book.payments.__getitem__, book.new_payments)]
    return [(*_changes(record, write, now), p.rail, record.account_id, p.asset, p.payer, now) for record, p in added]


def _changes(record: PaymentRecord, write: Write, now: str) -> Row:
    p = record.payment
    expires_at = p.expires_at and write(p.expires_at)
    return (p.spend_key, record.state, p.amount, p.reference, p.rate, p.digest, record.toll, expires_at, now)
