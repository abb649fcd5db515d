"""The ledger's tables, on a registry of their own so that a host application's metadata never sees them."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import registry
from sqlalchemy.types import TypeDecorator
from sqlmodel import AutoString, Field, SQLModel

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ID_BLOCK = 10_000
"""How many ids a batch takes at once on PostgreSQL. SQLite, with one writer at a time, counts on from the last."""

ids = Sequence("tollbooth_id", metadata=metadata, increment=ID_BLOCK)


class Moment(TypeDecorator[datetime]):
    """A time, in UTC on both sides. SQLite keeps no time zone, and PostgreSQL answers in that of the session."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What the database is given."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What the database holds."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class TollboothTable(SQLModel, registry=registry(metadata=metadata)):
    """The base of every table of this package."""


def _key() -> Column[int]:
    return Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False)


def _account() -> Column[int]:
    return Column(BigInteger, ForeignKey("tollbooth_account.id"), nullable=False)


STRETCH = 16_384
"""How many ids in a row are one stretch of the journal."""

STRETCH_OF_ID = f"(id / {STRETCH})"


class AccountRow(TollboothTable, table=True):
    """An account: a payer's credit, or one of the service's own books."""

    __tablename__ = "tollbooth_account"
    __table_args__ = (
        CheckConstraint("kind = 'book' OR (pending >= 0 AND posted >= pending)", name="never_below_zero"),
    )

    id: int = Field(sa_column=_key())
    key: str = Field(sa_type=AutoString, unique=True)
    kind: str = Field(sa_type=AutoString)
    asset: str = Field(sa_type=AutoString)
    posted: int = Field(default=0, sa_type=BigInteger)
    pending: int = Field(default=0, sa_type=BigInteger)
    revoked: bool = Field(default=False)
    expires_at: datetime | None = Field(default=None, sa_column=Column(Moment(), nullable=True))
    created_at: datetime = Field(sa_column=Column(Moment(), nullable=False))


class TransferRow(TollboothTable, table=True):
    """One movement of money. Rows are only ever added."""

    __tablename__ = "tollbooth_transfer"
    __table_args__ = (
        CheckConstraint("amount >= 0", name="amount_not_negative"),
        CheckConstraint("phase <> 'pending' OR toll_id IS NULL", name="promise_is_its_own_toll"),
        CheckConstraint("phase = 'pending' OR kind = 'fund' OR toll_id IS NOT NULL", name="names_its_toll"),
        # On PostgreSQL each of these is a look-up and a lock for every row that is written, a third of what a batch
        # costs. There `verify` finds transfers of accounts that are not there.
        ForeignKeyConstraint(["debit_account_id"], ["tollbooth_account.id"]).ddl_if(dialect="sqlite"),
        ForeignKeyConstraint(["credit_account_id"], ["tollbooth_account.id"]).ddl_if(dialect="sqlite"),
        # Finds what has become of a toll, and lets it be resolved, refunded and reconciled once each.
        Index(
            "uq_tollbooth_transfer_toll_id_kind",
            "toll_id",
            "kind",
            unique=True,
            sqlite_where=text("toll_id IS NOT NULL"),
            postgresql_where=text("toll_id IS NOT NULL"),
        ),
        # The statement of an account: what it paid, and the far fewer rows of what it received. What it paid is found
        # by stretches of ids, so that a batch adds to a few pages, and not to one for each account.
        Index(
            "ix_tollbooth_transfer_stretch_debit_account_id_id",
            text(STRETCH_OF_ID),
            "debit_account_id",
            "id",
            sqlite_where=text("phase = 'post'"),
            postgresql_where=text("phase = 'post'"),
        ),
        Index(
            "ix_tollbooth_transfer_credit_account_id_id",
            "credit_account_id",
            "id",
            sqlite_where=text("kind <> 'charge'"),
            postgresql_where=text("kind <> 'charge'"),
        ),
    )

    id: int = Field(sa_column=_key())
    debit_account_id: int = Field(sa_type=BigInteger)
    credit_account_id: int = Field(sa_type=BigInteger)
    amount: int = Field(sa_type=BigInteger)
    kind: str = Field(sa_type=AutoString)
    phase: str = Field(sa_type=AutoString)
    toll_id: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    route: str | None = Field(default=None, sa_type=AutoString)
    created_at: datetime = Field(sa_column=Column(Moment(), nullable=False))


