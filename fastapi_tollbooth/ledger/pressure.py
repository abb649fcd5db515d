"""How much waits for the ledger, and what callers are told when it cannot keep up or does not answer."""

from typing import NamedTuple

from fastapi_tollbooth.errors import Unavailable


class Stats(NamedTuple):
    """What the writer of this process does: what waits now, and counts since its start.

    ``waiting`` are the requests that no batch has taken yet, ``writing`` those in the batch at hand, and ``owed`` the
    captures and voids that nobody waits for. ``operations`` divided by ``batches`` is the mean size of a batch, and
    ``last_batch`` the size of the latest.
    """

    waiting: int
    writing: int
    owed: int
    batches: int
    operations: int
    last_batch: int
    failed_batches: int
    refused: int


def ledger_busy() -> Unavailable:
    """What a caller is told when more waits for the ledger than it can write soon."""
    return Unavailable("ledger_busy", "Too many requests wait for the service's books. Nothing was charged.")


def ledger_unavailable() -> Unavailable:
    """What a caller is told when the ledger cannot write."""
    return Unavailable("ledger_unavailable", "The service cannot keep its books at the moment. Nothing was charged.")
