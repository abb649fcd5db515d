"""The ledger's statements for SQLite: one to load a batch and one per table to write it.

Each statement that is stepped through row by row gives up the interpreter's lock once a row, and a busy event loop is
slow to give it back. So whole batches travel as JSON, or as values of one statement, and every statement is a single
step. They go past SQLAlchemy, whose part in each would take longer than SQLite's.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, lru_cache
from itertools import chain
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.pool import StaticPool

from fastapi_tollbooth.ledger import rows, schema
from fastapi_tollbooth.ledger.naming import Names
from fastapi_tollbooth.ledger.records import Book, PaymentRecord, source_key

_LOAD = f"""
SELECT
    max((SELECT coalesce(max(id), 0) FROM tollbooth_account), (SELECT coalesce(max(id), 0) FROM tollbooth_transfer)),
    (SELECT json_group_array(json_array({rows.names(rows.ACCOUNT)}))
       FROM tollbooth_account
      WHERE id IN (SELECT value FROM json_each(?)) OR "key" IN (SELECT value FROM json_each(?))),
    (SELECT json_group_array(json_array({rows.CHARGE})) {rows.CHARGES} IN (SELECT value FROM json_each(?))),
    (SELECT json_group_array(json_array({rows.names(rows.CAPPED_TOLL)}))
       FROM tollbooth_capped_toll WHERE toll_id IN (SELECT value FROM json_each(?)))
"""  # noqa: S608 - our own names
_LOAD_PAYMENTS = f"""
SELECT json_group_array(json_array({rows.PAYMENT})) {rows.PAYMENTS} IN (SELECT value FROM json_each(?))
"""  # noqa: S608
_LOAD_USED = """
SELECT json_group_array(json_array("key", used)) FROM tollbooth_cap WHERE "key" IN (SELECT value FROM json_each(?))
"""


def _members(columns: Sequence[str]) -> str:
    return ", ".join(f"json_extract(value, '$[{index}]')" for index in range(len(columns)))


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({rows.names(columns)}) SELECT {_members(columns)} FROM json_each(?)"  # noqa: S608


def _update(table: str, columns: Sequence[str]) -> str:
    # The first column finds the row.
    key, *others = columns
    values = ", ".join(f"{name} = json_extract(j.value, '$[{index}]')" for index, name in enumerate(others, 1))
    where = f"{table}.{key} = json_extract(j.value, '$[0]')"
    return f"UPDATE {table} SET {values} FROM json_each(?) AS j WHERE {where}"  # noqa: S608


_ADD_ACCOUNTS = _insert("tollbooth_account", rows.NEW_ACCOUNT)
_ADD_PAYMENTS = _insert("tollbooth_payment", rows.NEW_PAYMENT)
_CHANGE_PAYMENTS = _update("tollbooth_payment", rows.CHANGED_PAYMENT)
_REVOKE = _update("tollbooth_account", ("id", "revoked"))
_EXPIRE = _update("tollbooth_account", ("id", "expires_at"))
_ADD_CAPPED_TOLLS = _insert("tollbooth_capped_toll", rows.CAPPED_TOLL)
_CHANGE_USES = f"""{_insert("tollbooth_cap", rows.USE)} WHERE true
    ON CONFLICT ("key") DO UPDATE SET used = excluded.used, updated_at = excluded.updated_at
