"""One batch of operations as one database transaction: lock and load, apply the rules, write the rows.

Synchronous, and used by one thread at a time: the writer's. SQLAlchemy Core, not ORM sessions, because the ledger is
the dearest part of a paid request.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, or_, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql import bindparam

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.ledger.book import (
    Account,
    AccountKind,
    Book,
    Capture,
    Fund,
    Kind,
    Operation,
    Outcome,
    Pending,
    Phase,
    Refused,
    Transfer,
    Void,
    apply,
    keys_of,
    revenue_key,
)
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.money import Asset

try:
    import fcntl
except ImportError:  # a system without POSIX locks still has SQLite's own, only with less fair queueing
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("fastapi_tollbooth.ledger")

T = TypeVar("T")


_ACCOUNT, _TRANSFER, _PAYMENT, _SEQUENCE = (
    metadata.tables[f"tollbooth_{name}"] for name in ("account", "transfer", "payment", "sequence")
)
_STANDING_KEYS = [revenue_key(asset) for asset in Asset]

_read_sequence = select(_SEQUENCE.c.next_id).where(_SEQUENCE.c.name == "ledger").with_for_update()
_write_sequence = update(_SEQUENCE).where(_SEQUENCE.c.name == "ledger").values(next_id=bindparam("value"))
_load_accounts = (
    select(
        _ACCOUNT.c.id,
        _ACCOUNT.c.key,
        _ACCOUNT.c.kind,
        _ACCOUNT.c.asset,
        _ACCOUNT.c.posted,
        _ACCOUNT.c.pending,
        _ACCOUNT.c.revoked,
        _ACCOUNT.c.expires_at,
    )
    .where(
        or_(_ACCOUNT.c.id.in_(bindparam("ids", expanding=True)), _ACCOUNT.c.key.in_(bindparam("keys", expanding=True)))
    )
    .order_by(_ACCOUNT.c.id)
    .with_for_update()
)
_resolution = _TRANSFER.alias("resolution")
_load_pendings = (
    select(
        _TRANSFER.c.id,
        _TRANSFER.c.debit_account_id,
        _TRANSFER.c.credit_account_id,
        _TRANSFER.c.amount,
        _TRANSFER.c.route,
        _TRANSFER.c.created_at,
        _resolution.c.phase,
    )
    .select_from(_TRANSFER.outerjoin(_resolution, _resolution.c.pending_id == _TRANSFER.c.id))
    .where(_TRANSFER.c.id.in_(bindparam("tolls", expanding=True)), _TRANSFER.c.phase == Phase.PENDING.value)
)
_load_spent = select(_PAYMENT.c.spend_key).where(_PAYMENT.c.spend_key.in_(bindparam("keys", expanding=True)))
_write_account = (
    update(_ACCOUNT)
    .where(_ACCOUNT.c.id == bindparam("account"))
    .values(posted=bindparam("new_posted"), pending=bindparam("new_pending"))
)


class Store:
    """The ledger's database.

    Raises:
        ConfigurationError: the URL is not one of a database that the ledger can be kept in.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            raise ConfigurationError(
                f"TOLLBOOTH_DATABASE_URL names {parsed.get_backend_name()!r}; this version keeps its ledger in SQLite: "
                'write it like "sqlite:///tollbooth.db"'
            )
        in_memory = parsed.database in (None, "", ":memory:")
        self.path = None if in_memory else Path(str(parsed.database))
        self._engine = _sqlite_engine(url)
        self._lock_file: BinaryIO | None = None
        self._connection: Connection | None = None

    def transact(self, groups: Sequence[Sequence[Operation]]) -> list[list[Outcome]]:
        """Run groups of operations in order, in one durable transaction; a group stops at its first refusal."""
        operations = [operation for group in groups for operation in group]
        with self._exclusive() as connection:
            book = _load(connection, operations)
            before = {account.id: (account.posted, account.pending) for account in book.accounts.values()}
            outcomes = [_apply_group(book, group) for group in groups]
            _save(connection, book, before)
        return outcomes

    def execute(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction of its own."""
        with self._exclusive() as connection:
            return work(connection)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which only reads, on one consistent snapshot."""
        connection = self._connect()
        try:
            connection.exec_driver_sql("BEGIN")
            return work(connection)
        finally:
            self._end("ROLLBACK")

    def close(self) -> None:
        """Give the connection and the files back. The store may be used again afterwards."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self.path is not None:
            self._engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    @contextmanager
    def _exclusive(self) -> Iterator[Connection]:
        connection = self._connect()
        with self._queue_among_processes():
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                self._end("ROLLBACK")
                raise

    @contextmanager
    def _queue_among_processes(self) -> Iterator[None]:
        # SQLite's busy handler polls, so writers of several processes starve each other; a kernel lock is a queue.
        if self._lock_file is None or fcntl is None:
            yield
            return
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _connect(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                if self.path is not None and self._lock_file is None:
                    self._lock_file = self.path.with_name(self.path.name + ".lock").open("ab")
                with self._queue_among_processes():
                    _create_tables(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _end(self, statement: str) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.exec_driver_sql(statement)
        except SQLAlchemyError:
            # The transaction died with its connection; the next batch opens a new one.
            logger.warning("the ledger's connection was lost and will be opened again")
            self._connection = None
            connection.invalidate()
            connection.close()


def _sqlite_engine(url: str) -> Engine:
    # One connection, used by one thread at a time: the writer's.
    engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False, "timeout": 10})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _create_tables(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        metadata.create_all(connection)
        if connection.execute(_read_sequence).scalar() is None:
            connection.execute(insert(_SEQUENCE).values(name="ledger", next_id=1))
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise


def _apply_group(book: Book, group: Sequence[Operation]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for operation in group:
        outcome = apply(book, operation)
        outcomes.append(outcome)
        if isinstance(outcome, Refused):
            break
    return outcomes


def _load(connection: Connection, operations: Sequence[Operation]) -> Book:
    ids: set[int] = set()
    keys: set[str] = set(_STANDING_KEYS)
    tolls: list[int] = []
    spend_keys: list[str] = []
    for operation in operations:
        keys.update(keys_of(operation))
        if isinstance(operation, Fund):
            spend_keys.append(operation.payment.spend_key)
            continue
        if isinstance(operation.account, int):
            ids.add(operation.account)
        if isinstance(operation, Capture | Void):
            tolls.append(operation.toll)

    book = Book(now=datetime.now(UTC), next_id=connection.execute(_read_sequence).scalar_one())
    rows = connection.execute(_load_accounts, {"ids": list(ids), "keys": list(keys)})
    book.add(
        Account(id_, key, AccountKind(kind), Asset(asset), posted, pending, revoked, _aware(expires_at))
        for id_, key, kind, asset, posted, pending, revoked, expires_at in rows
    )
    if tolls:
        for id_, debit, credit, amount, route, created_at, phase in connection.execute(
            _load_pendings, {"tolls": tolls}
        ):
            transfer = Transfer(id_, debit, credit, amount, Kind.CHARGE, Phase.PENDING, None, route, created_at)
            book.pendings[id_] = Pending(transfer, Phase(phase) if phase is not None else None)
    if spend_keys:
        book.spent.update(connection.execute(_load_spent, {"keys": spend_keys}).scalars())
    return book


def _save(connection: Connection, book: Book, before: dict[int, tuple[int, int]]) -> None:
    if not book.transfers:
        return
    if book.opened:
        connection.execute(
            insert(_ACCOUNT),
            [
                {
                    "id": account.id,
                    "key": account.key,
                    "kind": account.kind.value,
                    "asset": account.asset.value,
                    "posted": account.posted,
                    "pending": account.pending,
                    "revoked": account.revoked,
                    "expires_at": account.expires_at,
                    "created_at": book.now,
                }
                for account in book.opened
            ],
        )
    changed = [
        {"account": account.id, "new_posted": account.posted, "new_pending": account.pending}
        for account in book.accounts.values()
        if account.id in before and before[account.id] != (account.posted, account.pending)
    ]
    if changed:
        connection.execute(_write_account, changed)
    connection.execute(
        insert(_TRANSFER),
        [
            {
                "id": transfer.id,
                "debit_account_id": transfer.debit_account_id,
                "credit_account_id": transfer.credit_account_id,
                "amount": transfer.amount,
                "kind": transfer.kind.value,
                "phase": transfer.phase.value,
                "pending_id": transfer.pending_id,
                "route": transfer.route,
                "created_at": transfer.created_at,
            }
            for transfer in book.transfers
        ],
    )
    if book.payments:
        connection.execute(
            insert(_PAYMENT),
            [
                {
                    "spend_key": payment.spend_key,
                    "rail": payment.rail,
                    "state": "settled",
                    "account_id": account_id,
                    "amount": payment.amount,
                    "asset": payment.asset.value,
                    "payer": payment.payer,
                    "reference": payment.reference,
                    "rate": payment.rate,
                    "created_at": book.now,
                }
                for payment, account_id in book.payments
            ],
        )
    connection.execute(_write_sequence, {"value": book.next_id})


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
