"""Recovery: what a crash left pending is found and given back.

A process that dies between a charge and its capture leaves a pending transfer behind. Past its deadline nobody will
resolve it any more, so the sweeper voids it, in the payer's favour. One worker sweeps at a time, under a lease in the
database, and remembers how far it has looked: each transfer is looked at once or twice, however large the journal is.
"""

import asyncio
import logging
import secrets
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import Connection, func, insert, or_, select, update

from fastapi_tollbooth.ledger.operations import Resolved, Void
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.ledger.writer import Ledger

logger = logging.getLogger("fastapi_tollbooth.ledger")

LEASE = timedelta(minutes=5)
STRETCH = 5_000
"""How many rows are looked at in one go: requests wait for the ledger meanwhile."""
AT_ONCE = 500

UNSETTLED = timedelta(minutes=2)
"""What is younger is looked at again. On PostgreSQL a transaction may commit after one that has higher ids; none of
them lives that long, and no two clocks should differ by as much."""

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
    now, swept, looked_up_to = datetime.now(UTC), 0, start
    try:
        end = await ledger.read(partial(_last_before, after=start, moment=now - deadline))
        while looked_up_to < end:
            last, open_tolls = await ledger.read(partial(_find, after=looked_up_to, end=end, moment=now - deadline))
            for some in range(0, len(open_tolls), AT_ONCE):
                voids = [ledger.apply(Void(account, toll)) for account, toll in open_tolls[some : some + AT_ONCE]]
                outcomes = await asyncio.gather(*voids)
                swept += sum(outcome == [Resolved("void")] for outcome in outcomes)
            looked_up_to = last
    finally:
        settled = partial(_last_before, after=start, moment=now - max(deadline, UNSETTLED))
        looked_up_to = min(looked_up_to, await ledger.read(settled))
        await ledger.execute(partial(_release, owner=owner, looked_up_to=looked_up_to))
    if swept:
        logger.warning("%d tolls were left open by a process that ended; their money was given back", swept)
    return swept


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


def _last_before(connection: Connection, after: int, moment: datetime) -> int:
    """The last transfer that was written before the moment, or ``after`` if none was since."""
    # Ids grow with time, so this is a search by halves: the rows of the last deadline may be millions.
    low, high = after, int(connection.execute(select(func.coalesce(func.max(_transfer.c.id), after))).scalar_one())
    while low < high:
        middle = (low + high + 1) // 2
        row = select(_transfer.c.id, _transfer.c.created_at).where(_transfer.c.id >= middle)
        id_, created_at = connection.execute(row.order_by(_transfer.c.id).limit(1)).one()
        if created_at < moment:
            low = id_
        else:
            high = middle - 1
    return low


def _find(connection: Connection, after: int, end: int, moment: datetime) -> tuple[int, list[tuple[int, int]]]:
    """The next stretch of the journal: where it ends, and the tolls in it that are still open, as (account, toll)."""
    within = (_transfer.c.id > after, _transfer.c.id <= end)
    stretch = select(_transfer.c.id).where(*within).order_by(_transfer.c.id).limit(STRETCH).subquery()
    last = int(connection.execute(select(func.max(stretch.c.id))).scalar_one())
    open_tolls = (
        select(_transfer.c.debit_account_id, _transfer.c.id)
        .outerjoin(_resolution, (_resolution.c.toll_id == _transfer.c.id) & (_resolution.c.kind == "charge"))
        .where(_transfer.c.id > after, _transfer.c.id <= last, _transfer.c.created_at < moment)
        .where(_transfer.c.phase == "pending", _transfer.c.kind == "charge", _resolution.c.id.is_(None))
        .order_by(_transfer.c.id)
    )
    return last, [(account, toll) for account, toll in connection.execute(open_tolls)]