class PaymentRow(TollboothTable, table=True):
    """One external payment. The spend key stays for ever: it is what makes a payment count once."""

    __tablename__ = "tollbooth_payment"
    __table_args__ = (
        # What the sweeper looks for: the few payments whose money is still on its way.
        Index(
            "ix_tollbooth_payment_unsettled",
            "updated_at",
            sqlite_where=text("state IN ('claimed', 'settling', 'unknown')"),
            postgresql_where=text("state IN ('claimed', 'settling', 'unknown')"),
        ),
        # The payments behind an account, in its statement.
        Index("ix_tollbooth_payment_account_id", "account_id"),
    )

    spend_key: str = Field(sa_type=AutoString, primary_key=True)
    rail: str = Field(sa_type=AutoString)
    state: str = Field(sa_type=AutoString)
    account_id: int = Field(sa_column=_account())
    amount: int = Field(sa_type=BigInteger)
    asset: str = Field(sa_type=AutoString)
    payer: str = Field(sa_type=AutoString)
    reference: str | None = Field(default=None, sa_type=AutoString)
    rate: str | None = Field(default=None, sa_type=AutoString)
    digest: str | None = Field(default=None, sa_type=AutoString)
    toll_id: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    expires_at: datetime | None = Field(default=None, sa_column=Column(Moment(), nullable=True))
    created_at: datetime = Field(sa_column=Column(Moment(), nullable=False))
    updated_at: datetime = Field(sa_column=Column(Moment(), nullable=False))


class AnswerRow(TollboothTable, table=True):
    """A request that its payer gave an identifier, and its answer once there is one. Deleted when it expires.

    ``key`` and ``request`` are hashes, and ``sealed`` is opened by the payment that came with the request alone.
    """

    __tablename__ = "tollbooth_answer"
    __table_args__ = (Index("ix_tollbooth_answer_expires_at", "expires_at"),)

    key: str = Field(sa_type=AutoString, primary_key=True)
    spend_key: str = Field(sa_type=AutoString)
    request: str = Field(sa_type=AutoString)
    sealed: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    expires_at: datetime = Field(sa_column=Column(Moment(), nullable=False))


class CheckpointRow(TollboothTable, table=True):
    """What an account held up to a transfer, where the transfers before were archived."""

    __tablename__ = "tollbooth_checkpoint"

    account_id: int = Field(sa_column=Column(BigInteger, ForeignKey("tollbooth_account.id"), primary_key=True))
    up_to: int = Field(sa_type=BigInteger)
    posted: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(sa_column=Column(Moment(), nullable=False))


class CapRow(TollboothTable, table=True):
    """What credentials that were narrowed to so much spending have promised and spent. ``key`` is a hash."""

    __tablename__ = "tollbooth_cap"
    __table_args__ = (CheckConstraint("used >= 0", name="used_not_negative"),)

    key: str = Field(sa_type=AutoString, primary_key=True)
    used: int = Field(sa_type=BigInteger)
    updated_at: datetime = Field(sa_column=Column(Moment(), nullable=False))


class CappedTollRow(TollboothTable, table=True):
    """That a toll was promised under a cap of so much: what it gives back is the cap's again."""

    __tablename__ = "tollbooth_capped_toll"

    toll_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    key: str = Field(sa_type=AutoString, primary_key=True)
    most: int = Field(sa_type=BigInteger)
    asset: str = Field(sa_type=AutoString)


class SweepRow(TollboothTable, table=True):
    """How far the sweeper has looked through the journal, and which worker is looking now."""

    __tablename__ = "tollbooth_sweep"

    name: str = Field(sa_type=AutoString, primary_key=True)
    looked_up_to: int = Field(sa_type=BigInteger)
    owner: str | None = Field(default=None, sa_type=AutoString)
    leased_until: datetime | None = Field(default=None, sa_column=Column(Moment(), nullable=True))


class FreeUseRow(TollboothTable, table=True):
    """What one client used without payment on one day. ``client`` is a keyed hash; old days are deleted."""

    __tablename__ = "tollbooth_free_use"
    __table_args__ = (CheckConstraint("used >= 0", name="used_not_negative"),)

    day: str = Field(sa_type=AutoString, primary_key=True)
    bucket: str = Field(sa_type=AutoString, primary_key=True)
    client: str = Field(sa_type=AutoString, primary_key=True)
    used: int = Field(sa_type=BigInteger)


class DevInvoiceRow(TollboothTable, table=True):
    """An invoice of the development node that was paid; shared by all workers of the service."""

    __tablename__ = "tollbooth_dev_invoice"

    payment_hash: str = Field(sa_type=AutoString, primary_key=True)
    amount_msat: int = Field(sa_type=BigInteger)
    paid_at: datetime = Field(sa_column=Column(Moment(), nullable=False))
