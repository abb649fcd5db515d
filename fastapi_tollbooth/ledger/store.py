"""One batch of operations as one database transaction: lock and load, apply the rules, write the rows.

Synchronous, and used by one thread at a time: the writer's.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.ledger import sqlite
from fastapi_tollbooth.ledger.book import (
    Book,
    Capture,
    Fund,
    Operation,
    Outcome,
    Pending,
    Refused,
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

OPEN_TOLLS = 100_000
_ATTEMPTS = 3


_STANDING_KEYS = [revenue_key(asset) for asset in Asset]


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
        self._engine = sqlite.engine_for(url)
        self._lock_file: BinaryIO | None = None
        self._connection: Connection | None = None
        # What this process has promised and not yet resolved. Should another process resolve one first, the unique
        # index on resolutions fails the batch, this memory is dropped, and the next try loads the truth.
        self._open: dict[int, Pending] = {}

    def transact(self, groups: Sequence[Sequence[Operation]]) -> list[list[Outcome]]:
        """Run groups of operations in order, in one durable transaction; a group stops at its first refusal."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._transact(groups)
            except IntegrityError:
                # Another process spent the same payment or resolved the same toll first: load again and decide anew.
                self._open.clear()
        return self._transact(groups)

    def _transact(self, groups: Sequence[Sequence[Operation]]) -> list[list[Outcome]]:
        operations = [operation for group in groups for operation in group]
        with self._exclusive() as connection:
            book = _load(connection, operations, self._open)
            before = {account.id: (account.posted, account.pending) for account in book.accounts.values()}
            outcomes = [_apply_group(book, group) for group in groups]
            if book.transfers:
                changed = [
                    account
                    for account in book.accounts.values()
                    if account.id in before and before[account.id] != (account.posted, account.pending)
                ]
                sqlite.save(connection, book, changed)
        self._remember(book)
        return outcomes

    def _remember(self, book: Book) -> None:
        for toll, pending in book.pendings.items():
            if pending.resolved_by is not None:
                self._open.pop(toll, None)
            elif len(self._open) < OPEN_TOLLS:
                self._open[toll] = pending

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
            self._roll_back()

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
            connection.exec_driver_sql(sqlite.BEGIN)
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                self._roll_back()
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

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.exec_driver_sql("ROLLBACK")
        except SQLAlchemyError:
            # The transaction died with its connection; the next batch opens a new one.
            logger.warning("the ledger's connection was lost and will be opened again")
            self._connection = None
            connection.invalidate()
            connection.close()


def _create_tables(connection: Connection) -> None:
    connection.exec_driver_sql(sqlite.BEGIN)
    try:
        metadata.create_all(connection)
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


def _load(connection: Connection, operations: Sequence[Operation], open_tolls: Mapping[int, Pending]) -> Book:
    ids: set[int] = set()
    keys: set[str] = set(_STANDING_KEYS)
    tolls: set[int] = set()
    spend_keys: set[str] = set()
    for operation in operations:
        keys.update(keys_of(operation))
        if isinstance(operation, Fund):
            spend_keys.add(operation.payment.spend_key)
            continue
        if isinstance(operation.account, int):
            ids.add(operation.account)
        if isinstance(operation, Capture | Void):
            tolls.add(operation.toll)
    known = {toll: open_tolls[toll] for toll in tolls if toll in open_tolls}
    book = sqlite.load(connection, ids, keys, tolls - known.keys(), spend_keys)
    book.pendings.update(known)
    return book
