"""Fixtures for the whole suite. Real parts: SQLite files, the real development node, the real rails."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Tollbooth, TollboothSettings
from tests.databases import DATABASES, PostgresServer, running_postgres, sqlite_url


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("TOLLBOOTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path) -> TollboothSettings:
    """Development settings on a SQLite file of the test's own; one payment buys ten requests."""
    return TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/tollbooth.db", top_up=10)


@pytest.fixture
def booth(settings: TollboothSettings) -> Tollbooth:
    """A real tollbooth: L402 over the development node, ledger in a file."""
    return Tollbooth(settings)


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Make a running client of an application: lifespan entered, left at the end of the test."""
    clients: list[TestClient] = []

    def start(app: FastAPI, **options: Any) -> TestClient:
        client = TestClient(app, **options)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in reversed(clients):
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL, started when the first test asks for it. Whoever stops it starts it again."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of the test's own, once for each kind that the ledger can be kept in."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.fresh()
