"""What bearers and buyers of credit ask beside priced requests."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Money, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.lightning import InvoiceState, InvoiceStatus, LightningUnavailable
from fastapi_tollbooth.lightning.dev import DevNode
from fastapi_tollbooth.rails.invoice_token import InvoiceClaim, write_invoice_token
from fastapi_tollbooth.rails.macaroon import Identifier
from tests.wallet import pay

Serve = Callable[..., TestClient]
OTHER = {"X-Toll-Bundle": "2000 sat"}


@pytest.fixture
def booth(settings: TollboothSettings) -> Tollbooth:
    bundles: Any = [{"pay": "2000 sat", "get": "2500 sat"}]
    given = {**settings.model_dump(), "top_up": "1000 sat", "bundles": bundles}
    return Tollbooth(TollboothSettings(_env_file=None, **given))


@pytest.fixture
def client(booth: Tollbooth, serve: Serve) -> TestClient:
    app = FastAPI(dependencies=[Depends(priced("7 sat"))])  # a price on everything does not cover these routes
    booth.install(app)

    @app.get("/x")
    async def x() -> str:
        return "ok"

    return serve(app)


def test_credit_is_bought_without_a_priced_request(client: TestClient) -> None:
    offer = client.post("/tollbooth/invoices")
    assert (offer.status_code, offer.json()["amountSats"]) == (201, 1_000)
    assert offer.headers["cache-control"] == "no-store"
    credential = pay(client, offer.json())
    answer = client.get("/tollbooth/balance", headers=credential)
    assert answer.json() == {"balance": "1000 sat", "amount": 1_000_000, "asset": "BTC", "expiresAt": None}
    assert answer.headers["cache-control"] == "no-store"
    assert client.get("/x", headers=credential).headers["x-credit-balance"] == "993 sat"
    assert client.get("/tollbooth/balance", headers=credential).json()["balance"] == "993 sat"


def test_an_account_is_topped_up_with_its_own_credential(client: TestClient) -> None:
    credential = pay(client, client.post("/tollbooth/invoices").json())
    more = client.post("/tollbooth/invoices", headers=credential).json()
    assert more["credential"]["topsUp"] is True
    pay(client, more)
    assert client.get(more["statusUrl"]).json()["status"] == "settled"
    assert client.get("/tollbooth/balance", headers=credential).json()["balance"] == "2000 sat"


def test_what_becomes_of_an_invoice(client: TestClient) -> None:
    offer = client.post("/tollbooth/invoices").json()
    assert client.get(offer["statusUrl"]).json() == {"status": "pending", "paymentHash": offer["paymentHash"]}
    credential = pay(client, offer)
    settled = client.get(offer["statusUrl"])
    assert settled.json() == {"status": "settled", "paymentHash": offer["paymentHash"]}
    assert credential["Authorization"].rpartition(":")[2] not in settled.text
    assert settled.headers["cache-control"] == "no-store"


def test_asking_credits_the_payment_so_that_the_node_is_not_asked_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = client.post("/tollbooth/invoices").json()
    credential = pay(client, offer)
    assert client.get(offer["statusUrl"]).json()["status"] == "settled"

    async def silent(node: DevNode, payment_hash: bytes) -> InvoiceStatus:
        raise LightningUnavailable("down")

    monkeypatch.setattr(DevNode, "lookup", silent)
    assert client.get(offer["statusUrl"]).json()["status"] == "settled"
    assert client.get("/x", headers=credential).headers["x-credit-balance"] == "993 sat"


@pytest.mark.parametrize("state", [InvoiceState.EXPIRED, InvoiceState.FAILED, InvoiceState.UNKNOWN, None])
def test_what_the_node_says_is_passed_on(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, state: InvoiceState | None
) -> None:
    offer = client.post("/tollbooth/invoices").json()

    async def says(node: DevNode, payment_hash: bytes) -> InvoiceStatus:
        if state is None:
            raise LightningUnavailable("down")
        return InvoiceStatus(state)

    monkeypatch.setattr(DevNode, "lookup", says)
    answer = client.get(offer["statusUrl"])
    if state is None:
        assert (answer.status_code, answer.json()["reason"]) == (503, "node_unavailable")
        assert answer.headers["retry-after"]
    else:
        assert answer.json()["status"] == ("pending" if state is InvoiceState.UNKNOWN else "expired")


@pytest.mark.parametrize(("state", "status"), [(InvoiceState.PENDING, "expired"), (InvoiceState.UNKNOWN, "pending")])
def test_an_invoice_that_is_over_is_expired_unless_the_node_does_not_know(
    client: TestClient, booth: Tollbooth, monkeypatch: pytest.MonkeyPatch, state: InvoiceState, status: str
) -> None:
    async def says(node: DevNode, payment_hash: bytes) -> InvoiceStatus:
        return InvoiceStatus(state)

    monkeypatch.setattr(DevNode, "lookup", says)
    identifier = Identifier.new(b"h" * 32, Money.parse("1 sat"), None, booth.keys.newest)
    claim = InvoiceClaim(identifier, "l402:abc", datetime(2020, 1, 1, tzinfo=UTC))
    url = f"/tollbooth/invoices/{'68' * 32}?token={write_invoice_token(booth.keys, claim)}"
    assert client.get(url).json()["status"] == status


def test_the_token_is_what_opens_the_status(client: TestClient) -> None:
    first, second = client.post("/tollbooth/invoices").json(), client.get("/x", headers=OTHER).json()
    path, _, token = first["statusUrl"].partition("?token=")
    stranger = second["statusUrl"].partition("?token=")[2]
    assert stranger != token
    for url in (path, f"{path}?token=", f"{path}?token={token[:-1]}", f"{path}?token={stranger}", f"{path}?token=é"):
        answer = client.get(url)
        assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_invoice")


def test_the_balance_is_the_bearer_s_own(client: TestClient) -> None:
    bad: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": "L402 nonsense"},
        {"Authorization": f"L402 {client.get('/x').json()['macaroon']}:{'0' * 64}"},
    ]
    reasons = []
    for headers in bad:
        answer = client.get("/tollbooth/balance", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "L402"  # nothing that an automatic payer could pay
        reasons.append(answer.json()["reason"])
    assert reasons == ["credential_missing", "credential_missing", "malformed_credential", "wrong_preimage"]


@pytest.mark.parametrize("body", ["{", "[]", '{"bundle": 1}', "1", '"x"', " " * 20_000, "[" * 10_000])
def test_a_body_that_cannot_be_read_makes_no_invoice(client: TestClient, body: str) -> None:
    refused = client.post("/tollbooth/invoices", content=body)
    assert (refused.status_code, refused.json()["reason"]) == (400, "unreadable_body")


def test_a_bundle_that_is_not_there(client: TestClient) -> None:
    refused = client.post("/tollbooth/invoices", json={"bundle": "1 sat"})
    assert (refused.status_code, refused.json()["reason"]) == (400, "unknown_bundle")


def test_so_many_invoices_and_no_more(settings: TollboothSettings, serve: Serve) -> None:
    bundles: Any = [{"pay": f"{n} sat", "get": f"{n} sat"} for n in (100, 200, 300)]
    booth = Tollbooth(TollboothSettings(**{**settings.model_dump(), "bundles": bundles, "invoices_per_client": 2}))
    app = FastAPI()
    booth.install(app)
    client = serve(app)
    answers = [client.post("/tollbooth/invoices", json={"bundle": bundle["pay"]}) for bundle in bundles]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[2].json()["reason"] == "too_many_invoices"
    assert answers[2].headers["retry-after"]


def test_a_dead_node_sells_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: Any, **__: Any) -> None:
        raise LightningUnavailable("down")

    monkeypatch.setattr(DevNode, "create_invoice", down)
    refused = client.post("/tollbooth/invoices")
    assert (refused.status_code, refused.json()["reason"]) == (503, "no_rail_available")


def test_behind_a_prefix_the_status_is_where_it_says(booth: Tollbooth) -> None:
    app = FastAPI()
    booth.install(app)

    @app.get("/x", dependencies=[Depends(priced("7 sat"))])
    async def x() -> str:
        return "ok"

    with TestClient(app, root_path="/api") as client:
        offer = client.get("/api/x").json()
        assert offer["statusUrl"].startswith("/api/tollbooth/invoices/")
        assert client.get(offer["statusUrl"]).json()["status"] == "pending"
