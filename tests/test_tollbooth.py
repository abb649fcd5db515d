from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import ConfigurationError, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.errors import RailUnavailable
from fastapi_tollbooth.rails import Challenge
from fastapi_tollbooth.testing import FakeRail, FakeTollbooth
from fastapi_tollbooth.toll import Quote
from tests.wallet import buy, pay

Serve = Callable[..., TestClient]


def app_with(*tollbooths: Tollbooth) -> FastAPI:
    app = FastAPI()
    for tollbooth in tollbooths:
        tollbooth.install(app)

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def x() -> str:
        return "ok"

    @app.get("/sats", dependencies=[Depends(priced("21 sat"))])
    async def sats() -> str:
        return "ok"

    return app


def test_credit_is_spent_over_several_calls_and_then_asked_for_again(booth: Tollbooth, serve: Serve) -> None:
    client = serve(app_with(booth))
    credential = buy(client, "/x")
    balances = [client.get("/x", headers=credential).headers["x-credit-balance"] for _ in range(10)]
    assert balances[0] == "$0.09"
    assert balances[-1] == "$0.00"
    refused = client.get("/x", headers=credential)
    assert refused.status_code == 402
    assert refused.json()["reason"] == "insufficient_credit"
    assert refused.json()["balance"] == "$0.00"
    fresh = pay(client, refused.json())
    assert client.get("/x", headers=fresh).status_code == 200


def test_credit_in_one_asset_pays_prices_in_another(booth: Tollbooth, serve: Serve) -> None:
    client = serve(app_with(booth))
    credential = buy(client, "/x")
    assert client.get("/sats", headers=credential).headers["x-credit-balance"] == "$0.079"


def test_another_service_s_credential_is_foreign(tmp_path: Any, serve: Serve) -> None:
    def service(name: str) -> TestClient:
        settings = TollboothSettings(
            _env_file=None, database_url=f"sqlite:///{tmp_path}/{name}.db", secret="s" * 32, service=name
        )
        return serve(app_with(Tollbooth(settings)))

    mine, theirs = service("mine"), service("theirs")
    refused = theirs.get("/x", headers=buy(mine, "/x"))
    assert refused.status_code == 402
    assert refused.json()["reason"] == "wrong_service"
    assert refused.json()["macaroon"]


def test_the_dollar_rate_is_configurable_and_kept_with_the_payment(tmp_path: Any, serve: Serve) -> None:
    settings = TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", btc_usd="50000")
    booth = Tollbooth(settings)
    client = serve(app_with(booth))
    offer = client.get("/x").json()
    assert offer["amountSats"] == 20
    client.get("/x", headers=pay(client, offer))
    import sqlite3

    with sqlite3.connect(tmp_path / "t.db") as connection:
        row = connection.execute("SELECT rail, state, amount, asset, rate FROM tollbooth_payment").fetchone()
    connection.close()
    assert row == ("l402", "settled", 20_000, "BTC", "50000.000000")


