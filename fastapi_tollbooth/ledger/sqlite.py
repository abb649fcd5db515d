"""The ledger's statements for SQLite: one to load a batch and one per table to write it.

Each statement that is stepped through row by row gives up the interpreter's lock once a row, and a busy event loop is
slow to give it back. So whole batches travel as JSON and every statement is a single step.
"""

import json
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from fastapi_tollbooth.ledger import schema
from fastapi_tollbooth.ledger.operations import Names
from fastapi_tollbooth.ledger.records import Account, Book, Charge, Payment, PaymentRecord, PaymentState, source_key
from fastapi_tollbooth.money import Asset

_LOAD = """
SELECT
    max((SELECT coalesce(max(id), 0) FROM tollbooth_account), (SELECT coalesce(max(id), 0) FROM tollbooth_transfer)),
    (SELECT json_group_array(json_array(id, "key", kind, asset, posted, pending, revoked, expires_at))
       FROM tollbooth_account
      WHERE id IN (SELECT value FROM json_each(?)) OR "key" IN (SELECT value FROM json_each(?))),
    (SELECT json_group_array(json_array(
            t.id, coalesce(r.debit_account_id, t.debit_account_id), coalesce(r.credit_account_id, t.credit_account_id),
            t.amount, t.route, r.phase, coalesce(r.amount, 0), f.amount,
            CASE a.credit_account_id WHEN r.credit_account_id THEN a.amount ELSE -a.amount END))
       FROM json_each(?) AS j
       JOIN tollbooth_transfer AS t ON t.id = j.value AND t.phase = 'pending'
       LEFT JOIN tollbooth_transfer AS r ON r.toll_id = t.id AND r.kind = 'charge'
       LEFT JOIN tollbooth_transfer AS f ON f.toll_id = t.id AND f.kind = 'refund'
       LEFT JOIN tollbooth_transfer AS a ON a.toll_id = t.id AND a.kind = 'adjust'
      WHERE t.kind = 'charge' OR r.id IS NOT NULL)
"""


def _insert(table: str, *columns: str) -> str:
    values = ", ".join(f"json_extract(value, '$[{index}]')" for index in range(len(columns)))
    names = ", ".join(f'"{column}"' for column in (*columns, "created_at"))
    return f"INSERT INTO {table} ({names}) SELECT {values}, ? FROM json_each(?)"  # noqa: S608 - our own names


_ADD_ACCOUNTS = _insert("tollbooth_account", "id", "key", "kind", "asset", "posted", "pending", "revoked", "expires_at")
_TRANSFER_COLUMNS = 8
_ADD_PAYMENTS = _insert(
    "tollbooth_payment",
    "spend_key",
    "rail",
    "state",
    "account_id",
    "amount",
    "asset",
    "payer",
    "reference",
    "rate",
    "toll_id",
    "expires_at",
    "updated_at",
)
_CHANGE_ACCOUNTS = """
UPDATE tollbooth_account
   SET posted = json_extract(j.value, '$[1]'), pending = json_extract(j.value, '$[2]')
  FROM json_each(?) AS j
 WHERE tollbooth_account.id = json_extract(j.value, '$[0]')
"""

_LOAD_PAYMENTS = """
SELECT json_group_array(json_array(
           p.spend_key, p.rail, p.amount, p.asset, p.payer, p.reference, p.rate, p.expires_at, p.account_id, p.state,
           p.toll_id, coalesce(r.phase, c.phase)))
  FROM tollbooth_payment AS p
  LEFT JOIN tollbooth_transfer AS r ON r.toll_id = p.toll_id AND r.kind = 'charge'
  LEFT JOIN tollbooth_transfer AS c ON c.id = p.toll_id AND c.kind = 'charge'
 WHERE p.spend_key IN (SELECT value FROM json_each(?))
"""
_CHANGE_PAYMENTS = """
UPDATE tollbooth_payment
   SET state = json_extract(j.value, '$[1]'), amount = json_extract(j.value, '$[2]'),
       reference = json_extract(j.value, '$[3]'), rate = json_extract(j.value, '$[4]'),
       toll_id = json_extract(j.value, '$[5]'), expires_at = json_extract(j.value, '$[6]'), updated_at = ?
  FROM json_each(?) AS j
 WHERE tollbooth_payment.spend_key = json_extract(j.value, '$[0]')
"""
_REVOKE = """
UPDATE tollbooth_account SET revoked = json_extract(j.value, '$[1]')
  FROM json_each(?) AS j
 WHERE tollbooth_account.id = json_extract(j.value, '$[0]')
"""

_EXPIRE = """
UPDATE tollbooth_account SET expires_at = json_extract(j.value, '$[1]')
  FROM json_each(?) AS j
 WHERE tollbooth_account.id = json_extract(j.value, '$[0]')
"""
_LOAD_USED = """
SELECT json_group_array(json_array("key", used)) FROM tollbooth_cap WHERE "key" IN (SELECT value FROM json_each(?))
"""
_CHANGE_USED = """
INSERT INTO tollbooth_cap ("key", used, updated_at)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), ? FROM json_each(?) WHERE true
    ON CONFLICT ("key") DO UPDATE SET used = excluded.used, updated_at = excluded.updated_at
"""

BEGIN = "BEGIN IMMEDIATE"
BEGIN_ALONE = BEGIN
BEGIN_READ, END_READ = "BEGIN", "ROLLBACK"


