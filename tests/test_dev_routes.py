from collections.abc import Callable

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Tollbooth, priced
from tests.wallet import buy


@pytest.fixture
def client(booth: Tollbooth, serve: Callable[..., TestClient]) -> TestClient:
    app = FastAPI(dependencies=[Depends(priced("$0.01"))])
    booth.install(app)

    @app.get("/weather")
    async def weather() -> str:
        return "sunny"

    return serve(app)


def test_an_invoice_is_paid_over_http_even_when_the_whole_application_is_priced(client: TestClient) -> None:
    offer = client.get("/weather").json()
    response = client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})
    assert response.status_code == 200
    assert set(response.json()) == {"payment_hash", "preimage"}
    assert response.json()["payment_hash"] == offer["paymentHash"]
    assert response.headers["cache-control"] == "no-store"
    again = client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})
    assert again.status_code == 400
    assert "already" in again.json()["detail"]
    assert client.get("/weather", headers=buy(client, "/weather")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"invoice": 1}',
        b'{"invoice": "lnbc1"}',
        b"\xff",
        b"[" * 10_000,
        b'{"invoice": null}',
    ],
)
def test_nonsense_is_answered_with_400(client: TestClient, body: bytes) -> None:
    response = client.post("/tollbooth/dev/pay", content=body)
    assert response.status_code == 400
    assert isinstance(response.json()["detail"], str)


def test_monsters_are_not_read(client: TestClient) -> None:
    assert client.post("/tollbooth/dev/pay", content=b"x" * 100_000).status_code == 413


def test_it_is_not_documented_and_not_a_get(client: TestClient) -> None:
    assert "/tollbooth/dev/pay" not in client.get("/openapi.json").json()["paths"]
    assert client.get("/tollbooth/dev/pay").status_code == 405
    assert client.get("/tollbooth/dev/payx").status_code == 404
