"""The ledger's statements for PostgreSQL: a batch is two round trips, one to lock and load it, one to write and commit.

The payers of a batch are locked in the order of their ids, so batches of several workers wait for each other and never
form a circle. The service's own books are not locked while a batch is decided, because every batch needs them: they
change by what the batch moved, in the last statement before the commit.

Each batch takes a block of ids from a sequence, after it has its locks. So of two transfers of one account, and of a
promise and what resolves it, the later one has the higher id, whichever workers wrote them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from typing import Any, cast

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from fastapi_tollbooth.ledger import schema
from fastapi_tollbooth.ledger.operations import Names
from fastapi_tollbooth.ledger.records import Account, Book, Charge, Payment, PaymentRecord, PaymentState, source_key
from fastapi_tollbooth.ledger.tables import ID_BLOCK
from fastapi_tollbooth.money import Asset

_COLUMNS = 'id, "key", kind, asset, posted, pending, revoked, expires_at'
_LOCK_PAYERS = f"""
SELECT {_COLUMNS} FROM tollbooth_account
 WHERE (id = ANY(%s::bigint[]) OR "key" = ANY(%s::text[])) AND kind = 'payer'
 ORDER BY id FOR NO KEY UPDATE
"""  # noqa: S608 - our own names
_BOOKS = f"""SELECT {_COLUMNS} FROM tollbooth_account WHERE "key" = ANY(%s::text[]) AND kind = 'book'"""  # noqa: S608
_CHARGES = """
SELECT t.id, coalesce(r.debit_account_id, t.debit_account_id), coalesce(r.credit_account_id, t.credit_account_id),
       t.amount, t.route, r.phase, coalesce(r.amount, 0), f.amount,
       CASE a.credit_account_id WHEN r.credit_account_id THEN a.amount ELSE -a.amount END
  FROM tollbooth_transfer AS t
  LEFT JOIN tollbooth_transfer AS r ON r.toll_id = t.id AND r.kind = 'charge'
  LEFT JOIN tollbooth_transfer AS f ON f.toll_id = t.id AND f.kind = 'refund'
  LEFT JOIN tollbooth_transfer AS a ON a.toll_id = t.id AND a.kind = 'adjust'
 WHERE t.id = ANY(%s::bigint[]) AND t.phase = 'pending' AND (t.kind = 'charge' OR r.id IS NOT NULL)
"""
_PAYERS_OF = "SELECT account_id, rail, asset FROM tollbooth_payment WHERE spend_key = ANY(%s::text[])"
_PAYMENTS = """
SELECT p.spend_key, p.rail, p.amount, p.asset, p.payer, p.reference, p.rate, p.expires_at, p.account_id, p.state,
       p.toll_id, coalesce(r.phase, c.phase)
  FROM tollbooth_payment AS p
  LEFT JOIN tollbooth_transfer AS r ON r.toll_id = p.toll_id AND r.kind = 'charge'
  LEFT JOIN tollbooth_transfer AS c ON c.id = p.toll_id AND c.kind = 'charge'
 WHERE p.spend_key = ANY(%s::text[])
"""
_NUMBERS = {int, bool, type(None)}
_BLOCK = "SELECT nextval('tollbooth_id')"

# Rows are added in the order of their unique keys, so that two workers adding the same ones cannot wait in a circle.
_ADD_ACCOUNTS = f"""
INSERT INTO tollbooth_account ({_COLUMNS}, created_at)
SELECT r.*, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::boolean[],
                           %s::timestamptz[]) AS r ORDER BY 2
"""  # noqa: S608 - our own names
_ADD_TRANSFERS = """
INSERT INTO tollbooth_transfer
       (id, debit_account_id, credit_account_id, amount, kind, phase, toll_id, route, created_at)
SELECT r.*, %s FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[],
                           %s::bigint[], %s::text[]) AS r
"""
_ADD_PAYMENTS = """
INSERT INTO tollbooth_payment (spend_key, rail, state, account_id, amount, asset, payer, reference, rate, toll_id,
                               expires_at, updated_at, created_at)
SELECT r.*, %s FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::text[],
                           %s::text[], %s::text[], %s::bigint[], %s::timestamptz[], %s::timestamptz[]) AS r ORDER BY 1
"""
_CHANGE_PAYMENTS = """
UPDATE tollbooth_payment AS p
   SET updated_at = %s, state = r.state, amount = r.amount, reference = r.reference, rate = r.rate,
       toll_id = r.toll_id, expires_at = r.expires_at
  FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[])
       AS r (spend_key, state, amount, reference, rate, toll_id, expires_at)
 WHERE p.spend_key = r.spend_key
"""
_CHANGE_PAYERS = """
UPDATE tollbooth_account AS a SET posted = r.posted, pending = r.pending
  FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS r (id, posted, pending) WHERE a.id = r.id
"""
_CHANGE_BOOK = "UPDATE tollbooth_account SET posted = posted + %s, pending = pending + %s WHERE id = %s"
_REVOKE = """
UPDATE tollbooth_account AS a SET revoked = r.revoked FROM unnest(%s::bigint[], %s::boolean[]) AS r (id, revoked)
 WHERE a.id = r.id
"""
_EXPIRE = """
UPDATE tollbooth_account AS a SET expires_at = r.expires_at FROM unnest(%s::bigint[], %s::timestamptz[])
       AS r (id, expires_at) WHERE a.id = r.id