"""

BEGIN_ALONE = "BEGIN IMMEDIATE"
BEGIN_READ, END_READ = "BEGIN", "ROLLBACK"


# Bound values are twice as fast as JSON, and what follows is most of a batch. Batches are padded to a power of two, so
# that SQLite sees few different statements and keeps them all prepared. No row has 0 for its id.


@cache
def _add_transfers(size: int) -> str:
    return (
        "INSERT INTO tollbooth_transfer "  # noqa: S608 - our own names
        "(id, debit_account_id, credit_account_id, amount, kind, phase, toll_id, route, created_at) "
        "SELECT column1, column2, column3, column4, column5, column6, nullif(column7, 0), column8, ? "
        f"FROM {_bound(8, size)} WHERE column1 <> 0"
    )


@cache
def _change_accounts(size: int) -> str:
    return (
        "UPDATE tollbooth_account SET posted = column2, pending = column3 "  # noqa: S608 - our own names
        f"FROM {_bound(3, size)} WHERE tollbooth_account.id = column1"
    )


def _bound(columns: int, size: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"(VALUES {', '.join([row] * size)})"


def _padded(size: int, batch: Sequence[Sequence[Any]]) -> Iterable[Any]:
    # With numbers: the driver looks up how to bind whatever is neither a number nor a text, None included, each time.
    return chain(chain.from_iterable(batch), (0,) * (len(batch[0]) * (size - len(batch))))


def _size(batch: Sequence[Any]) -> int:
    return 1 << (len(batch) - 1).bit_length()


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
        schema.upgrade(connection, BEGIN_ALONE)
    finally:
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")


@contextmanager
def batch(connection: Connection) -> Iterator[None]:
    """The transaction of a batch; errors are SQLAlchemy's, as everywhere else."""
    execute = _raw(connection).execute
    try:
        execute("BEGIN IMMEDIATE")
        yield
        execute("COMMIT")
    except sqlite3.DataError:
        # One operation cannot be written; the database is well.
        raise
    except sqlite3.IntegrityError as error:
        raise IntegrityError("a batch", None, error) from error
    except sqlite3.Error as error:
        raise OperationalError("a batch", None, error) from error


def roll_back(connection: Connection) -> None:
    """End the transaction as if it had not been."""
    connection.exec_driver_sql("ROLLBACK")


def version(connection: Connection) -> int | None:
    """A number that changes when another connection has written (https://sqlite.org/pragma.html#pragma_data_version)."""
    (number,) = _raw(connection).execute("PRAGMA data_version").fetchone()
    return int(number)


def load(connection: Connection, names: Names) -> Book:
    """A book with the accounts, tolls and payments of these names, and the accounts behind the payments."""
    payments = _payments(connection, names.spend_keys) if names.spend_keys else []
    ids = names.ids.union(record.account_id for record in payments)
    keys = names.keys.union(source_key(record.payment.rail, record.payment.asset) for record in payments)
    parameters = tuple(json.dumps(list(part)) for part in (ids, keys, names.tolls, names.tolls))
    execute = _raw(connection).execute
    last_id, *parts = execute(_LOAD, parameters).fetchone()
    accounts, charges, capped = map(json.loads, parts)
    book = Book(datetime.now(UTC), last_id + 1)
    book.add(rows.accounts(accounts, _moment))
    book.charges.update(rows.charges(charges, capped))
    caps = names.caps.union(key for _, key, *_ in capped)
    if caps:
        (used,) = execute(_LOAD_USED, (json.dumps(list(caps)),)).fetchone()
        book.used.update(json.loads(used))
    book.payments.update((record.payment.spend_key, record) for record in payments)
    return book


def _payments(connection: Connection, spend_keys: Collection[str]) -> list[PaymentRecord]:
    (found,) = _raw(connection).execute(_LOAD_PAYMENTS, (json.dumps(list(spend_keys)),)).fetchone()
    return list(rows.payments(json.loads(found), _moment))


def save(connection: Connection, book: Book) -> None:
    """Write what the batch added, and the balances that it changed."""

    execute = _raw(connection).execute

    def _write(statement: str, batch: Sequence[rows.Row]) -> None:
        if batch:
            execute(statement, (json.dumps(batch),))

    now = _text(book.now)
    _write(_ADD_ACCOUNTS, rows.new_accounts(book, _text))
    changed = [(account.id, account.posted, account.pending) for account in book.changed()]
    if changed:
        size = _size(changed)
        execute(_change_accounts(size), (*_padded(size, changed),))
    _write(_REVOKE, list(book.revocations.items()))
    _write(_EXPIRE, rows.changed_expiries(book, _text))
    _write(_CHANGE_USES, rows.changed_uses(book, _text))
    _write(_ADD_CAPPED_TOLLS, rows.new_capped_tolls(book))
    if book.transfers:
        size = _size(book.transfers)
        execute(_add_transfers(size), (now, *_padded(size, book.transfers)))
    _write(_ADD_PAYMENTS, rows.new_payments(book, _text))
    _write(_CHANGE_PAYMENTS, rows.changed_payments(book, _text))


@lru_cache(maxsize=64)  # most of what a batch writes is of the same moment
def _text(moment: datetime) -> str:
    # The form in which SQLAlchemy's DateTime reads and writes on SQLite.
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _raw(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.driver_connection)