@cache
def _add_transfers(size: int) -> str:
    # Bound values are twice as fast as JSON, and these rows are most of a batch. Batches are padded to a power of two,
    # so that SQLite sees few different statements and keeps them all prepared.
    row = f"({', '.join('?' * _TRANSFER_COLUMNS)})"
    columns = ", ".join(f"column{index + 1}" for index in range(_TRANSFER_COLUMNS))
    return (
        "INSERT INTO tollbooth_transfer "  # noqa: S608 - our own names
        "(id, debit_account_id, credit_account_id, amount, kind, phase, toll_id, route, created_at) "
        f"SELECT {columns}, ? FROM (VALUES {', '.join([row] * size)}) WHERE column1 IS NOT NULL"
    )


def engine_for(url: URL) -> Engine:
    """An engine with one connection, used by one thread at a time: the writer's."""
    engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False, "timeout": 10})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def migrate(connection: Connection) -> None:
    """Bring the tables to this version's revision. Whoever calls holds the lock among processes."""
    if schema.revision(connection) == schema.HEAD:
        return
    # A table that others refer to can only be made anew while nobody looks at references.
    connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    try:
        connection.exec_driver_sql(BEGIN)
        try:
            schema.upgrade(connection)
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
    finally:
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def batching(_connection: Connection) -> AbstractContextManager[None]:
    """Nothing: the database is in this process."""
    return nullcontext()


def roll_back(connection: Connection) -> None:
    """End the transaction as if it had not been."""
    connection.exec_driver_sql("ROLLBACK")


def load(connection: Connection, names: Names) -> Book:
    """A book with the accounts, tolls and payments of these names, and the accounts behind the payments."""
    payments = _payments(connection, names.spend_keys) if names.spend_keys else []
    ids = names.ids.union(record.account_id for record in payments)
    keys = names.keys.union(source_key(record.payment.rail, record.payment.asset) for record in payments)
    parameters = tuple(json.dumps(list(part)) for part in (ids, keys, names.tolls))
    last_id, *parts = connection.exec_driver_sql(_LOAD, parameters).one()
    accounts, charges = map(json.loads, parts)
    book = Book(datetime.now(UTC), last_id + 1)
    book.add(
        Account(id_, key, kind, Asset(asset), posted, pending, bool(revoked), _moment(expires_at))
        for id_, key, kind, asset, posted, pending, revoked, expires_at in accounts
    )
    book.charges.update((row[0], Charge(*row)) for row in charges)
    if names.caps:
        used = connection.exec_driver_sql(_LOAD_USED, (json.dumps(list(names.caps)),)).scalar_one()
        book.used.update(json.loads(used))
    book.payments.update((record.payment.spend_key, record) for record in payments)
    return book


def _payments(connection: Connection, spend_keys: Collection[str]) -> list[PaymentRecord]:
    rows = json.loads(connection.exec_driver_sql(_LOAD_PAYMENTS, (json.dumps(list(spend_keys)),)).scalar_one())
    return [
        PaymentRecord(
            Payment(rail, spend_key, amount, Asset(asset), payer, reference, rate, _moment(expires_at)),
            account_id,
            PaymentState(state),
            toll,
            delivery,
        )
        for spend_key, rail, amount, asset, payer, reference, rate, expires_at, account_id, state, toll, delivery in (
            rows
        )
    ]


def save(connection: Connection, book: Book) -> None:
    """Write what the batch added, and the balances that it changed."""
    now = _text(book.now)

    def _write(statement: str, rows: Sequence[tuple[Any, ...]], *parameters: Any) -> None:
        if rows:
            connection.exec_driver_sql(statement, (*parameters, json.dumps(rows)))

    _write(
        _ADD_ACCOUNTS,
        [(a.id, a.key, a.kind, a.asset, a.posted, a.pending, a.revoked, _text(a.expires_at)) for a in book.opened],
        now,
    )
    _write(_CHANGE_ACCOUNTS, [(account.id, account.posted, account.pending) for account, _, _ in book.changes()])
    _write(_REVOKE, list(book.revocations.items()))
    _write(_EXPIRE, [(id_, _text(expires_at)) for id_, expires_at in book.expiries.items()])
    _write(_CHANGE_USED, [(key, book.used[key]) for key in sorted(book.new_uses)], now)
    if book.transfers:
        size = 1 << (len(book.transfers) - 1).bit_length()
        padding = (None,) * (_TRANSFER_COLUMNS * (size - len(book.transfers)))
        connection.exec_driver_sql(_add_transfers(size), (now, *chain.from_iterable(book.transfers), *padding))
    _write(_ADD_PAYMENTS, [_new_payment(book.payments[key], now) for key in book.new_payments], now)
    _write(_CHANGE_PAYMENTS, [_changed_payment(book.payments[key]) for key in book.changed_payments], now)


def _new_payment(record: PaymentRecord, now: str | None) -> tuple[Any, ...]:
    p = record.payment
    head = (p.spend_key, p.rail, record.state, record.account_id, p.amount, p.asset, p.payer, p.reference, p.rate)
    return (*head, record.toll, _text(p.expires_at), now)


def _changed_payment(record: PaymentRecord) -> tuple[Any, ...]:
    p = record.payment
    return (p.spend_key, record.state, p.amount, p.reference, p.rate, record.toll, _text(p.expires_at))


def _text(moment: datetime | None) -> str | None:
    # The form in which SQLAlchemy's DateTime reads and writes on SQLite.
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)
