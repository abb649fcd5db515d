"""Payments that are claimed before they are settled, corrections of tolls, and checkpoints for archived transfers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_moment = sa.DateTime(timezone=True)
_NAMED = sa.text("toll_id IS NOT NULL")
_RECEIVED = sa.text("kind <> 'charge'")
_ON_ITS_WAY = sa.text("state IN ('claimed', 'settling', 'unknown')")


def upgrade() -> None:
    """What follows from a toll names it; a payment knows its toll and when it last changed."""
    op.drop_index("uq_tollbooth_transfer_pending_id", "tollbooth_transfer")
    with op.batch_alter_table("tollbooth_transfer") as table:
        table.drop_constraint(op.f("ck_tollbooth_transfer_resolves_a_pending"), type_="check")
        table.alter_column("pending_id", new_column_name="toll_id")
        table.create_check_constraint("promise_is_its_own_toll", "phase <> 'pending' OR toll_id IS NULL")
        table.create_check_constraint("names_its_toll", "phase = 'pending' OR kind = 'fund' OR toll_id IS NOT NULL")
    op.create_index(
        "uq_tollbooth_transfer_toll_id_kind",
        "tollbooth_transfer",
        ["toll_id", "kind"],
        unique=True,
        sqlite_where=_NAMED,
        postgresql_where=_NAMED,
    )
    op.create_index(
        "ix_tollbooth_transfer_credit_account_id_id",
        "tollbooth_transfer",
        ["credit_account_id", "id"],
        sqlite_where=_RECEIVED,
        postgresql_where=_RECEIVED,
    )
    op.add_column("tollbooth_payment", sa.Column("toll_id", sa.BigInteger(), nullable=True))
    op.add_column("tollbooth_payment", sa.Column("expires_at", _moment, nullable=True))
    op.add_column("tollbooth_payment", sa.Column("updated_at", _moment, nullable=True))
    op.execute("UPDATE tollbooth_payment SET updated_at = created_at")
    with op.batch_alter_table("tollbooth_payment") as table:
        table.alter_column("updated_at", nullable=False)
    op.create_index(
        "ix_tollbooth_payment_unsettled",
        "tollbooth_payment",
        ["updated_at"],
        sqlite_where=_ON_ITS_WAY,
        postgresql_where=_ON_ITS_WAY,
    )
    op.create_index("ix_tollbooth_payment_account_id", "tollbooth_payment", ["account_id"])
    op.create_table(
        "tollbooth_checkpoint",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("up_to", sa.BigInteger(), nullable=False),
        sa.Column("posted", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["tollbooth_account.id"], name="fk_tollbooth_checkpoint_account_id"),
        sa.PrimaryKeyConstraint("account_id", name="pk_tollbooth_checkpoint"),
    )
