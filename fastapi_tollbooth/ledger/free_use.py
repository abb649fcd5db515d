"""The counters of what was used without payment: one row per day, bucket and client.

Each change is one statement, so that any number of workers count together, on SQLite and PostgreSQL alike.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, text

KEEP_DAYS = 7

_TAKE = text("""
INSERT INTO tollbooth_free_use (day, bucket, client, used) VALUES (:day, :bucket, :client, :amount)
ON CONFLICT (day, bucket, client) DO UPDATE SET used = tollbooth_free_use.used + :amount
 WHERE tollbooth_free_use.used + :amount <= :most
RETURNING used
""")
_ADD = text("""
INSERT INTO tollbooth_free_use (day, bucket, client, used) VALUES (:day, :bucket, :client, :amount)
ON CONFLICT (day, bucket, client) DO UPDATE SET used = tollbooth_free_use.used + :amount
""")
_GIVE_BACK = text("""
UPDATE tollbooth_free_use SET used = used - :amount
 WHERE day = :day AND bucket = :bucket AND client = :client AND used >= :amount
""")
_PRUNE = text("DELETE FROM tollbooth_free_use WHERE day < :day")
_SUM = text("""
SELECT day, bucket, count(*), sum(used) FROM tollbooth_free_use GROUP BY day, bucket ORDER BY day, bucket
""")


class Use(NamedTuple):
    """Something that one client used on one day. ``client`` is a keyed hash, never an address."""

    day: str
    bucket: str
    client: str
    amount: int


class DailyUse(NamedTuple):
    """What all clients used of one bucket on one day: requests, or money in the smallest unit of its asset."""

    day: str
    bucket: str
    clients: int
    used: int


def take(connection: Connection, use: Use, most: int) -> int | None:
    """Use something up; how much of the day is used then, or None, and nothing is changed, where that is too much."""
    if use.amount > most:
        return None
    used = connection.execute(_TAKE, {**use._asdict(), "most": most}).scalar()
    return None if used is None else int(used)


def give_back(connection: Connection, use: Use) -> None:
    """Undo a `take` whose request failed."""
    connection.execute(_GIVE_BACK, use._asdict())


def add(connection: Connection, uses: Sequence[Use]) -> None:
    """Count what there is no limit for."""
    connection.execute(_ADD, [use._asdict() for use in uses])


def prune(connection: Connection, today: date) -> None:
    """Forget the days that nobody needs any more."""
    connection.execute(_PRUNE, {"day": (today - timedelta(days=KEEP_DAYS)).isoformat()})


def daily(connection: Connection) -> list[DailyUse]:
    """What was used on each of the last `KEEP_DAYS` days."""
    return [DailyUse(day, bucket, int(clients), int(used)) for day, bucket, clients, used in connection.execute(_SUM)]
