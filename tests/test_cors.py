import re
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

import fastapi_tollbooth
from fastapi_tollbooth import ConfigurationError, priced
from fastapi_tollbooth.cors import READ, SENT, allow_payers
from fastapi_tollbooth.testing import FakeTollbooth, PayingClient

SHOP, STRANGER = "https://shop.example", "https://evil.example"


@pytest.fixture(params=[True, False], ids=["cors first", "tollbooth first"])
def shop(request: pytest.FixtureRequest) -> tuple[FastAPI, FakeTollbooth]:
    app, fake = FastAPI(), FakeTollbooth()
    if request.param:
        allow_payers(app, [SHOP], headers=["X-Mine"], expose=["X-Yours"])
        fake.install(app)
    else:
        fake.install(app)
        allow_payers(app, [SHOP], headers=["X-Mine"], expose=["X-Yours"])

    @app.post("/x", dependencies=[Depends(priced("$0.01"))])
    async def x() -> str:
        return "ok"

    return app, fake


def test_a_page_of_the_shop_can_read_offers_and_receipts(shop: tuple[FastAPI, FakeTollbooth]) -> None:
    app, fake = shop
    unpaid = TestClient(app).post("/x", headers={"Origin": SHOP})
    paid = PayingClient(app, fake).post("/x", headers={"Origin": SHOP})
    assert (unpaid.status_code, paid.status_code) == (402, 200)
    for answer in (unpaid, paid):
        assert answer.headers["access-control-allow-origin"] == SHOP
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {*READ, "X-Yours"} == exposed
        assert "Origin" in answer.headers["vary"]


def test_preflights_cost_nothing_and_allow_what_payers_send(shop: tuple[FastAPI, FakeTollbooth]) -> None:
    app, fake = shop
    answer = TestClient(app).options(
        "/x",
        headers={
            "Origin": SHOP,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": ",".join([*SENT, "X-Mine"]),
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert fake.rail._payments == {}


def test_other_pages_are_not_let_in(shop: tuple[FastAPI, FakeTollbooth]) -> None:
    app, _ = shop
    asked = TestClient(app).post("/x", headers={"Origin": STRANGER})
    assert "access-control-allow-origin" not in asked.headers
    preflight = {"Origin": STRANGER, "Access-Control-Request-Method": "POST"}
    assert TestClient(app).options("/x", headers=preflight).status_code == 400


@pytest.mark.parametrize("origin", ["*", "https://*.example", "shop.example", "https://shop.example/", "ftp://x", ""])
def test_only_origins_are_allowed(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="not an origin"):
        allow_payers(FastAPI(), [origin])


def test_no_header_of_ours_is_forgotten() -> None:
    package = Path(fastapi_tollbooth.__file__).parent
    named = re.findall(r'"(X-[A-Za-z-]+|PAYMENT-[A-Z]+)"', "".join(path.read_text() for path in package.rglob("*.py")))
    of_others = {"X-Api-Key", "X-Fake-Payment", "X-Fake-Receipt"}
    assert set(named) - of_others <= {*READ, *SENT}
