"""The pytest plugin: fixtures for tests of priced routes.

They need a fixture named ``app`` that returns your application, with a tollbooth installed. Nothing of this package is
imported before one of them is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from fastapi_tollbooth.testing import FakeTollbooth, PayingClient


@pytest.fixture
def tollbooth(app: "FastAPI") -> "Iterator[FakeTollbooth]":
    """The tollbooth that the application uses during the test: fake rail, ledger in memory."""
    from fastapi_tollbooth.testing import FakeTollbooth, replaced, run

    fake = FakeTollbooth()
    with replaced(app, fake):
        yield fake
    run(fake.close())


@pytest.fixture
def paying_client(app: "FastAPI", tollbooth: "FakeTollbooth") -> "Iterator[PayingClient]":
    """A test client that pays what it is asked."""
    from fastapi_tollbooth.testing import PayingClient

    with PayingClient(app, tollbooth) as client:
        yield client


@pytest.fixture
def unpaid_client(app: "FastAPI", tollbooth: "FakeTollbooth") -> "Iterator[TestClient]":
    """A test client that does not pay."""
    from starlette.testclient import TestClient

    with TestClient(app) as client:
        yield client
