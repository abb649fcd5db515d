"""The ledger's statements for PostgreSQL: a batch is two round trips, one to lock and load it, one to write and commit.

The payers of a batch are locked in the order of their ids, so batches of several workers wait for each other and never
form a circle. The service's own books are not locked while a batch is decided, because every batch needs them: they
change by what the batch moved, in the last statement before the commit.

Each batch takes a block of ids from a sequence, after it has its locks. So of two transfers of one account, and of a
promise and what resolves it, the later one has the higher id, whichever workers wrote them.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any, cast

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from fastapi_tollbooth.ledger import rows, schema
from fastapi_tollbooth.ledger.naming import Names
from fastapi_tollbooth.ledger.records import Book, source_key
from fastapi_tollbooth.ledger.tables import ID_BLOCK
from fastapi_tollbooth.money import Asset

_ACCOUNT = rows.names(rows.ACCOUNT)
_LOCK_PAYERS = f"""
SELECT {_ACCOUNT} FROM tollbooth_account
 WHERE (id = ANY(%s::bigint[]) OR "key" = ANY(%s::text[])) AND kind = 'payer'
 ORDER BY id FOR NO KEY UPDATE
"""  # noqa: S608 - our own names
_BOOKS = f"""SELECT {_ACCOUNT} FROM tollbooth_account WHERE "key" = ANY(%s::text[]) AND kind = 'book'"""  # noqa: S608
_CHARGES = f"SELECT {rows.CHARGE} {rows.CHARGES} = ANY(%s::bigint[])"
_PAYERS_OF = "SELECT account_id, rail, asset FROM tollbooth_payment WHERE spend_key = ANY(%s::text[])"
_PAYMENTS = f"SELECT {rows.PAYMENT} {rows.PAYMENTS} = ANY(%s::text[])"
# What is used under a cap belongs to one account, so whoever holds the account's lock holds the cap's.
_USED = """
SELECT "key", used FROM tollbooth_cap
 WHERE "key" = ANY(ARRAY(SELECT unnest(%s::text[]) UNION
                         SELECT "key" FROM tollbooth_capped_toll WHERE toll_id = ANY(%s::bigint[])))
"""
_CAPPED = f"SELECT {rows.names(rows.CAPPED_TOLL)} FROM tollbooth_capped_toll WHERE toll_id = ANY(%s::bigint[])"  # noqa: S608
_BLOCK = "SELECT nextval('tollbooth_id')"

_TYPES = dict.fromkeys(("id", "posted", "pending", "account_id", "amount", "toll_id", "used", "most"), "bigint")
_TYPES |= dict.fromkeys(("expires_at", "created_at", "updated_at"), "timestamptz") | {"revoked": "boolean"}


def _unnested(columns: Sequence[str]) -> str:
    arrays = ", ".join(f"%s::{_TYPES.get(column, 'text')}[]" for column in columns)
    return f"unnest({arrays}) AS r ({rows.names(columns)})"


def _insert(table: str, columns: Sequence[str], key: str) -> str:
    # In the order of the unique keys, so that two workers adding the same ones cannot wait in a circle.
    return f'INSERT INTO {table} ({rows.names(columns)}) SELECT * FROM {_unnested(columns)} ORDER BY "{key}"'  # noqa: S608


def _update(table: str, columns: Sequence[str]) -> str:
    # The first column finds the row.
    key, *others = columns
    values = ", ".join(f"{name} = r.{name}" for name in others)
    return f"UPDATE {table} AS t SET {values} FROM {_unnested(columns)} WHERE t.{key} = r.{key}"  # noqa: S608


_ADD_ACCOUNTS = _insert("tollbooth_account", rows.NEW_ACCOUNT, "key")
_ADD_TRANSFERS = """
INSERT INTO tollbooth_transfer
       (id, debit_account_id, credit_account_id, amount, kind, phase, toll_id, route, created_at)
