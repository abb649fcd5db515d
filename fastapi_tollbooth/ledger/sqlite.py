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
from fastapi_tollbooth.ledger.book import Account, Book, Pending, Transfer
from fastapi_tollbooth.money import Asset

_LOAD = """
SELECT
    max((SELECT coalesce(max(id), 0) FROM tollbooth_account), (SELECT coalesce(max(id), 0) FROM tollbooth_transfer)),
    (SELECT json_group_array(json_array(id, "key", kind, asset, posted, pending, revoked, expires_at))
       FROM tollbooth_account
      WHERE id IN (SELECT value FROM json_each(?)) OR "key" IN (SELECT value FROM json_each(?))),
    (SELECT json_group_array(json_array(t.id, t.debit_account_id, t.credit_account_id, t.amount, t.route, r.phase))
       FROM json_each(?) AS j
       JOIN tollbooth_transfer AS t ON t.id = j.value AND t.phase = 'pending'
       LEFT JOIN tollbooth_transfer AS r ON r.pending_id = t.id),
    (SELECT json_group_array(spend_key) FROM tollbooth_payment WHERE spend_key IN (SELECT value FROM json_each(?)))
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
)
_CHANGE_ACCOUNTS = """
UPDATE tollbooth_account
   SET posted = json_extract(j.value, '$[1]'), pending = json_extract(j.value, '$[2]')
  FROM json_each(?) AS j
 WHERE tollbooth_account.id = json_extract(j.value, '$[0]')
"""

BEGIN = "BEGIN IMMEDIATE"
BEGIN_ALONE = BEGIN
BEGIN_READ = "BEGIN"


@cache
def _add_transfers(size: int) -> str:
    # Bound values are twice as fast as JSON, and these rows are most of a batch. Batches are padded to a power of two,
    # so that SQLite sees few different statements and keeps them all prepared.
    row = f"({', '.join('?' * _TRANSFER_COLUMNS)})"
    columns = ", ".join(f"column{index + 1}" for index in range(_TRANSFER_COLUMNS))
    return (
        "INSERT INTO tollbooth_transfer "  # noqa: S608 - our own names
        "(id, debit_account_id, credit_account_id, amount, kind, phase, pending_id, route, created_at) "
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


def load(
    connection: Connection,
    ids: Collection[int],
    keys: Collection[str],
    tolls: Collection[int],
    spend_keys: Collection[str],
) -> Book:
    """A book with the accounts, pending transfers and spent payments of these names."""
    names = tuple(json.dumps(list(part)) for part in (ids, keys, tolls, spend_keys))
    last_id, *parts = connection.exec_driver_sql(_LOAD, names).one()
    accounts, pendings, spent = map(json.loads, parts)
    book = Book(datetime.now(UTC), last_id + 1, spent=set(spent))
    book.add(
        Account(id_, key, kind, Asset(asset), posted, pending, bool(revoked), _moment(expires_at))
        for id_, key, kind, asset, posted, pending, revoked, expires_at in accounts
    )
    for id_, debit, credit, amount, route, resolved in pendings:
        transfer = Transfer(id_, debit, credit, amount, "charge", "pending", None, route)
        book.pendings[id_] = Pending(transfer, resolved)
    return book


def save(connection: Connection, book: Book, changed: Collection[Account]) -> None:
    """Write what the batch added, and the balances that it changed."""
    now = _text(book.now)

    def add(statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            connection.exec_driver_sql(statement, (now, json.dumps(rows)))

    add(
        _ADD_ACCOUNTS,
        [(a.id, a.key, a.kind, a.asset, a.posted, a.pending, a.revoked, _text(a.expires_at)) for a in book.opened],
    )
    if changed:
        balances = json.dumps([(account.id, account.posted, account.pending) for account in changed])
        connection.exec_driver_sql(_CHANGE_ACCOUNTS, (balances,))
    size = 1 << (len(book.transfers) - 1).bit_length()
    padding = (None,) * (_TRANSFER_COLUMNS * (size - len(book.transfers)))
    connection.exec_driver_sql(_add_transfers(size), (now, *chain.from_iterable(book.transfers), *padding))
    add(
        _ADD_PAYMENTS,
        [
            (p.spend_key, p.rail, "settled", account, p.amount, p.asset, p.payer, p.reference, p.rate)
            for p, account in book.payments
        ],
    )


def _text(moment: datetime | None) -> str | None:
    # The form in which SQLAlchemy's DateTime reads and writes on SQLite.
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)
