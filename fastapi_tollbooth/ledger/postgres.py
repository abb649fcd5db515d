"""The ledger's statements for PostgreSQL: a batch is two round trips, one to lock and load it, one to write and commit.

The payers of a batch are locked in the order of their ids, so batches of several workers wait for each other and never
form a circle. The service's own books are not locked while a batch is decided, because every batch needs them: they
change by what the batch moved, in the last statement before the commit.

Each batch takes a block of ids from a sequence, after it has its locks. So of two transfers of one account, and of a
promise and what resolves it, the later one has the higher id, whichever workers wrote them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from typing import Any, cast

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from fastapi_tollbooth.ledger import schema
from fastapi_tollbooth.ledger.book import Account, Book, Pending, Transfer
from fastapi_tollbooth.ledger.tables import ID_BLOCK
from fastapi_tollbooth.money import Asset

_COLUMNS = 'id, "key", kind, asset, posted, pending, revoked, expires_at'
_LOCK_PAYERS = f"""
SELECT {_COLUMNS} FROM tollbooth_account
 WHERE (id = ANY(%s::bigint[]) OR "key" = ANY(%s::text[])) AND kind = 'payer'
 ORDER BY id FOR NO KEY UPDATE
"""  # noqa: S608 - our own names
_BOOKS = f"""SELECT {_COLUMNS} FROM tollbooth_account WHERE "key" = ANY(%s::text[]) AND kind = 'book'"""  # noqa: S608
_PENDINGS = """
SELECT t.id, t.debit_account_id, t.credit_account_id, t.amount, t.route, r.phase
  FROM tollbooth_transfer AS t
  LEFT JOIN tollbooth_transfer AS r ON r.pending_id = t.id
 WHERE t.id = ANY(%s::bigint[]) AND t.phase = 'pending'
"""
_SPENT = "SELECT spend_key FROM tollbooth_payment WHERE spend_key = ANY(%s::text[])"
_BLOCK = "SELECT nextval('tollbooth_id')"

# Rows are added in the order of their unique keys, so that two workers adding the same ones cannot wait in a circle.
_ADD_ACCOUNTS = f"""
INSERT INTO tollbooth_account ({_COLUMNS}, created_at)
SELECT r.*, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::boolean[],
                           %s::timestamptz[]) AS r ORDER BY 2
"""  # noqa: S608 - our own names
_ADD_TRANSFERS = """
INSERT INTO tollbooth_transfer
       (id, debit_account_id, credit_account_id, amount, kind, phase, pending_id, route, created_at)
SELECT r.*, %s FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[],
                           %s::bigint[], %s::text[]) AS r
"""
_ADD_PAYMENTS = """
INSERT INTO tollbooth_payment (spend_key, rail, state, account_id, amount, asset, payer, reference, rate, created_at)
SELECT r.*, %s FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::text[],
                           %s::text[], %s::text[]) AS r ORDER BY 1
"""
_CHANGE_PAYERS = """
UPDATE tollbooth_account AS a SET posted = r.posted, pending = r.pending
  FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS r (id, posted, pending) WHERE a.id = r.id
"""
_CHANGE_BOOK = "UPDATE tollbooth_account SET posted = posted + %s WHERE id = %s"

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
BEGIN_ALONE = f"{BEGIN}; SELECT pg_advisory_xact_lock(7305804402)"
BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

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
    """Bring the tables to this version's revision, in one transaction: all of it happens, or nothing."""
    connection.exec_driver_sql(BEGIN_ALONE)
    try:
        schema.upgrade(connection)
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise


@contextmanager
def batching(connection: Connection) -> Iterator[None]:
    """Send what is executed inside without waiting for each answer; errors are SQLAlchemy's, as everywhere else."""
    try:
        with _raw(connection).pipeline():
            yield
    except psycopg.DataError:
        # One operation cannot be written; the database is well.
        raise
    except psycopg.IntegrityError as error:
        raise IntegrityError("a batch", None, error) from error
    except psycopg.Error as error:
        raise DBAPIError("a batch", None, error) from error


def load(
    connection: Connection,
    ids: Collection[int],
    keys: Collection[str],
    tolls: Collection[int],
    spend_keys: Collection[str],
) -> Book:
    """Lock the payers of these names; a book with them, the books, pending transfers and spent payments."""
    execute = _raw(connection).execute
    names = list(keys)
    payers = execute(_LOCK_PAYERS, (list(ids), names))
    # Each a statement of its own behind the lock, so that it sees what was committed while the lock was waited for.
    books = execute(_BOOKS, (names,))
    pendings = execute(_PENDINGS, (list(tolls),)) if tolls else None
    spent = execute(_SPENT, (list(spend_keys),)) if spend_keys else None
    ((first_id,),) = execute(_BLOCK)
    book = Book(datetime.now(UTC), first_id)
    book.add(
        Account(id_, key, kind, Asset(asset), posted, pending, revoked, expires_at)
        for id_, key, kind, asset, posted, pending, revoked, expires_at in chain(payers, books)
    )
    book.spent.update(key for (key,) in spent or ())
    for id_, debit, credit, amount, route, resolved in pendings or ():
        transfer = Transfer(id_, debit, credit, amount, "charge", "pending", None, route)
        book.pendings[id_] = Pending(transfer, resolved)
    return book


def save(connection: Connection, book: Book, changed: Collection[Account]) -> None:
    """Write what the batch added, and the balances that it changed."""
    if len(book.opened) + len(book.transfers) > ID_BLOCK:
        raise ValueError(f"a batch that adds more than {ID_BLOCK} rows")
    execute = _raw(connection).execute

    def add(statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            execute(statement, (book.now, *map(_array, zip(*rows, strict=True))))

    add(
        _ADD_ACCOUNTS,
        [(a.id, a.key, a.kind, a.asset, a.posted, a.pending, a.revoked, a.expires_at) for a in book.opened],
    )
    add(
        _ADD_PAYMENTS,
        [
            (p.spend_key, p.rail, "settled", account, p.amount, p.asset, p.payer, p.reference, p.rate)
            for p, account in book.payments
        ],
    )
    add(_ADD_TRANSFERS, book.transfers)
    payers = [(account.id, account.posted, account.pending) for account in changed if account.kind == "payer"]
    if payers:
        execute(_CHANGE_PAYERS, tuple(map(_array, zip(*payers, strict=True))))
    for id_, moved in sorted(_moved(book, {account.id for account in changed if account.kind == "book"}).items()):
        execute(_CHANGE_BOOK, (moved, id_))


def _moved(book: Book, ids: Collection[int]) -> dict[int, int]:
    """What the batch adds to the posted balances of these accounts."""
    moved: defaultdict[int, int] = defaultdict(int)
    for transfer in book.transfers:
        if transfer.phase == "post":
            moved[transfer.debit_account_id] -= transfer.amount
            moved[transfer.credit_account_id] += transfer.amount
    return {id_: moved[id_] for id_ in ids}


def _array(column: Iterable[Any]) -> str:
    # Written out here because the driver, which must be ready for nested lists of anything, takes ten times as long.
    return f"{{{','.join([_element(value) for value in column])}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    text = value.isoformat() if isinstance(value, datetime) else value
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _raw(connection: Connection) -> "psycopg.Connection[tuple[Any, ...]]":
    # Pipelines are the driver's own: its cursors must not be asked what a statement returned before it has run.
    return cast("psycopg.Connection[tuple[Any, ...]]", connection.connection.driver_connection)