SELECT id, debit, credit, amount, kind, phase, nullif(toll_id, 0), route, %s
  FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[])
    AS r (id, debit, credit, amount, kind, phase, toll_id, route)
"""
_ADD_PAYMENTS = _insert("tollbooth_payment", rows.NEW_PAYMENT, "spend_key")
_CHANGE_PAYMENTS = _update("tollbooth_payment", rows.CHANGED_PAYMENT)
_CHANGE_PAYERS = _update("tollbooth_account", ("id", "posted", "pending"))
_CHANGE_BOOK = "UPDATE tollbooth_account SET posted = posted + %s, pending = pending + %s WHERE id = %s"
_REVOKE = _update("tollbooth_account", ("id", "revoked"))
_EXPIRE = _update("tollbooth_account", ("id", "expires_at"))
_ADD_CAPPED_TOLLS = _insert("tollbooth_capped_toll", rows.CAPPED_TOLL, "toll_id")
_CHANGE_USES = f"""{_insert("tollbooth_cap", rows.USE, "key")}
    ON CONFLICT ("key") DO UPDATE SET used = excluded.used, updated_at = excluded.updated_at
"""
_NUMBERS = {int, bool, type(None)}

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
BEGIN_ALONE = f"{_BEGIN}; SELECT pg_advisory_xact_lock(7305804402)"
BEGIN_READ, END_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "COMMIT"

# A server that went away without a word is given up after about ten seconds.
_CONNECT = {
    "application_name": "fastapi-tollbooth",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SESSION = (
    "SET jit = off",
    "SET lock_timeout = '10s'",
    # A worker that stops between lock and commit must not hold up the others.
    "SET idle_in_transaction_session_timeout = '30s'",
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)


def engine_for(url: URL) -> Engine:
    """An engine that connects anew each time it is asked; the writer keeps its one connection."""
    arguments = {name: value for name, value in _CONNECT.items() if name not in url.query}
    engine = create_engine(url.set(drivername="postgresql+psycopg"), poolclass=NullPool, connect_args=arguments)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        for statement in _SESSION:
            connection.execute(statement)
        connection.autocommit = False

    return engine


def migrate(connection: Connection) -> None:
    """Bring the tables to this version's revision."""
    schema.upgrade(connection, BEGIN_ALONE)


@contextmanager
def batch(connection: Connection) -> Iterator[None]:
    """A transaction whose statements are sent without waiting for each answer; errors are SQLAlchemy's."""
    failure: BaseException | None = None
    raw = _raw(connection)
    with _translated(connection):
        try:
            with raw.pipeline():
                try:
                    raw.execute(_BEGIN)
                    yield
                    raw.execute("COMMIT")
                except BaseException as error:  # noqa: BLE001 - raised again below
                    # Behind the pipeline's end: it would log as an accident that what follows an error did not run.
                    failure = error
        except psycopg.Error as error:
            raise failure or error from None
        if failure is not None:
            raise failure


def roll_back(connection: Connection) -> None:
    """End the transaction as if it had not been, and with it what the driver believes to have prepared."""
    # Of a statement that was prepared behind a failed one in a pipeline the server knows nothing.
    with _translated(connection):
        _raw(connection).rollback()


@contextmanager
def _translated(connection: Connection) -> Iterator[None]:
    try:
        yield
    except psycopg.DataError:
        # One operation cannot be written; the database is well.
        raise
    except psycopg.IntegrityError as error:
        raise IntegrityError("a batch", None, error) from error
    except psycopg.Error as error:
        # Perhaps this server may no longer write, because another has taken over: connect anew.
        _raw(connection).close()
        raise DBAPIError("a batch", None, error) from error


def version(_connection: Connection) -> int | None:
    """Other workers write at any time what this batch has not locked."""
    return None


