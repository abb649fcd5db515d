"""The tables in a database: which revision they have, and how they come to the one that this version needs.

The revisions are Alembic's, in ``migrations/versions``, kept in a version table of their own. Alembic is only imported
when there is something to migrate: tables that are not there yet are made from the metadata, which is the same and
takes a hundredth of the time.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.ledger.tables import metadata

FIRST, HEAD = "0001", "0007"
VERSION_TABLE = "tollbooth_alembic_version"
_MIGRATIONS = Path(__file__).parent / "migrations"


def revision(connection: Connection) -> str | None:
    """The revision of the ledger's tables; None when there are none."""
    inspector = inspect(connection)
    if inspector.has_table(VERSION_TABLE):
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - our own name
        if found is not None:
            return str(found)
    # The first tables were made before there were revisions.
    return FIRST if inspector.has_table("tollbooth_account") else None


def check(connection: Connection) -> None:
    """Make sure that the tables are those that this version works with.

    Raises:
        ConfigurationError: they are not there, or older, or newer.
    """
    found = revision(connection)
    if found == HEAD:
        return
    if found is not None and found > HEAD:
        raise _newer(found)
    state = "has no ledger yet" if found is None else f"has a ledger of revision {found}, and this version needs {HEAD}"
    raise ConfigurationError("outdated_ledger", f"the database {state}: run `fastapi-tollbooth db upgrade`")


def upgrade(connection: Connection, begin: str) -> None:
    """Bring the tables to the revision that this version needs, in one transaction: all of it happens, or nothing.

    Args:
        connection: In no transaction.
        begin: The statement that begins one beside which no other migrates.

    Raises:
        ConfigurationError: they are newer.
    """
    connection.exec_driver_sql(begin)
    try:
        _upgrade(connection)
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise


def _upgrade(connection: Connection) -> None:
    found = revision(connection)
    if found == HEAD and inspect(connection).has_table(VERSION_TABLE):
        return
    if found is not None and found > HEAD:
        raise _newer(found)
    if found is None:
        metadata.create_all(connection)
        _stamp(connection, HEAD)
    else:
        _stamp(connection, found)
        _migrate(connection)


def _newer(found: str) -> ConfigurationError:
    return ConfigurationError(
        "newer_ledger",
        f"the database has a ledger of revision {found}, which a newer version of fastapi-tollbooth made; this version "
        f"knows {HEAD}: install the newer version again",
    )


def _stamp(connection: Connection, revision: str) -> None:
    # As Alembic would, which is slow to import.
    connection.exec_driver_sql(
        f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} "
        f"(version_num VARCHAR(32) NOT NULL, CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
    )
    connection.exec_driver_sql(f"DELETE FROM {VERSION_TABLE}")  # noqa: S608 - our own name
    connection.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} VALUES ('{revision}')")  # noqa: S608 - the same


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
