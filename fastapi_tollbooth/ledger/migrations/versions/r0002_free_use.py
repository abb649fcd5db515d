"""What is used without payment is counted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """A row per day, bucket and client."""
    # A SQLite file from before there were revisions may have it.
    op.create_table(
        "tollbooth_free_use",
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("used >= 0", name="used_not_negative"),
        sa.PrimaryKeyConstraint("day", "bucket", "client", name="pk_tollbooth_free_use"),
        if_not_exists=True,
    )