def test_two_kinds_of_credential_are_ambiguous(tmp_path: Any) -> None:
    booth = Tollbooth(TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db"))
    booth._given_rails = (*booth.rails, FakeRail(booth.ledger))
    del booth.__dict__["rails"]
    with TestClient(app_with(booth)) as client:
        response = client.get("/x", headers={"Authorization": "L402 a:b", "X-Fake-Payment": "c"})
        assert response.status_code == 400
        assert response.json()["reason"] == "ambiguous_credential"
        assert "www-authenticate" not in response.headers
        both = client.get("/x").headers.get_list("www-authenticate")
        assert [line.split()[0] for line in both] == ["L402", "Fake"]


def test_a_dead_rail_is_left_out_and_no_rail_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, dead = FakeTollbooth(), FakeTollbooth()

    async def nothing(quote: Quote, presented: str | None) -> Challenge:
        raise RailUnavailable("down")

    monkeypatch.setattr(dead.rail, "challenge", nothing)
    dead.rail.name = "dead"
    fake._given_rails = (dead.rail, fake.rail)
    assert len(TestClient(app_with(fake)).get("/x").headers.get_list("www-authenticate")) == 1
    lonely = FakeTollbooth()
    lonely._given_rails = (dead.rail,)
    response = TestClient(app_with(lonely)).get("/x")
    assert response.status_code == 503
    assert response.json()["reason"] == "no_rail_available"
    assert response.headers["retry-after"]


def test_what_succeeds_can_be_decided_otherwise() -> None:
    class OnlyOk(FakeTollbooth):
        def succeeded(self, status: int) -> bool:
            return status == 201

    fake = OnlyOk()
    app = app_with(fake)
    with TestClient(app) as client:
        payment = client.get("/x").json()["fakePayment"]
        fake.rail.pay(payment)
        assert client.get("/x", headers={"X-Fake-Payment": payment}).status_code == 200
    fake.assert_not_charged()


def test_installing_late_or_twice_is_refused(booth: Tollbooth, settings: TollboothSettings) -> None:
    app = FastAPI()
    TestClient(app).get("/")
    with pytest.raises(ConfigurationError, match="has started"):
        booth.install(app)
    with pytest.raises(ConfigurationError, match="already"):
        app_with(booth, Tollbooth(settings))


def test_production_without_a_way_to_be_paid_does_not_install(tmp_path: Any) -> None:
    settings = TollboothSettings(
        _env_file=None,
        environment="production",
        secret="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        database_url=f"sqlite:///{tmp_path}/t.db",
    )
    with pytest.raises(ConfigurationError, match="no way to be paid"):
        Tollbooth(settings).install(FastAPI())
    assert Tollbooth(settings).dev_node is None


def test_production_has_no_paying_endpoint(tmp_path: Any) -> None:
    settings = TollboothSettings(
        _env_file=None,
        environment="production",
        secret="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        database_url=f"sqlite:///{tmp_path}/t.db",
        lightning={"backend": "lnbits", "api_key": "0" * 32},
        btc_usd="100000",
    )
    booth = Tollbooth(settings)
    with TestClient(app_with(booth)) as client:
        assert client.post("/tollbooth/dev/pay", json={"invoice": "x"}).status_code == 404


def test_starting_and_asking_leave_no_books_behind(tmp_path: Any, booth: Tollbooth, serve: Serve) -> None:
    client = serve(app_with(booth))
    client.get("/x")
    assert not (tmp_path / "tollbooth.db").exists()


def test_the_owner_s_lifespan_is_kept(booth: Tollbooth) -> None:
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager

    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append("up")
        yield {"mine": "kept"}
        events.append("down")

    app = FastAPI(lifespan=lifespan)
    booth.install(app)

    from starlette.requests import Request

    @app.get("/kept")
    async def kept(request: Request) -> str:
        return str(request.state.mine)

    with TestClient(app) as client:
        assert client.get("/kept").json() == "kept"
    assert events == ["up", "down"]


def test_credit_outlives_a_restart_and_a_rotated_secret(tmp_path: Any) -> None:
    def service(secret: str) -> FastAPI:
        url = f"sqlite:///{tmp_path}/t.db"
        return app_with(Tollbooth(TollboothSettings(_env_file=None, database_url=url, secret=secret, top_up=3)))

    with TestClient(service("a" * 32)) as client:
        credential = buy(client, "/x")
        client.get("/x", headers=credential)
    with TestClient(service(f"{'b' * 32},{'a' * 32}")) as client:
        assert client.get("/x", headers=credential).headers["x-credit-balance"] == "$0.01"
    with TestClient(service("b" * 32)) as client:
        assert client.get("/x", headers=credential).json()["reason"] == "invalid_signature"


def test_an_application_names_its_clients_and_a_name_that_fails_serves_nobody(tmp_path: Any, serve: Serve) -> None:
    def who(connection: Any) -> str | None:
        name: str | None = connection.headers.get("x-user")
        if name == "trouble":
            raise RuntimeError("no such user")
        return name

    settings = TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db")
    client = serve(app_with(Tollbooth(settings, client=who)), raise_server_exceptions=False)
    alice, bob = {"X-User": "alice"}, {"X-User": "bob"}
    invoices = [client.get("/x", headers=headers).json()["invoice"] for headers in (alice, alice, bob, None)]
    assert invoices[0] == invoices[1]
    assert len(set(invoices)) == 3
    refused = client.get("/x", headers={"X-User": "trouble"})
    assert (refused.status_code, refused.json()["reason"]) == (500, "client_unknown")
    assert "no such user" not in refused.text
