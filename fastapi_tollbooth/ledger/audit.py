"""Proof: replay every transfer and compare with what the accounts say.

Reads the journal in order of id, in chunks, on one consistent snapshot, so it can run beside a serving application.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from fastapi_tollbooth.ledger.tables import metadata

CHUNK = 10_000

_account = metadata.tables["tollbooth_account"]
_transfer = metadata.tables["tollbooth_transfer"]
_payment = metadata.tables["tollbooth_payment"]


class Audit(NamedTuple):
    """What a replay of the whole ledger found; ``discrepancy`` is the first thing that is wrong, if any is."""

    accounts: int
    transfers: int
    payments: int
    open_tolls: int
    discrepancy: str | None


@dataclass(slots=True)
class _Replay:
    transfers: int = 0
    posted: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    pending: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[int, tuple[int, int]] = field(default_factory=dict)
    problem: str | None = None


def verify(connection: Connection) -> Audit:
    """Replay the ledger. Sums to zero per asset, no payer below zero, pendings resolved once, balances as replayed."""
    replay = _Replay()
    for row in _journal(connection):
        replay.transfers += 1
        replay.problem = replay.problem or _apply(replay, *row)
    accounts = list(connection.execute(select(_account).order_by(_account.c.id)))
    payments = connection.execute(select(_payment.c.account_id)).scalars().all()
    problem = replay.problem or _compare(replay, accounts)
    return Audit(len(accounts), replay.transfers, len(payments), len(replay.held), problem)


def _journal(connection: Connection) -> Iterator[Sequence[Any]]:
    columns = ("id", "debit_account_id", "credit_account_id", "amount", "phase", "pending_id")
    last = 0
    while True:
        statement = (
            select(*(_transfer.c[name] for name in columns))
            .where(_transfer.c.id > last)
            .order_by(_transfer.c.id)
            .limit(CHUNK)
        )
        rows = connection.execute(statement).all()
        yield from rows
        if len(rows) < CHUNK:
            return
        last = rows[-1][0]


def _apply(
    replay: _Replay, id_: int, debit: int, credit: int, amount: int, phase: str, pending_id: int | None
) -> str | None:
    if phase == "pending":
        replay.held[id_] = (debit, amount)
        replay.pending[debit] += amount
        return None
    if pending_id is not None:
        held = replay.held.pop(pending_id, None)
        if held is None:
            return f"transfer {id_} resolves {pending_id}, which is not open"
        if held[0] != debit or amount > held[1]:
            return f"transfer {id_} takes more than transfer {pending_id} promised, or from another account"
        replay.pending[debit] -= held[1]
    replay.posted[debit] -= amount
    replay.posted[credit] += amount
    return None


def _compare(replay: _Replay, accounts: Sequence[Sequence[Any]]) -> str | None:
    sums: defaultdict[str, int] = defaultdict(int)
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
