from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request
from starlette.requests import HTTPConnection

from fastapi_tollbooth import ConfigurationError, priced
from fastapi_tollbooth.testing import FakeTollbooth, PayingClient
from fastapi_tollbooth.visit import SCOPE_KEY, Visit, visit_of


@pytest.mark.parametrize("state", [{}, {SCOPE_KEY: None}, {SCOPE_KEY: "of somebody else"}])
def test_a_request_of_an_application_without_a_tollbooth_is_no_visit(state: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="install") as error:
        visit_of(HTTPConnection({"type": "http", "headers": [], **state}))
    assert error.value.reason == "no_tollbooth"


def test_each_request_is_a_visit_of_its_own_and_has_a_toll_once_it_is_taken() -> None:
    app, booth, seen = FastAPI(), FakeTollbooth(), list[Visit]()
    booth.install(app)

    @app.get("/free")
    @app.get("/paid", dependencies=[Depends(priced("$0.01"))])
    async def read(request: Request) -> None:
        seen.append(visit_of(request))

    with PayingClient(app, booth) as client:
        for path in ("/free", "/free", "/paid"):
            assert client.get(path).status_code == 200
    first, second, paid = seen
    assert first is not second
    assert (first.engine, first.toll) == (booth, None)
    assert paid.toll is not None
    assert str(paid.toll.price) == "$0.01"
