"""Answers to requests that have an identifier, and the credential that a payment was claimed with."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """What is given again to whoever sends the same payment for the same request."""
    op.add_column("tollbooth_payment", sa.Column("digest", sa.String(), nullable=True))
    op.create_table(
        "tollbooth_answer",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("spend_key", sa.String(), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_tollbooth_answer"),
    )
    op.create_index("ix_tollbooth_answer_expires_at", "tollbooth_answer", ["expires_at"])
