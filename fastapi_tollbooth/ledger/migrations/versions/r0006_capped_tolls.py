"""Which tolls were promised under which caps."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """What a capped toll gives back is the cap's again."""
    op.create_table(
        "tollbooth_capped_toll",
        sa.Column("toll_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("most", sa.BigInteger(), nullable=False),
        sa.Column("asset", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("toll_id", "key", name="pk_tollbooth_capped_toll"),
    )
