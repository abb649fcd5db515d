"""The owner's own conditions, from the 402 to the handler."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection

from fastapi_tollbooth import ConfigurationError, Toll, Tollbooth, priced
from fastapi_tollbooth.rails.macaroon import narrow
from tests.wallet import pay

Serve = Callable[..., TestClient]


def shop(booth: Tollbooth, seen: list[Any]) -> FastAPI:
    app = FastAPI()
    booth.install(app)

    @app.get("/x")
    async def x(toll: Annotated[Toll, Depends(priced("$0.01"))]) -> str:
        seen.append(dict(toll.caveats))
        return "ok"

    return app


def region_of(request: HTTPConnection) -> str | None:
    return request.headers.get("x-region")


def bought(client: TestClient, region: str | None, *appended: str) -> dict[str, str]:
    headers = {} if region is None else {"x-region": region}
    offer = client.get("/x", headers=headers).json()
    credential = pay(client, offer)
    if appended:
        macaroon, preimage = credential["Authorization"].removeprefix("L402 ").split(":")
        credential = {"Authorization": f"L402 {narrow(macaroon, *appended)}:{preimage}"}
    return {**credential, **headers}


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def client(booth: Tollbooth, serve: Serve, seen: list[Any]) -> TestClient:
    @booth.caveat("region", mint=region_of)
    def region(value: str, request: HTTPConnection) -> bool:
        return value == request.headers.get("x-region")

    @booth.caveat("client")
    async def is_client(value: str, request: HTTPConnection) -> bool:
        return value == request.headers.get("x-client")

    return serve(shop(booth, seen), raise_server_exceptions=False)


def test_a_minted_condition_is_enforced_and_the_handler_sees_it(client: TestClient, seen: list[Any]) -> None:
    credential = bought(client, "eu")
    assert client.get("/x", headers=credential).status_code == 200
    assert seen == [{"region": "eu"}]
    refused = client.get("/x", headers={**credential, "x-region": "us"})
    assert (refused.status_code, refused.json()["reason"], refused.json()["caveat"]) == (
        402,
        "caveat_not_met",
        "region",
    )
    assert len(seen) == 1


def test_without_a_value_there_is_no_condition(client: TestClient, seen: list[Any]) -> None:
    assert client.get("/x", headers=bought(client, None)).status_code == 200
    assert seen == [{}]


def test_a_holder_s_own_value_is_enforced_and_never_shown(client: TestClient, seen: list[Any]) -> None:
    credential = bought(client, None, "client=alice", "admin=1")
    assert client.get("/x", headers=credential).json()["reason"] == "caveat_not_met"
    assert client.get("/x", headers={**credential, "x-client": "alice"}).status_code == 200
    assert seen == [{}]


def test_offers_of_different_conditions_are_not_mixed(client: TestClient) -> None:
    eu, us = (client.get("/x", headers={"x-region": region}).json() for region in ("eu", "us"))
    assert eu["paymentHash"] != us["paymentHash"]
    assert client.get("/x", headers={"x-region": "eu"}).json()["paymentHash"] == eu["paymentHash"]


def test_a_function_that_fails_serves_nobody(booth: Tollbooth, serve: Serve, seen: list[Any]) -> None:
    broken: list[Exception | None] = [None]

    @booth.caveat("region", mint=lambda _: "eu")
    def region(value: str, request: HTTPConnection) -> bool:
        if broken[0] is not None:
            raise broken[0]
        return True

    client = serve(shop(booth, seen), raise_server_exceptions=False)
    credential = bought(client, None)
    for error, status in ((KeyError("secret"), 500), (HTTPException(451), 451)):
        broken[0] = error
        refused = client.get("/x", headers=credential)
        assert refused.status_code == status
        assert "secret" not in refused.text
    broken[0] = None
    assert client.get("/x", headers=credential).headers["x-credit-balance"] == "$0.09"
    assert len(seen) == 1


def test_a_value_that_cannot_stand_in_a_credential_is_never_sold(
    booth: Tollbooth, serve: Serve, seen: list[Any]
) -> None:
    @booth.caveat("region", mint=region_of)
    def region(value: str, request: HTTPConnection) -> bool:
        return True

    refused = serve(shop(booth, seen), raise_server_exceptions=False).get("/x", headers={"x-region": "x" * 300})
    assert (refused.status_code, refused.json()["reason"]) == (500, "caveat_failed")
    assert "www-authenticate" not in refused.headers


def test_a_name_is_registered_once(booth: Tollbooth) -> None:
    booth.caveat("region")(lambda value, request: True)
    for name in ("region", "services", "tollbooth_x"):
        with pytest.raises(ConfigurationError):
            booth.caveat(name)
