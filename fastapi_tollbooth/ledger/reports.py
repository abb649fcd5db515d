"""What the books say, as an owner reads them: balances, statements, tolls, payments. Only reads.

Every function takes a connection, so that a report is of one consistent snapshot, beside a serving application too.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, case, func, literal_column, or_, select

from fastapi_tollbooth.ledger.records import GRANT, Kind, PaymentState, source_key
from fastapi_tollbooth.ledger.tables import STRETCH, metadata
from fastapi_tollbooth.money import Asset, Money

CHUNK = 10_000
STRETCHES = 8
"""So many of the journal's stretches are looked through for one account at a time."""

DISORDER = timedelta(minutes=2)
"""A movement of one account may bear an earlier time than one of another before it, because workers on several machines
have clocks of their own. No two should differ by as much."""

TollState = Literal["open", "captured", "voided"]
Movement = Kind | Literal["grant"]
"""Why money moved: credit that nobody paid for, because the owner gave it, is a grant."""

_account = metadata.tables["tollbooth_account"]
_transfer = metadata.tables["tollbooth_transfer"]
_payment = metadata.tables["tollbooth_payment"]
_checkpoint = metadata.tables["tollbooth_checkpoint"]
_charge, _refund, _adjust = (_transfer.alias(name) for name in ("charge", "refund", "adjust"))

# In the words of partial indexes, and beside their columns: else databases do not see that these hold all that matters.
_IS_POSTED = _transfer.c.phase == literal_column("'post'")
_STRETCH: ColumnElement[int] = literal_column(f"(tollbooth_transfer.id / {STRETCH})")
_IS_NO_CHARGE = _transfer.c.kind != literal_column("'charge'")


class Balance(NamedTuple):
    """What an account holds: ``held`` is promised to requests that are still running."""

    account: str
    available: Money
    held: Money
    revoked: bool
    expires_at: datetime | None


class Entry(NamedTuple):
    """One movement of a payer's money. ``amount`` is in the asset's smallest unit, below zero when it was spent."""

    id: int
    at: datetime
    account: str
    kind: Movement
    route: str | None
    toll: int | None
    asset: Asset
    amount: int
    balance: int


class TollEntry(NamedTuple):
    """One toll: what was held, and what it has cost so far, corrections included."""

    toll: int
    at: datetime
    account: str
    route: str | None
    state: TollState
    held: Money
    cost: Money


class PaymentEntry(NamedTuple):
    """One external payment."""

    spend_key: str
    at: datetime
    rail: str
    state: PaymentState
    account: str
    amount: Money
    payer: str
    reference: str | None
    rate: str | None


class TollFilter(NamedTuple):
    """Which tolls: those that began from ``since`` on and before ``until``, the newest ``limit``. None is any."""

    account: str | None = None
    route: str | None = None
    state: TollState | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100


class PaymentFilter(NamedTuple):
    """Which payments: those that came from ``since`` on and before ``until``, the newest ``limit``. None is any."""

    account: str | None = None
    rail: str | None = None
    state: PaymentState | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100


ALL_TOLLS, ALL_PAYMENTS = TollFilter(), PaymentFilter()


def aware(moment: datetime) -> datetime:
    """A moment that an owner named: in UTC where it says nothing else."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def balance(connection: Connection, account: str) -> Balance | None:
    """What an account holds now; None when there is none of that key."""
    row = connection.execute(select(_account).where(_account.c.key == account)).first()
    return None if row is None else _balance(row)


def is_payer(connection: Connection, account: str) -> bool:
    """Whether there is such an account, and it is not one of the service's own."""
    found = select(_account.c.id).where(_account.c.key == account, _account.c.kind == "payer")
    return connection.execute(found).first() is not None


def balances(connection: Connection, *, limit: int = 100) -> list[Balance]:
    """The accounts of payers, those that were opened last first."""
    payers = select(_account).where(_account.c.kind == "payer").order_by(_account.c.id.desc()).limit(limit)
    return [_balance(row) for row in connection.execute(payers)]


