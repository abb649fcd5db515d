"""What one process remembers of its ledger, so that most batches need to ask the database for nothing.

Open tolls: what this process has promised and not yet resolved. Another process may resolve one first; then the unique
index on resolutions fails the batch, all this is forgotten, and the next try loads the truth.

Accounts: what the last batches have made of them. They are the truth as long as nobody else has written, which only a
database with one writer at a time can tell: it gives a ``version`` that changes when anybody else writes. It means
nothing to another connection, and behind another one may be another past: each begins with an empty memory.
"""

import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from fastapi_tollbooth.ledger.naming import Names
from fastapi_tollbooth.ledger.records import Account, Book, Charge

OPEN_TOLLS = 100_000
ACCOUNTS = 20_000
REMEMBERED_SECONDS = 900.0
"""What was promised is remembered for one to three times as long. Then the journal says what became of it: by an hour
it may have been archived, and with it the rows that keep it from being resolved twice (`archive.KEPT`)."""


def _seconds() -> float:
    # Goes on while the machine sleeps, where there is such a clock.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class Memory:
    """Belongs to one connection and one thread. Whose batch fails, or who connects, calls `forget`."""

    def __init__(self) -> None:
        self._open: dict[int, Charge] = {}
        self._older: dict[int, Charge] = {}
        self._turned = _seconds()
        self._version: int | None = None
        self._next_id = 0
        self._accounts: dict[int, Account] = {}
        self._ids: dict[str, int | None] = {}

    def take_tolls(self, tolls: Iterable[int]) -> dict[int, Charge]:
        """Those of these tolls that are remembered. They are not, any more, until `remember` is told of them."""
        self._grow_older()
        found = ((toll, self._open.pop(toll, None) or self._older.pop(toll, None)) for toll in tolls)
        return {toll: charge for toll, charge in found if charge is not None}

    def book(self, names: Names, version: int | None) -> Book | None:
        """A book with the accounts of these names, if they are remembered and nothing else has to be loaded.

        Args:
            names: What a batch is about, without the tolls that are remembered.
            version: What the database says of itself, inside the transaction; None if it cannot tell who wrote.
        """
        if version is None or version != self._version:
            self.forget_accounts()
            self._version = version
        if names.tolls or names.spend_keys or names.caps:
            return None
        try:
            named = [self._ids[key] for key in names.keys]
            ids = names.ids.union(id_ for id_ in named if id_ is not None)
            accounts = [self._accounts[id_] for id_ in ids]
        except KeyError:
            return None
        book = Book(datetime.now(UTC), self._next_id)
        book.add(accounts)
        return book

    def is_ahead_of(self, book: Book) -> bool:
        """Whether a book that was loaded knows less than was written before: an older state was restored."""
        return book.next_id < self._next_id

    def remember(self, book: Book, names: Names) -> None:
        """What a batch has made of its book, now that it is durable. ``names`` are what it was about."""
        # One that was asked for and is still open was not promised just now: the next batch looks it up.
        asked = names.resolving | names.tolls
        open_ = {toll: charge for toll, charge in book.charges.items() if not (charge.resolved_by or toll in asked)}
        if len(self._open) + len(open_) <= OPEN_TOLLS:
            self._open.update(open_)
        if self._version is None:
            return
        self._next_id = book.next_id
        if len(self._accounts) + len(self._ids) > ACCOUNTS:
            self.forget_accounts()
            return
        self._accounts.update(book.accounts)
        for key in names.keys:
            account = book.find(key)
            # That there is none is worth knowing, too: nobody opens one unseen.
            self._ids[key] = None if account is None else account.id

    def forget(self) -> None:
        """Know nothing: somebody else wrote what is remembered here, or a batch failed half-way through its book."""
        self._open.clear()
        self._older.clear()
        self._next_id = 0
        self.forget_accounts()

    def forget_accounts(self) -> None:
        """Load every account anew, because this connection has written past the rules."""
        self._version = None
        self._accounts.clear()
        self._ids.clear()

    def _grow_older(self) -> None:
        elapsed = _seconds() - self._turned
        if elapsed >= REMEMBERED_SECONDS:
            self._older = self._open if elapsed < 2 * REMEMBERED_SECONDS else {}
            self._open, self._turned = {}, self._turned + elapsed
