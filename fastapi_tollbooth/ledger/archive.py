"""Growth: old transfers move out of the database into a file, and a checkpoint keeps what they added up to.

A toll is archived with all that followed from it, once it is resolved, so what remains still replays. Spend keys stay
in the database for ever: a payment whose transfers were archived is as spent as any.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, insert, or_, select, update

from fastapi_tollbooth.ledger.tables import metadata

CHUNK = 2_000
KEPT = timedelta(hours=1)
"""What was resolved later stays. A process that is slower than its toll's deadline, so that another one has voided the
toll, finds here that it is; it believes its own memory for a shorter time (`memory.REMEMBERED_SECONDS`)."""

_account = metadata.tables["tollbooth_account"]
_transfer = metadata.tables["tollbooth_transfer"]
_payment = metadata.tables["tollbooth_payment"]
_checkpoint = metadata.tables["tollbooth_checkpoint"]
_cap = metadata.tables["tollbooth_cap"]
_capped_toll = metadata.tables["tollbooth_capped_toll"]
_resolution = _transfer.alias("resolution")


def archive_some(connection: Connection, before: datetime, keep: Callable[[str], object]) -> int:
    """Move one chunk of transfers from before a moment out of the database; how many, zero when there are no more.

    Args:
        connection: Inside a transaction of its own.
        before: Tolls and payments that began earlier are archived, if they were resolved an hour ago.
        keep: Gets the transfers, a JSON object a line. What it was given is deleted when the transaction commits; after
            a crash in between, the same lines come again.
    """
    latest = datetime.now(UTC) - KEPT
    rows = _rows(connection, min(before, latest), latest)
    if not rows:
        # Holders make caps as they like, and a request that fails costs them nothing: one that is not used goes, too.
        connection.execute(delete(_cap).where(_cap.c.used == 0))
        return 0
    keep("".join(json.dumps(row._asdict(), default=_text) + "\n" for row in rows))
    ids = [row.id for row in rows]
    _add_to_checkpoints(connection, rows)
    # A delivered payment stays spent without the transfers that say so.
    delivered = [row.toll_id for row in rows if row.kind == "charge" and row.phase == "post"]
    connection.execute(update(_payment).where(_payment.c.toll_id.in_(delivered)).values(toll_id=None))
    connection.execute(delete(_capped_toll).where(_capped_toll.c.toll_id.in_(ids)))
    connection.execute(delete(_transfer).where(_transfer.c.id.in_(ids)))
    return len(rows)


def _rows(connection: Connection, before: datetime, latest: datetime) -> Sequence[Row[Any]]:
    newest = connection.execute(
        select(_transfer.c.id, _transfer.c.toll_id).order_by(_transfer.c.id.desc()).limit(1)
    ).first()
    if newest is None:
        return []
    # The newest transfer stays: the next one's id follows from it.
    begun = and_(_transfer.c.created_at < before, _transfer.c.id.not_in([newest.id, newest.toll_id or newest.id]))
    resolved = (
        select(_resolution.c.id)
        .where(
            _resolution.c.toll_id == _transfer.c.id,
            _resolution.c.kind == _transfer.c.kind,
            _resolution.c.created_at < latest,
        )
        .exists()
    )
    first = (
        select(_transfer.c.id)
        .where(begun, _transfer.c.toll_id.is_(None), or_(_transfer.c.phase != "pending", resolved))
        .order_by(_transfer.c.id)
        .limit(CHUNK)
    )
    ids = list(connection.execute(first).scalars())
    rows = select(_transfer).where(or_(_transfer.c.id.in_(ids), _transfer.c.toll_id.in_(ids))).order_by(_transfer.c.id)
    # A correction of one of these tolls either came before the lock and goes with it, or finds no toll any more.
    payers = {id_ for row in connection.execute(rows) for id_ in (row.debit_account_id, row.credit_account_id)}
    lock = select(_account.c.id).where(_account.c.id.in_(payers), _account.c.kind == "payer").order_by(_account.c.id)
    connection.execute(lock.with_for_update()).all()
    return connection.execute(rows).all()


def _add_to_checkpoints(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    moved: defaultdict[int, int] = defaultdict(int)
    up_to: dict[int, int] = {}
    for row in rows:
        if row.phase == "pending":
            continue
        for account, amount in ((row.debit_account_id, -row.amount), (row.credit_account_id, row.amount)):
            moved[account] += amount
            up_to[account] = row.id
    now = datetime.now(UTC)
    for account, amount in sorted(moved.items()):
        last = {"up_to": up_to[account], "created_at": now}
        changed = connection.execute(
            update(_checkpoint)
            .where(_checkpoint.c.account_id == account)
            .values(posted=_checkpoint.c.posted + amount, **last)
        )
        if not changed.rowcount:
            connection.execute(insert(_checkpoint).values(account_id=account, posted=amount, **last))


def _text(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