"""
# What is used under a cap belongs to one account, so whoever holds the account's lock holds the cap's.
_USED = 'SELECT "key", used FROM tollbooth_cap WHERE "key" = ANY(%s::text[])'
_CHANGE_USED = """
INSERT INTO tollbooth_cap (updated_at, "key", used)
SELECT %s, r.* FROM unnest(%s::text[], %s::bigint[]) AS r ORDER BY 2
    ON CONFLICT ("key") DO UPDATE SET used = excluded.used, updated_at = excluded.updated_at
"""

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
BEGIN_ALONE = f"{BEGIN}; SELECT pg_advisory_xact_lock(7305804402)"
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
    failure: BaseException | None = None
    with _translated(connection):
        try:
            with _raw(connection).pipeline():
                try:
                    yield
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


def load(connection: Connection, names: Names) -> Book:
    """Lock the payers of these names; a book with them, the service's own books, tolls and payments."""
    execute = _raw(connection).execute
    ids, keys, spend_keys = names.ids, names.keys, list(names.spend_keys)
    if spend_keys:
        # A payment belongs to one account for ever, so whoever holds the account's lock holds the payment's.
        known = list(execute(_PAYERS_OF, (spend_keys,)))
        ids = ids.union(account_id for account_id, _, _ in known)
        keys = keys.union(source_key(rail, Asset(asset)) for _, rail, asset in known)
    payers = execute(_LOCK_PAYERS, (list(ids), list(keys)))
    # Each a statement of its own behind the lock, so that it sees what was committed while the lock was waited for.
    books = execute(_BOOKS, (list(keys),))
    charges = execute(_CHARGES, (list(names.tolls),)) if names.tolls else None
    payments = execute(_PAYMENTS, (spend_keys,)) if spend_keys else None
    used = execute(_USED, (list(names.caps),)) if names.caps else None
    ((first_id,),) = execute(_BLOCK)
    book = Book(datetime.now(UTC), first_id)
    book.add(
        Account(id_, key, kind, Asset(asset), posted, pending, revoked, expires_at)
        for id_, key, kind, asset, posted, pending, revoked, expires_at in chain(payers, books)
    )
    book.charges.update((row[0], Charge(*row)) for row in charges or ())
    book.used.update(dict(used or ()))
    for spend_key, rail, amount, asset, payer, reference, rate, expires_at, account_id, state, toll, delivery in (
        payments or ()
    ):
        payment = Payment(rail, spend_key, amount, Asset(asset), payer, reference, rate, expires_at)
        book.payments[spend_key] = PaymentRecord(payment, account_id, PaymentState(state), toll, delivery)
    return book


def save(connection: Connection, book: Book) -> None:
    """Write what the batch added, and the balances that it changed."""
    if len(book.opened) + len(book.transfers) > ID_BLOCK:
        raise ValueError(f"a batch that adds more than {ID_BLOCK} rows")
    execute = _raw(connection).execute

    def _write(statement: str, rows: Sequence[tuple[Any, ...]], *parameters: Any) -> None:
        if rows:
            execute(statement, (*parameters, *map(_array, zip(*rows, strict=True))))

    _write(
        _ADD_ACCOUNTS,
        [(a.id, a.key, a.kind, a.asset, a.posted, a.pending, a.revoked, a.expires_at) for a in book.opened],
        book.now,
    )
    _write(_ADD_PAYMENTS, [_new_payment(book.payments[key], book.now) for key in book.new_payments], book.now)
    _write(_CHANGE_PAYMENTS, [_changed_payment(book.payments[key]) for key in book.changed_payments], book.now)
    _write(_ADD_TRANSFERS, book.transfers, book.now)
    _write(_REVOKE, list(book.revocations.items()))
    _write(_EXPIRE, list(book.expiries.items()))
    _write(_CHANGE_USED, [(key, book.used[key]) for key in sorted(book.new_uses)], book.now)
    changes = sorted(book.changes(), key=lambda change: change[0].id)
    _write(_CHANGE_PAYERS, [(a.id, a.posted, a.pending) for a, _, _ in changes if a.kind == "payer"])
    for account, posted, pending in changes:
        if account.kind == "book":
            execute(_CHANGE_BOOK, (posted, pending, account.id))


def _new_payment(record: PaymentRecord, now: datetime) -> tuple[Any, ...]:
    p = record.payment
    head = (p.spend_key, p.rail, record.state, record.account_id, p.amount, p.asset, p.payer, p.reference, p.rate)
    return (*head, record.toll, p.expires_at, now)


def _changed_payment(record: PaymentRecord) -> tuple[Any, ...]:
    p = record.payment
    return (p.spend_key, record.state, p.amount, p.reference, p.rate, record.toll, p.expires_at)


def _array(column: Sequence[Any]) -> str:
    # Written out here because the driver, which must be ready for nested lists of anything, takes ten times as long.
    if _NUMBERS.issuperset(map(type, column)):
        return f"{{{str(list(column))[1:-1].replace('None', 'NULL')}}}"
    return f"{{{','.join([_element(value) for value in column])}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    text = value.isoformat() if isinstance(value, datetime) else value
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _raw(connection: Connection) -> "psycopg.Connection[tuple[Any, ...]]":
    # Pipelines are the driver's own: its cursors must not be asked what a statement returned before it has run.
    return cast("psycopg.Connection[tuple[Any, ...]]", connection.connection.driver_connection)
