"""Caps on what narrowed credentials may spend."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """What was spent under each cap."""
    op.create_table(
        "tollbooth_cap",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("used >= 0", name=op.f("ck_tollbooth_cap_used_not_negative")),
        sa.PrimaryKeyConstraint("key", name="pk_tollbooth_cap"),
    )