def statement(
    connection: Connection,
    account: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[Entry]:
    """Every movement of the money of one payer, or of all, oldest first, with the balance after each."""
    since, until = since and aware(since), until and aware(until)
    checkpoints = connection.execute(select(_checkpoint.c.account_id, _checkpoint.c.posted))
    held: dict[int, int] = {row.account_id: row.posted for row in checkpoints}
    given = {source_key(GRANT, asset) for asset in Asset}
    granting = set(connection.execute(select(_account.c.id).where(_account.c.key.in_(given))).scalars())
    payer = _account.alias("payer")
    is_debit = payer.c.id == _transfer.c.debit_account_id
    moved = case((is_debit, -_transfer.c.amount), else_=_transfer.c.amount)
    columns: list[ColumnElement[Any]] = [
        _transfer.c.id,
        _transfer.c.created_at,
        payer.c.id,
        payer.c.key,
        _transfer.c.kind,
        _transfer.c.route,
        _transfer.c.toll_id,
        payer.c.asset,
        moved,
        _transfer.c.debit_account_id,
    ]
    spent = _transfer.c.debit_account_id == payer.c.id
    received = (_transfer.c.credit_account_id == payer.c.id) & _IS_NO_CHARGE
    movements: Select[Any] = (
        select(*columns)
        .select_from(_transfer)
        .join(payer, or_(spent, received) if account is None else payer.c.key == account)
        .where(payer.c.kind == "payer", _IS_POSTED)
        .order_by(_transfer.c.id)
    )
    found = _in_chunks(connection, movements) if account is None else _in_stretches(connection, movements, account)
    for row in found:
        id_, at, payer_id, name, kind, route, toll, asset, amount, source = tuple(row)
        held[payer_id] = held.get(payer_id, 0) + amount
        if until is not None and at >= until + DISORDER:
            return
        if (since is None or at >= since) and (until is None or at < until):
            movement: Movement = "grant" if source in granting else kind
            yield Entry(id_, at, name, movement, route, toll, Asset(asset), amount, held[payer_id])


def tolls(connection: Connection, which: TollFilter = ALL_TOLLS) -> list[TollEntry]:
    """Tolls, newest first."""
    payer = _account.alias("payer")
    payer_id = func.coalesce(_charge.c.debit_account_id, _transfer.c.debit_account_id)
    back = case((_adjust.c.debit_account_id == payer_id, -_adjust.c.amount), else_=_adjust.c.amount)
    cost = func.coalesce(_charge.c.amount, 0) - func.coalesce(back, 0) - func.coalesce(_refund.c.amount, 0)
    columns = (_transfer.c.id, _transfer.c.created_at, payer.c.key, _transfer.c.route, _charge.c.phase)
    query = (
        select(*columns, payer.c.asset, _transfer.c.amount, cost)
        .outerjoin(_charge, (_charge.c.toll_id == _transfer.c.id) & (_charge.c.kind == "charge"))
        .outerjoin(_refund, (_refund.c.toll_id == _transfer.c.id) & (_refund.c.kind == "refund"))
        .outerjoin(_adjust, (_adjust.c.toll_id == _transfer.c.id) & (_adjust.c.kind == "adjust"))
        .join(payer, payer.c.id == payer_id)
        .where(_transfer.c.phase == "pending", or_(_transfer.c.kind == "charge", _charge.c.id.is_not(None)))
        .where(*_between(_transfer.c.created_at, which.since, which.until))
        .where(*_equal((payer.c.key, which.account), (_transfer.c.route, which.route)))
        .order_by(_transfer.c.id.desc())
        .limit(which.limit)
    )
    if which.state is not None:
        phase = {"open": None, "captured": "post", "voided": "void"}[which.state]
        query = query.where(_charge.c.phase == phase if phase else _charge.c.phase.is_(None))
    return [
        TollEntry(id_, at, key, on, _state(phase), Money(held, Asset(asset)), Money(cost_, Asset(asset)))
        for id_, at, key, on, phase, asset, held, cost_ in connection.execute(query)
    ]


def payments(connection: Connection, which: PaymentFilter = ALL_PAYMENTS) -> list[PaymentEntry]:
    """External payments, newest first."""
    query = (
        select(_payment, _account.c.key)
        .join(_account, _account.c.id == _payment.c.account_id)
        .where(*_between(_payment.c.created_at, which.since, which.until))
        .where(*_equal((_account.c.key, which.account), (_payment.c.rail, which.rail), (_payment.c.state, which.state)))
        .order_by(_payment.c.created_at.desc())
        .limit(which.limit)
    )
    return [
        PaymentEntry(
            row.spend_key,
            row.created_at,
            row.rail,
            PaymentState(row.state),
            row.key,
            Money(row.amount, Asset(row.asset)),
            row.payer,
            row.reference,
            row.rate,
        )
        for row in connection.execute(query)
    ]


def payer_of(connection: Connection, toll: int) -> tuple[int, Asset] | None:
    """The account that pays a toll, and its asset; None when there is no such toll."""
    payer_id = func.coalesce(_charge.c.debit_account_id, _transfer.c.debit_account_id)
    query = (
        select(_account.c.id, _account.c.asset)
        .select_from(_transfer)
        .outerjoin(_charge, (_charge.c.toll_id == _transfer.c.id) & (_charge.c.kind == "charge"))
        .join(_account, _account.c.id == payer_id)
        .where(_transfer.c.id == toll, _transfer.c.phase == "pending")
        .where(or_(_transfer.c.kind == "charge", _charge.c.id.is_not(None)))
    )
    row = connection.execute(query).first()
    return None if row is None else (int(row[0]), Asset(row[1]))


def _in_chunks(connection: Connection, query: Select[Any]) -> Iterator[Row[Any]]:
    last = 0
    while True:
        rows = connection.execute(query.where(_transfer.c.id > last).limit(CHUNK)).all()
        yield from rows
        if len(rows) < CHUNK:
            return
        last = rows[-1][0]


def _in_stretches(connection: Connection, query: Select[Any], account: str) -> Iterator[Row[Any]]:
    key = select(_account.c.id).where(_account.c.key == account).scalar_subquery()
    # Each in a query of its own: SQLite looks at the end of an index for one of them, and at all of it for both.
    oldest, newest = (connection.execute(select(end(_transfer.c.id))).scalar() for end in (func.min, func.max))
    if oldest is None or newest is None:
        return
    for first in range(oldest // STRETCH, newest // STRETCH + 1, STRETCHES):
        next_ = first + STRETCHES
        spent = _STRETCH.in_(range(first, next_)) & (_transfer.c.debit_account_id == key) & _IS_POSTED
        received = (_transfer.c.credit_account_id == key) & _IS_NO_CHARGE
        here = (_transfer.c.id >= first * STRETCH) & (_transfer.c.id < next_ * STRETCH)
        yield from connection.execute(query.where(or_(spent, received & here)))


def _between(at: ColumnElement[Any], since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    after = [] if since is None else [at >= aware(since)]
    return after if until is None else [*after, at < aware(until)]


def _equal(*pairs: tuple[ColumnElement[Any], str | None]) -> list[ColumnElement[bool]]:
    return [column == value for column, value in pairs if value is not None]


def _balance(row: Row[Any]) -> Balance:
    asset = Asset(row.asset)
    # The service's own books may be below zero, which is not an amount of money.
    available = Money(max(0, row.posted - row.pending), asset)
    return Balance(row.key, available, Money(row.pending, asset), bool(row.revoked), row.expires_at)


def _state(phase: str | None) -> TollState:
    return "open" if phase is None else "captured" if phase == "post" else "voided"
