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
def tollbooth(request: pytest.FixtureRequest) -> "Iterator[FakeTollbooth]":
    """The tollbooth that the application uses during the test: fake rail, ledger in memory."""
    from fastapi_tollbooth.testing import FakeTollbooth, replaced, run

    app = _app_of(request)
    fake = FakeTollbooth()
    with replaced(app, fake):
        yield fake
    run(fake.close())


@pytest.fixture
def paying_client(request: pytest.FixtureRequest, tollbooth: "FakeTollbooth") -> "Iterator[PayingClient]":
    """A test client that pays what it is asked."""
    from fastapi_tollbooth.testing import PayingClient

    with PayingClient(_app_of(request), tollbooth) as client:
        yield client


@pytest.fixture
def unpaid_client(request: pytest.FixtureRequest, tollbooth: "FakeTollbooth") -> "Iterator[TestClient]":
    """A test client that does not pay."""
    from starlette.testclient import TestClient

    with TestClient(_app_of(request)) as client:
        yield client


def _app_of(request: pytest.FixtureRequest) -> "FastAPI":
    try:
        app: FastAPI | None = request.getfixturevalue("app")
    except pytest.FixtureLookupError as error:
        if error.argname != "app":
            raise
        app = None  # said below, without this error's own long text
    if app is None:
        pytest.fail(
            "these fixtures need one of yours that is named app and returns your FastAPI application:\n\n"
            "    @pytest.fixture\n    def app():\n        from shop import app\n        return app",
            pytrace=False,
        )
    if not hasattr(getattr(app, "state", None), "tollbooth"):
        pytest.fail(
            "the fixture app returns an application without a tollbooth: call its install(app) where it is made",
            pytrace=False,
        )
    return app
