"""The index of statements holds what they are made of: what was posted, and no promises."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_INDEX = "ix_tollbooth_transfer_debit_account_id_id"
_POSTED = sa.text("phase = 'post'")


def upgrade() -> None:
    """Half as many entries, and half as many pages to write for each batch."""
    op.drop_index(_INDEX, "tollbooth_transfer")
    op.create_index(
        _INDEX,
        "tollbooth_transfer",
        ["debit_account_id", "id"],
        sqlite_where=_POSTED,
        postgresql_where=_POSTED,
    )
