"""Group commit: one thread per process that writes all waiting operations in one transaction.

A request hands over its operations and awaits a future. The thread takes everything that is waiting, has the store run
it as one transaction, and only after the commit wakes each event loop once. Under no load a batch is one request and
waits for nothing; under load the cost of a durable commit is shared by all that arrived during the one before.
"""

import asyncio
import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from fastapi_tollbooth.errors import ConfigurationError, Unavailable
from fastapi_tollbooth.ledger.inbox import Inbox
from fastapi_tollbooth.ledger.lookups import payer_named
from fastapi_tollbooth.ledger.operations import Authorize, Claim, Fund, Operation, Outcome, Revoke, undo
from fastapi_tollbooth.ledger.pressure import Stats, ledger_busy, ledger_unavailable
from fastapi_tollbooth.ledger.store import Store

logger = logging.getLogger("fastapi_tollbooth.ledger")

T = TypeVar("T")

BATCH = 512
WAITING = 4_096
RETRY_SECONDS = 0.5
LINGER_SECONDS = 0.01
EXIT_SECONDS = 5.0
_DATABASE_ERRORS = (SQLAlchemyError, OSError, ConfigurationError)
_BAD_ROWS = (IntegrityError, DataError)
# What a request begins with. What ends one is never refused for want of room: a handler has run for it.
_OPENING = (Authorize, Claim, Fund)


@dataclass(slots=True)
class _Apply:
    """Operations that somebody awaits."""

    operations: Sequence[Operation]
    future: asyncio.Future[list[Outcome]]
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True)
class _Work:
    """Any other use of the database, in the order of the queue."""

    work: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class _Stop:
    """Everything that came before this is written; then the thread ends, unless there is more to do by then."""

    def __init__(self) -> None:
        self.done = threading.Event()


_Job = _Apply | _Work | _Stop
_Wake = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Any]


def _is_outage(error: Exception) -> bool:
    return isinstance(error, _DATABASE_ERRORS) and not isinstance(error, _BAD_ROWS)


