"""How Alembic runs the revisions: on the connection, and in the transaction, of whoever called it."""

from alembic import context

from fastapi_tollbooth.ledger.schema import VERSION_TABLE
from fastapi_tollbooth.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
