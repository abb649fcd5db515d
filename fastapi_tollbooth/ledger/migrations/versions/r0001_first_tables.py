"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Accounts, transfers, payments, the sweeper's place, paid invoices of the development node, and a row of ids."""
    if op.get_bind().dialect.supports_sequences:
        op.execute(sa.schema.CreateSequence(sa.Sequence("tollbooth_id", increment=10_000)))
    op.create_table(
        "tollbooth_account",
        sa.Column("id", _key, autoincrement=False, nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("posted", sa.BigInteger(), nullable=False),
        sa.Column("pending", sa.BigInteger(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.Column("expires_at", _moment, nullable=True),
        sa.Column("created_at", _moment, nullable=False),
        sa.CheckConstraint("kind = 'book' OR (pending >= 0 AND posted >= pending)", name="never_below_zero"),
        sa.PrimaryKeyConstraint("id", name="pk_tollbooth_account"),
        sa.UniqueConstraint("key", name="uq_tollbooth_account_key"),
    )
    op.create_table(
        "tollbooth_transfer",
        sa.Column("id", _key, autoincrement=False, nullable=False),
        sa.Column("debit_account_id", sa.BigInteger(), nullable=False),
        sa.Column("credit_account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("pending_id", sa.BigInteger(), nullable=True),
        sa.Column("route", sa.String(), nullable=True),
        sa.Column("created_at", _moment, nullable=False),
        sa.CheckConstraint("amount >= 0", name="amount_not_negative"),
        sa.CheckConstraint("(pending_id IS NULL) = (phase = 'pending' OR kind = 'fund')", name="resolves_a_pending"),
        sa.ForeignKeyConstraint(
            ["debit_account_id"], ["tollbooth_account.id"], name="fk_tollbooth_transfer_debit_account_id"
        ),
        sa.ForeignKeyConstraint(
            ["credit_account_id"], ["tollbooth_account.id"], name="fk_tollbooth_transfer_credit_account_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_tollbooth_transfer"),
    )
    op.create_index(
        "uq_tollbooth_transfer_pending_id",
        "tollbooth_transfer",
        ["pending_id"],
        unique=True,
        sqlite_where=sa.text("pending_id IS NOT NULL"),
        postgresql_where=sa.text("pending_id IS NOT NULL"),
    )
    op.create_index("ix_tollbooth_transfer_debit_account_id_id", "tollbooth_transfer", ["debit_account_id", "id"])
    op.create_table(
        "tollbooth_payment",
        sa.Column("spend_key", sa.String(), nullable=False),
        sa.Column("rail", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("payer", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=True),
        sa.Column("rate", sa.String(), nullable=True),
        sa.Column("created_at", _moment, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["tollbooth_account.id"], name="fk_tollbooth_payment_account_id"),
        sa.PrimaryKeyConstraint("spend_key", name="pk_tollbooth_payment"),
    )
    op.create_table(
        "tollbooth_sweep",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("looked_up_to", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("leased_until", _moment, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_tollbooth_sweep"),
    )
    op.create_table(
        "tollbooth_dev_invoice",
        sa.Column("payment_hash", sa.String(), nullable=False),
        sa.Column("amount_msat", sa.BigInteger(), nullable=False),
        sa.Column("paid_at", _moment, nullable=False),
        sa.PrimaryKeyConstraint("payment_hash", name="pk_tollbooth_dev_invoice"),
    )