def load(connection: Connection, names: Names) -> Book:
    """Lock the payers of these names; a book with them, the service's own books, tolls and payments."""
    execute = _raw(connection).execute
    ids, keys, spend_keys = names.ids, names.keys, _array(names.spend_keys)
    if names.spend_keys:
        # A payment belongs to one account for ever, so whoever holds the account's lock holds the payment's.
        known = execute(_PAYERS_OF, (spend_keys,)).fetchall()
        ids = ids.union(account_id for account_id, _, _ in known)
        keys = keys.union(source_key(rail, Asset(asset)) for _, rail, asset in known)
    keys_, tolls, caps = _array(keys), _array(names.tolls), _array(names.caps)
    payers = execute(_LOCK_PAYERS, (_array(ids), keys_))
    # Each a statement of its own behind the lock, so that it sees what was committed while the lock was waited for.
    books = execute(_BOOKS, (keys_,))
    charges = execute(_CHARGES, (tolls,)) if names.tolls else None
    capped = execute(_CAPPED, (tolls,)) if names.tolls else None
    payments = execute(_PAYMENTS, (spend_keys,)) if names.spend_keys else None
    used = execute(_USED, (caps, tolls)) if names.caps or names.tolls else None
    block = execute(_BLOCK)
    book = Book(datetime.now(UTC), _all(block)[0][0])
    book.add(rows.accounts(chain(_all(payers), _all(books))))
    book.charges.update(rows.charges(_all(charges), _all(capped)))
    book.used.update(dict(_all(used)))
    book.payments.update((record.payment.spend_key, record) for record in rows.payments(_all(payments)))
    return book


def _all(cursor: "psycopg.Cursor[Any] | None") -> list[Any]:
    return [] if cursor is None else cursor.fetchall()


def save(connection: Connection, book: Book) -> None:
    """Write what the batch added, and the balances that it changed."""
    if len(book.opened) + len(book.transfers) > ID_BLOCK:
        raise ValueError(f"a batch that adds more than {ID_BLOCK} rows")
    execute = _raw(connection).execute

    def _write(statement: str, batch: Sequence[rows.Row], *parameters: Any) -> None:
        if batch:
            execute(statement, (*parameters, *map(_array, zip(*batch, strict=True))))

    _write(_ADD_ACCOUNTS, rows.new_accounts(book, datetime.isoformat))
    _write(_ADD_PAYMENTS, rows.new_payments(book, datetime.isoformat))
    _write(_CHANGE_PAYMENTS, rows.changed_payments(book, datetime.isoformat))
    _write(_ADD_TRANSFERS, book.transfers, book.now)
    _write(_REVOKE, list(book.revocations.items()))
    _write(_EXPIRE, rows.changed_expiries(book, datetime.isoformat))
    _write(_CHANGE_USES, rows.changed_uses(book, datetime.isoformat))
    _write(_ADD_CAPPED_TOLLS, rows.new_capped_tolls(book))
    changed = sorted(book.changed(), key=lambda account: account.id)
    _write(_CHANGE_PAYERS, [(payer.id, payer.posted, payer.pending) for payer in changed if payer.kind == "payer"])
    for account in changed:
        if account.kind == "book":
            execute(_CHANGE_BOOK, (*book.change_of(account), account.id))


def _array(column: Collection[Any]) -> str:
    # Written out here because the driver, which must be ready for nested lists of anything, takes ten times as long.
    if _NUMBERS.issuperset(map(type, column)):
        return f"{{{str(list(column))[1:-1].replace('None', 'NULL')}}}"
    return f"{{{','.join(map(_element, column))}}}"


@lru_cache(maxsize=1_024)  # kinds, phases and routes are few, and most of what a batch writes
def _element(text: str | None) -> str:
    return "NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _raw(connection: Connection) -> "psycopg.Connection[tuple[Any, ...]]":
    # Pipelines are the driver's own: its cursors must not be asked what a statement returned before it has run.
    return cast("psycopg.Connection[tuple[Any, ...]]", connection.connection.driver_connection)
