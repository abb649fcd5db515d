"""Requests that their payers gave identifiers, and their answers, for as long as they may be asked for again.

Whoever is to use a payment takes its identifier first, claims the payment then, and looks whether it still has the
identifier before anything is done for it. Each step is a transaction that no other process runs beside, so of two
payments under one identifier one at most gets through, and nothing has to be undone after a crash.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from fastapi_tollbooth.ledger.records import PaymentState
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.ledger.writer import Ledger

CHUNK = 1_000

_NOT_MADE = (None, PaymentState.RELEASED, PaymentState.FAILED)
_answer = metadata.tables["tollbooth_answer"]
_payment = metadata.tables["tollbooth_payment"]


class Entry(NamedTuple):
    """An identifier, as a hash, the payment that came with it, and what was asked, as a hash."""

    key: str
    spend_key: str
    request: str


class Found(NamedTuple):
    """What an identifier stands for; ``digest`` is that of the payment as it came first, ``sealed`` the answer."""

    spend_key: str
    request: str
    sealed: bytes | None
    digest: str | None


def take(connection: Connection, entry: Entry, until: datetime) -> Found | None:
    """Have an identifier stand for this payment; or what it stands for, where that has come to something.

    One whose payment was not made is free again; one that this payment has, without an answer, is its own.
    """
    now = datetime.now(UTC)
    columns = (_answer.c.spend_key, _answer.c.request, _answer.c.sealed, _payment.c.digest)
    query = (
        select(*columns, _answer.c.expires_at, _payment.c.state)
        .outerjoin(_payment, _payment.c.spend_key == _answer.c.spend_key)
        .where(_answer.c.key == entry.key)
    )
    row = connection.execute(query).first()
    values = {"spend_key": entry.spend_key, "request": entry.request, "sealed": None, "expires_at": until}
    if row is None:
        connection.execute(insert(_answer).values(key=entry.key, **values))
        return None
    *found, expires_at, state = row
    known = Found(*found)
    if expires_at > now and state not in _NOT_MADE and (known.spend_key != entry.spend_key or known.sealed):
        return known
    connection.execute(update(_answer).where(_answer.c.key == entry.key).values(**values))
    return None


def has(connection: Connection, entry: Entry) -> bool:
    """Whether the identifier still stands for the payment."""
    query = select(_answer.c.key).where(_answer.c.key == entry.key, _answer.c.spend_key == entry.spend_key)
    return connection.execute(query).first() is not None


def keep(connection: Connection, entry: Entry, toll: int, sealed: bytes, until: datetime) -> None:
    """Keep the answer that the payment's request got, if the payment is still claimed for that toll.

    One that took too long has lost its claim, and the answer that is there may be the one that was paid.
    """
    claimed = select(_payment.c.spend_key).where(_payment.c.spend_key == entry.spend_key, _payment.c.toll_id == toll)
    mine = (_answer.c.key == entry.key, _answer.c.spend_key == entry.spend_key, claimed.exists())
    values = {"request": entry.request, "sealed": sealed, "expires_at": until}
    connection.execute(update(_answer).where(*mine).values(**values))


def find(connection: Connection, key: str) -> Found | None:
    """What an identifier stands for now."""
    query = (
        select(_answer.c.spend_key, _answer.c.request, _answer.c.sealed, _payment.c.digest)
        .outerjoin(_payment, _payment.c.spend_key == _answer.c.spend_key)
        .where(_answer.c.key == key, _answer.c.expires_at > datetime.now(UTC))
    )
    row = connection.execute(query).first()
    return None if row is None else Found(*row)


async def prune(ledger: Ledger) -> int:
    """Delete what has expired, a chunk at a time; how much that was.

    Raises:
        Unavailable: the database did not answer.
    """
    pruned, chunk = 0, CHUNK
    while chunk == CHUNK and await ledger.read(_has_expired):
        chunk = await ledger.execute(_prune_some)
        pruned += chunk
    return pruned


def _has_expired(connection: Connection) -> bool:
    query = select(_answer.c.key).where(_answer.c.expires_at <= datetime.now(UTC)).limit(1)
    return connection.execute(query).first() is not None


def _prune_some(connection: Connection) -> int:
    expired = select(_answer.c.key).where(_answer.c.expires_at <= datetime.now(UTC)).limit(CHUNK)
    return connection.execute(delete(_answer).where(_answer.c.key.in_(expired.scalar_subquery()))).rowcount
