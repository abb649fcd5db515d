"""One batch of operations as one database transaction: lock and load, apply the rules, write the rows.

Synchronous, and used by one thread at a time: the writer's.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.ledger import schema, sqlite
from fastapi_tollbooth.ledger.book import apply
from fastapi_tollbooth.ledger.memory import Memory
from fastapi_tollbooth.ledger.naming import Names, names_of
from fastapi_tollbooth.ledger.operations import Operation, Outcome, Refused
from fastapi_tollbooth.ledger.records import Book, revenue_key
from fastapi_tollbooth.money import Asset

try:
    import fcntl
except ImportError:  # a system without POSIX locks still has SQLite's own, only with less fair queueing
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("fastapi_tollbooth.ledger")

T = TypeVar("T")

_Identity = tuple[int, int]
"""A file, whatever its name is: its device and inode."""

_ATTEMPTS = 5

_OF_PARENTS: list[Connection | None] = []
_STANDING_KEYS = [revenue_key(asset) for asset in Asset]


class Dialect(Protocol):
    """What differs between databases: `sqlite` and `postgres` are modules of these names.

    ``BEGIN_ALONE`` opens a transaction that no other of its kind runs beside, and ``BEGIN_READ`` one that reads a
    consistent snapshot, which ``END_READ`` closes.
    """

    BEGIN_ALONE: str
    BEGIN_READ: str
    END_READ: str

    def engine_for(self, url: URL) -> Engine:
        """An engine for one thread at a time."""

    def migrate(self, connection: Connection) -> None:
        """Bring the tables to this version's revision, in a transaction of its own."""

    def batch(self, connection: Connection) -> AbstractContextManager[None]:
        """The transaction of a batch. Statements inside may travel together; all have run when it is left."""

    def roll_back(self, connection: Connection) -> None:
        """End the transaction as if it had not been; an error when there is none."""

    def version(self, connection: Connection) -> int | None:
        """Inside a transaction: what changes when another connection writes; None if that cannot be told."""

    def load(self, connection: Connection, names: Names) -> Book:
        """What the journal says of these names, as nobody else can change it until the transaction ends."""

    def save(self, connection: Connection, book: Book) -> None:
        """Write what the batch added, and the balances that it changed."""