class Ledger:
    """The ledger as a request sees it. Starts its thread when it is first used, and again after a `close`.

    Args:
        url: Where it is kept.
        most_waiting: How many requests may wait for it before others are refused at once.
    """

    def __init__(self, url: str, *, most_waiting: int = WAITING) -> None:
        self._store = Store(url)
        self._most_waiting = most_waiting
        self._batches = self._operations = self._last_batch = self._failed = self._refused = self._writing = 0
        self._inbox: Inbox[_Job] = Inbox(self._ensure_thread)
        self._owed: deque[Operation] = deque()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    async def apply(self, *operations: Operation) -> list[Outcome]:
        """Run operations as one group, which stops at its first refusal. What returns is durable.

        Raises:
            Unavailable: the database did not answer, or too many wait for it. Nothing happened, or what happened is
                taken back.
        """
        if len(self._inbox.jobs) >= self._most_waiting and any(isinstance(each, _OPENING) for each in operations):
            raise self._refusal()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Outcome]] = loop.create_future()
        self._inbox.put(_Apply(operations, future, loop), loop)
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelled after the answer came and before it was taken: what it promised must be taken back.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._take_back(future.result())
            raise

    async def revoke(self, name: str, revoked: bool = True) -> bool:
        """Close an account to new tolls, or open it again. Whether there is such an account.

        Args:
            name: The account's key, as in `Toll.payer`, or a payment that went into it: ``l402:<payment hash>``.
            revoked: False to open it again.

        Raises:
            Unavailable: the database did not answer.
        """
        account = await self.read(lambda connection: payer_named(connection, name))
        if account is not None:
            await self.apply(Revoke(account, revoked))
        return account is not None

    def apply_later(self, operation: Operation) -> None:
        """Run one idempotent operation in a later batch, again and again until it is durable."""
        self._owed.append(operation)
        if len(self._owed) == 1:  # or the thread knows already that something is owed
            self._inbox.ring_soon(asyncio.get_running_loop())

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query that only reads.

        Raises:
            Unavailable: the database did not answer.
        """
        return await self._work(lambda: self._store.read(query))

    async def execute(self, work: Callable[[Connection], T], *, ends: bool = False) -> T:
        """Run ``work`` in a transaction of its own; what ``ends`` a request is never refused for want of room.

        Raises:
            Unavailable: the database did not answer.
        """
        return await self._work(lambda: self._store.execute(work), ends=ends)

    def side_file(self, suffix: str) -> Path | None:
        """A file beside the database, for what workers on one machine share; None when the database is not a file."""
        path = self._store.path
        return None if path is None else path.with_name(f"{path.name}.{suffix}")

    @property
    def exists(self) -> bool:
        """Whether there are any books yet: those in a file or in memory are opened by the first request that pays."""
        if self._store.path is not None:
            return self._store.path.exists()
        return self._store.is_served or self._thread is not None

    async def check(self) -> None:
        """Open the books that there are, so that what is wrong with them shows at start and not at the first payment.

        Raises:
            ConfigurationError: the tables are missing, or are not those of this version.
        """
        if self.exists:
            try:
                await self.read(lambda _: None)
            except Unavailable:
                logger.warning("the ledger's database does not answer: requests that cost money get 503 until it does")

    async def close(self) -> None:
        """Write everything that is queued, and let go of the database if nobody else uses it."""
        if not self._is_at_rest:
            await asyncio.to_thread(self.flush, None)

    def flush(self, timeout: float | None) -> None:
        """Block until everything that is queued is written, or the time in seconds is up."""
        if not self._is_at_rest:
            stop = _Stop()
            self._inbox.put_now(stop)
            stop.done.wait(timeout)

    def stats(self) -> Stats:
        """How much waits, and how large batches are."""
        return Stats(
            len(self._inbox.jobs),
            self._writing,
            len(self._owed),
            self._batches,
            self._operations,
            self._last_batch,
            self._failed,
            self._refused,
        )

    def _refusal(self) -> Unavailable:
        self._refused += 1
        return ledger_busy()

    async def _work(self, work: Callable[[], T], *, ends: bool = False) -> T:
        if len(self._inbox.jobs) >= self._most_waiting and not ends:
            raise self._refusal()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._inbox.put(_Work(work, future, loop), loop)
        return await future

    @property
    def _is_at_rest(self) -> bool:
        return self._thread is None and not self._owed and not self._inbox.jobs

    def _ensure_thread(self) -> None:
        # Under the guard: a thread that ends and a job that arrives must not miss each other.
        with self._guard:
            # One that is there and not alive is that of the process that this one was forked from.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="tollbooth-ledger", daemon=True)
                self._thread.start()
                _RUNNING.add(self)

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        wait: float | None = None
        while True:
            jobs = self._inbox.take(BATCH, wait)
            self._writing = len(jobs)
            stops = [job for job in jobs if isinstance(job, _Stop)]
            if self._owed and wait is None and not jobs:
                # Nobody awaits what is owed: let it ride with the next charge, if one comes soon.
                wait = LINGER_SECONDS
                continue
            wake, failed = self._write([job for job in jobs if isinstance(job, _Apply)])
            wake += [self._run_work(job) for job in jobs if isinstance(job, _Work)]
            self._writing = 0
            self._notify(wake)
            while stops and self._owed and not failed:
                _, failed = self._write([])
            ended = bool(stops) and self._end()
            for stop in stops:
                stop.done.set()
            if ended:
                return
            wait = RETRY_SECONDS if failed else LINGER_SECONDS if self._owed else None

    def _end(self) -> bool:
        with self._guard:
            if self._inbox.jobs:
                return False
            if self._owed:
                logger.error("%d captures or voids were not written before the end: they stay pending", len(self._owed))
            self._thread = None
            try:
                self._store.close()
            except _DATABASE_ERRORS as error:  # whoever waits for the end must hear of it
                logger.error("the ledger's database could not be closed: %s", type(error).__name__)
            return True

    def _write(self, asked: list[_Apply]) -> tuple[list[_Wake], bool]:
        owed = [self._owed.popleft() for _ in range(min(len(self._owed), BATCH))]
        groups: list[Sequence[Operation]] = [*((operation,) for operation in owed), *(job.operations for job in asked)]
        if not groups:
            return [], False
        try:
            outcomes = self._store.transact(groups)
        except Exception as error:
            self._failed += 1
            if _is_outage(error):
                logger.error("the ledger could not write %d operations: %s", len(groups), type(error).__name__)
                self._owed.extendleft(reversed(owed))
                return [(job.loop, job.future, ledger_unavailable()) for job in asked], True
            # A defect of ours, or of one operation: it must not take the others with it.
            logger.exception("the ledger failed on a batch of %d operations, and tries them one by one", len(groups))
            alone = [self._write_alone(group) for group in groups]
            self._owed.extend(operation for operation, result in zip(owed, alone, strict=False) if result is None)
            answers = [ledger_unavailable() if result is None else result for result in alone[len(owed) :]]
            return [(job.loop, job.future, answer) for job, answer in zip(asked, answers, strict=True)], False
        self._batches += 1
        self._last_batch = len(groups)
        self._operations += len(groups)
        results = outcomes[len(owed) :]
        return [(job.loop, job.future, result) for job, result in zip(asked, results, strict=True)], False

    def _write_alone(self, group: Sequence[Operation]) -> list[Outcome] | Unavailable | None:
        """What came of it; None when the database did not answer, so that it may work later."""
        try:
            return self._store.transact([group])[0]
        except Exception as error:
            logger.exception("the ledger failed on %s", type(group[0]).__name__)
            return None if _is_outage(error) else ledger_unavailable()

    def _run_work(self, job: _Work) -> _Wake:
        try:
            return job.loop, job.future, job.work()
        except ConfigurationError as error:
            return job.loop, job.future, error
        except _DATABASE_ERRORS as error:
            logger.error("the ledger's database did not answer: %s", type(error).__name__)
            return job.loop, job.future, ledger_unavailable()
        except Exception as error:  # noqa: BLE001 - the caller's own exception belongs to the caller
            return job.loop, job.future, error

    def _notify(self, wake: list[_Wake]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for loop, future, result in wake:
            loops.setdefault(loop, []).append((future, result))
        for loop, results in loops.items():
            try:
                loop.call_soon_threadsafe(self._resolve, results)
            except RuntimeError:  # that loop is closed: nobody awaits any more
                self._owed.extend(undoing for _, result in results for undoing in _undoing(result))

    def _resolve(self, results: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for future, result in results:
            if future.done():
                self._take_back(result)
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _take_back(self, result: Any) -> None:
        for operation in _undoing(result):
            self.apply_later(operation)


def _undoing(result: Any) -> list[Operation]:
    # The request was cancelled while its authorization was being written: no handler will run for it.
    outcomes = result if isinstance(result, list) else ()
    return [undoing for outcome in outcomes if (undoing := undo(outcome)) is not None]


_RUNNING: "weakref.WeakSet[Ledger]" = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    # An application whose lifespan does not run never closes its ledger.
    for ledger in list(_RUNNING):
        ledger.flush(EXIT_SECONDS)
