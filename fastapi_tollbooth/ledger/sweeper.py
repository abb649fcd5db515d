"""Recovery: what a crash left pending is found and given back.

A process that dies between a charge and its capture leaves a pending transfer behind. Past its deadline nobody will
resolve it any more, so the sweeper voids it, in the payer's favour. One worker sweeps at a time, under a lease in the
database, and remembers how far it has looked: each transfer is looked at once, however large the journal grows.
"""

import asyncio
import logging
import secrets
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import Connection, func, insert, or_, select, update

from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.ledger.operations import Resolved, Void
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.ledger.writer import Ledger

logger = logging.getLogger("fastapi_tollbooth.ledger")

LEASE = timedelta(minutes=5)
LIMIT = 1_000

_transfer = metadata.tables["tollbooth_transfer"]
_sweep = metadata.tables["tollbooth_sweep"]
_resolution = _transfer.alias("resolution")


async def sweep(ledger: Ledger, deadline: timedelta) -> int:
    """Void the tolls that were promised longer than ``deadline`` ago and never resolved; how many there were.

    Raises:
        Unavailable: the database did not answer.
    """
    owner = secrets.token_hex(8)
    start = await ledger.execute(partial(_take_lease, owner=owner))
    if start is None:
        return 0
    looked_up_to, swept = start, 0
    try:
        while True:
            oldest = datetime.now(UTC) - deadline
            last, open_tolls = await ledger.read(partial(_find, looked_up_to=looked_up_to, oldest=oldest))
            outcomes = await asyncio.gather(*(ledger.apply(Void(account, toll)) for account, toll in open_tolls))
            swept += sum(outcome == [Resolved("void")] for outcome in outcomes)
            looked_up_to = last
            if len(open_tolls) < LIMIT:
                break
    finally:
        await ledger.execute(partial(_release, owner=owner, looked_up_to=looked_up_to))
    if swept:
        logger.warning("%d tolls were left open by a process that ended; their money was given back", swept)
    return swept


async def sweep_for_ever(ledger: Ledger, deadline: timedelta, every: timedelta) -> None:
    """Sweep now and then, until cancelled."""
    while True:
        try:
            if ledger.exists:
                await sweep(ledger, deadline)
        except Unavailable:
            logger.warning("the ledger could not be swept; it is tried again")
        await asyncio.sleep(every.total_seconds())


def _take_lease(connection: Connection, owner: str) -> int | None:
    now = datetime.now(UTC)
    if connection.execute(select(_sweep.c.name)).first() is None:
        connection.execute(insert(_sweep).values(name="tolls", looked_up_to=0, owner=None, leased_until=None))
    free = or_(_sweep.c.leased_until.is_(None), _sweep.c.leased_until < now)
    taken = connection.execute(update(_sweep).where(free).values(owner=owner, leased_until=now + LEASE))
    return int(connection.execute(select(_sweep.c.looked_up_to)).scalar_one()) if taken.rowcount else None


def _release(connection: Connection, owner: str, looked_up_to: int) -> None:
    released = {"looked_up_to": looked_up_to, "owner": None, "leased_until": None}
    connection.execute(update(_sweep).where(_sweep.c.owner == owner).values(**released))


def _find(connection: Connection, looked_up_to: int, oldest: datetime) -> tuple[int, list[tuple[int, int]]]:
    """How far the journal is old enough, and the open tolls on the way there, as (account, toll)."""
    old = select(func.max(_transfer.c.id)).where(_transfer.c.id > looked_up_to, _transfer.c.created_at < oldest)
    last = connection.execute(old).scalar()
    if last is None:
        return looked_up_to, []
    open_tolls = (
        select(_transfer.c.debit_account_id, _transfer.c.id)
        .outerjoin(_resolution, (_resolution.c.toll_id == _transfer.c.id) & (_resolution.c.kind == "charge"))
        .where(_transfer.c.id > looked_up_to, _transfer.c.id <= last)
        .where(_transfer.c.phase == "pending", _transfer.c.kind == "charge", _resolution.c.id.is_(None))
        .order_by(_transfer.c.id)
        .limit(LIMIT)
    )
    found = [(account, toll) for account, toll in connection.execute(open_tolls)]
    return (found[-1][1] if len(found) == LIMIT else int(last)), found