class Store:
    """The ledger's database.

    Raises:
        ConfigurationError: the URL is not one of a database that the ledger can be kept in.
    """

    def __init__(self, url: str) -> None:
        location = parsed(url)
        self._dialect = _dialect_for(location)
        self.is_served = self._dialect is not sqlite
        in_memory = not self.is_served and location.database in (None, "", ":memory:")
        self.path = None if self.is_served or in_memory else Path(str(location.database))
        self._keeps_connection = in_memory
        self._engine = self._dialect.engine_for(location)
        self._lock_file: BinaryIO | None = None
        self._connection: Connection | None = None
        self._files: tuple[_Identity, _Identity | None] | None = None
        self._process = 0
        self._memory = Memory()

    def transact(self, groups: Sequence[Sequence[Operation]]) -> list[list[Outcome]]:
        """Run groups of operations in order, in one durable transaction; a group stops at its first refusal."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._transact(groups)
            except IntegrityError:
                # Another process spent the same payment or resolved the same toll first: load again and decide anew.
                continue
        return self._transact(groups)

    def _transact(self, groups: Sequence[Sequence[Operation]]) -> list[list[Outcome]]:
        names = names_of(chain.from_iterable(groups))
        names.keys.update(_STANDING_KEYS)
        try:
            with self._writing() as connection, self._dialect.batch(connection):
                book = self._load(connection, names)
                outcomes = [_apply_group(book, group) for group in groups]
                if book.is_changed:
                    self._dialect.save(connection, book)
        except BaseException:
            self._memory.forget()
            raise
        self._memory.remember(book, names)
        return outcomes

    def _load(self, connection: Connection, names: Names) -> Book:
        known = self._memory.take_tolls(names.resolving - names.tolls)
        names.tolls.update(names.resolving.difference(known))
        names.caps.update(cap.key for charge in known.values() for cap in charge.caps)
        version = self._dialect.version(connection)
        book = self._memory.book(names, version) or self._dialect.load(connection, names)
        if self._memory.is_ahead_of(book):
            self._memory.forget()
            names.tolls.update(known)
            return self._dialect.load(connection, names)
        book.charges.update(known)
        return book

    def execute(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction of its own, beside which no other process executes any."""
        self._memory.forget_accounts()
        with self._writing() as connection:
            connection.exec_driver_sql(self._dialect.BEGIN_ALONE)
            result = work(connection)
            connection.exec_driver_sql("COMMIT")
        return result

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which only reads, on one consistent snapshot."""
        connection = self._connect()
        try:
            connection.exec_driver_sql(self._dialect.BEGIN_READ)
            result = work(connection)
            connection.exec_driver_sql(self._dialect.END_READ)
        except BaseException:
            self._roll_back()
            raise
        return result

    def revision(self) -> str | None:
        """The revision of the tables, as they are; None when there are none."""
        with self._unchecked() as connection:
            return schema.revision(connection)

    def upgrade(self) -> None:
        """Bring the tables to this version's revision.

        Raises:
            ConfigurationError: they belong to a newer version.
        """
        with self._unchecked() as connection, self._queue_among_processes():
            self._dialect.migrate(connection)

    def close(self) -> None:
        """Give the connection and the files back. The store may be used again afterwards."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if not self._keeps_connection:
            with self._queue_among_processes():
                self._engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        connection = self._connect()
        with self._queue_among_processes():
            if self._is_replaced():
                raise FileNotFoundError("the ledger's file was replaced while others were writing to it")
            try:
                yield connection
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

    def _leave_to_parent(self) -> None:
        if self.path is not None:
            # This process would hold none of the file's locks, and SQLite would believe that it does.
            raise ConfigurationError(
                "forked_ledger",
                "this process was forked from one that has the ledger's SQLite file open: do not use the ledger where "
                "the application is made, or `await tollbooth.close()` there",
            )
        _OF_PARENTS.append(self._connection)  # not closed: that would end the parent's session
        self._connection = None

    def _connect(self) -> Connection:
        if self._connection is not None and self._process != os.getpid():
            self._leave_to_parent()
        if self._is_replaced():
            self._leave_replaced()
        if self._connection is None:
            self._memory.forget()
            with ExitStack() as on_failure:
                connection = on_failure.enter_context(self._unchecked())
                if self.is_served:
                    schema.check(connection)
                else:
                    with self._queue_among_processes():
                        self._dialect.migrate(connection)
                on_failure.pop_all()
            self._connection, self._process = connection, os.getpid()
            self._files = None if self.path is None else (_identity(self.path), _log_of(self.path))
        return self._connection

    def _is_replaced(self) -> bool:
        return self.path is not None and self._files is not None and self._files[0] != _identity(self.path)

    def _leave_replaced(self) -> None:
        # Somebody put another file in its place, such as a backup. What this one says is no longer the truth.
        if self.path is not None and self._files is not None:
            log = _log_of(self.path)
            if log is not None and self._files[1] in (log, None):
                logger.error(
                    "%s is another file than before, and SQLite would write the %s-wal of the other into it: remove "
                    "that, and the -shm",
                    *2 * (self.path.name,),
                )
                raise FileExistsError("the log of another file lies beside the ledger's")
        self.close()

    def _unchecked(self) -> Connection:
        if self.path is not None and self._lock_file is None:
            self._lock_file = self.path.with_name(self.path.name + ".lock").open("ab")
        # SQLite's own waiting does not cover a file that becomes one in WAL mode, or ceases to be open in any process.
        with self._queue_among_processes():
            return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            self._dialect.roll_back(connection)
        except SQLAlchemyError:
            # The transaction died with its connection; the next batch opens a new one.
            logger.warning("the ledger's connection was lost and will be opened again")
            self._connection = None
            connection.invalidate()
            connection.close()


def _identity(path: Path) -> _Identity:
    # Of a file that is gone this raises: SQLite would go on writing to it, and a new one would know no spent payment.
    status = path.stat()
    return status.st_dev, status.st_ino


def _log_of(path: Path) -> _Identity | None:
    log = path.with_name(f"{path.name}-wal")
    return _identity(log) if log.exists() else None


def parsed(url: str) -> URL:
    """The parts of a database's URL.

    Raises:
        ConfigurationError: it is no URL.
    """
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # Without its cause, which shows the URL, and so perhaps a password.
        raise ConfigurationError("unknown_database", "TOLLBOOTH_DATABASE_URL is not the URL of a database") from None


def _dialect_for(url: URL) -> Dialect:
    name = url.get_backend_name()
    if name == "sqlite":
        return sqlite
    if name not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "unknown_database",
            f"TOLLBOOTH_DATABASE_URL names {name!r}; the ledger is kept in SQLite or PostgreSQL: write it like "
            '"sqlite:///tollbooth.db" or "postgresql://user:password@host/database"',
        )
    try:
        from fastapi_tollbooth.ledger import postgres
    except ImportError as error:
        raise ConfigurationError(
            "missing_extra",
            'a ledger in PostgreSQL needs the extra "postgres": pip install "fastapi-tollbooth[postgres]"',
        ) from error
    return postgres


def _apply_group(book: Book, group: Sequence[Operation]) -> list[Outcome]:
    if len(group) == 1:
        return [apply(book, group[0])]
    outcomes: list[Outcome] = []
    for operation in group:
        outcome = apply(book, operation)
        outcomes.append(outcome)
        if isinstance(outcome, Refused):
            break
    return outcomes
