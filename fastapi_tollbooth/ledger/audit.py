"""Proof: replay every transfer and compare with what the accounts say.

Reads the journal in order of id, in chunks, on one consistent snapshot, so it can run beside a serving application.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, func, select

from fastapi_tollbooth.ledger.tables import metadata

CHUNK = 10_000

_account = metadata.tables["tollbooth_account"]
_transfer = metadata.tables["tollbooth_transfer"]
_cap = metadata.tables["tollbooth_cap"]
_capped_toll = metadata.tables["tollbooth_capped_toll"]
_checkpoint = metadata.tables["tollbooth_checkpoint"]
_payment = metadata.tables["tollbooth_payment"]


class Audit(NamedTuple):
    """What a replay of the whole ledger found; ``discrepancy`` is the first thing that is wrong, if any is."""

    accounts: int
    transfers: int
    payments: int
    open_tolls: int
    discrepancy: str | None


class _Entry(NamedTuple):
    id: int
    debit: int
    credit: int
    amount: int
    kind: str
    phase: str
    toll_id: int | None


@dataclass(slots=True)
class _Replay:
    transfers: int = 0
    posted: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    pending: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[int, _Entry] = field(default_factory=dict)
    owed: dict[int, _Entry] = field(default_factory=dict)
    problem: str | None = None


def verify(connection: Connection) -> Audit:
    """Replay the ledger. Sums to zero per asset, no payer below zero, pendings resolved once, balances as replayed.

    What is counted under caps is at least what their tolls cost; more where some of these are archived.
    """
    replay = _Replay()
    for account_id, posted in connection.execute(select(_checkpoint.c.account_id, _checkpoint.c.posted)):
        replay.posted[account_id] = posted
    for entry in _journal(connection):
        replay.transfers += 1
        problem = _apply(replay, entry)
        replay.problem = replay.problem or problem
    accounts = list(connection.execute(select(_account).order_by(_account.c.id)))
    payments = connection.execute(select(func.count()).select_from(_payment)).scalar_one()
    problem = replay.problem or _compare(replay, accounts) or _corrections(connection) or _caps(connection)
    return Audit(
        len(accounts),
        replay.transfers,
        payments,
        sum(held.kind == "charge" for held in replay.held.values()),
        problem,
    )


def _journal(connection: Connection) -> Iterator[_Entry]:
    columns = ("id", "debit_account_id", "credit_account_id", "amount", "kind", "phase", "toll_id")
    last = 0
    while True:
        statement = (
            select(*(_transfer.c[name] for name in columns))
            .where(_transfer.c.id > last)
            .order_by(_transfer.c.id)
            .limit(CHUNK)
        )
        rows = connection.execute(statement).all()
        yield from (_Entry(*row) for row in rows)
        if len(rows) < CHUNK:
            return
        last = rows[-1][0]


def _apply(replay: _Replay, entry: _Entry) -> str | None:
    if entry.phase == "pending":
        replay.held[entry.id] = entry
        replay.pending[entry.debit] += entry.amount
        return None
    problem = _follow(replay, entry) if entry.toll_id is not None else None
    replay.posted[entry.debit] -= entry.amount
    replay.posted[entry.credit] += entry.amount
    return problem


def _follow(replay: _Replay, entry: _Entry) -> str | None:
    """Check a transfer against the toll that it belongs to, and take its promise back."""
    toll = entry.toll_id or 0
    if entry.kind in ("refund", "adjust"):
        return None
    held = replay.held.get(toll)
    if held is not None and held.kind == entry.kind:
        del replay.held[toll]
        replay.pending[held.debit] -= held.amount
        if held.kind == "fund" and entry.phase == "post":
            replay.owed[toll] = entry
        if held.debit != entry.debit or entry.amount > held.amount:
            return f"transfer {entry.id} takes more than transfer {toll} promised, or from another account"
        return None
    paid = replay.owed.pop(toll, None)
    if paid is None or entry.kind != "charge":
        return f"transfer {entry.id} resolves {toll}, which is not open"
    if paid.credit != entry.debit or entry.amount > paid.amount:
        return f"transfer {entry.id} charges more than payment {toll} brought in, or another account"
    return None


def _corrections(connection: Connection) -> str | None:
    """The first refund or adjustment that gives back more than its toll has earned."""
    charge, change = _transfer.alias("charge"), _transfer.alias("change")
    back = case((change.c.credit_account_id == charge.c.debit_account_id, change.c.amount), else_=-change.c.amount)
    statement = (
        select(change.c.toll_id)
        .outerjoin(charge, (charge.c.toll_id == change.c.toll_id) & (charge.c.kind == "charge"))
        .where(change.c.kind.in_(("refund", "adjust")))
        .group_by(change.c.toll_id)
        .having(func.sum(back) > func.coalesce(func.max(charge.c.amount), 0))
        .order_by(change.c.toll_id)
        .limit(1)
    )
    toll = connection.execute(statement).scalar()
    return None if toll is None else f"the corrections of toll {toll} give back more than it earned"


def _caps(connection: Connection) -> str | None:
    """The first cap that counts less than its tolls cost."""
    names = ("promise", "charge", "refund", "adjust")
    promise, charge, refund, adjust = (_transfer.alias(name) for name in names)
    more = case((adjust.c.debit_account_id == promise.c.debit_account_id, adjust.c.amount), else_=-adjust.c.amount)
    earned = charge.c.amount - func.coalesce(refund.c.amount, 0) + func.coalesce(more, 0)
    cost = func.sum(func.coalesce(earned, promise.c.amount))
    used = func.coalesce(func.max(_cap.c.used), 0)
    statement = select(_capped_toll.c.key, used, cost).join(promise, promise.c.id == _capped_toll.c.toll_id)
    for each, kind in ((charge, "charge"), (refund, "refund"), (adjust, "adjust")):
        statement = statement.outerjoin(each, (each.c.toll_id == promise.c.id) & (each.c.kind == kind))
    statement = statement.outerjoin(_cap, _cap.c.key == _capped_toll.c.key).group_by(_capped_toll.c.key)
    found = connection.execute(statement.having(cost > used).order_by(_capped_toll.c.key).limit(1)).first()
    return None if found is None else f"cap {found[0]} counts {found[1]}, and its tolls cost {found[2]}"


def _compare(replay: _Replay, accounts: Sequence[Sequence[Any]]) -> str | None:
    sums: defaultdict[str, int] = defaultdict(int)
    missing = min((replay.posted.keys() | replay.pending.keys()) - {account[0] for account in accounts}, default=None)
    if missing is not None:
        return f"there are transfers of account {missing}, and no such account"
    for account in accounts:
        id_, key, kind, asset, posted, pending, *_ = account
        sums[asset] += posted
        if posted != replay.posted[id_]:
            return f"account {key} says {posted} posted, its transfers say {replay.posted[id_]}"
        if pending != replay.pending[id_]:
            return f"account {key} says {pending} pending, its transfers say {replay.pending[id_]}"
        if kind == "payer" and not 0 <= pending <= posted:
            return f"account {key} has {posted} posted and {pending} pending: below zero"
    unequal = next((asset for asset, total in sums.items() if total), None)
    return None if unequal is None else f"the accounts in {unequal} sum to {sums[unequal]}, not to zero"
