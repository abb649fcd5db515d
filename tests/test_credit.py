"""Credentials for credit that was paid some other way."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tollbooth import Asset, Money, Toll, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.operations import Fund
from fastapi_tollbooth.ledger.records import Payment
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.rails.credit import CreditCredential, mint_credit
from fastapi_tollbooth.rails.l402 import L402Rail
from fastapi_tollbooth.rates import FixedRate

Serve = Callable[..., TestClient]
TOMORROW = datetime.now(UTC) + timedelta(days=1)


def minted(booth: Tollbooth, account: str = "x402:abc") -> CreditCredential:
    return mint_credit(booth.keys, booth.settings.service, account, Asset.USD, TOMORROW)


def fund(booth: Tollbooth, account: str, amount: str) -> None:
    credit = Money.parse(amount)
    asyncio.run(booth.ledger.apply(Fund(account, credit, Payment("x402", account, credit.amount, credit.asset, "0x1"))))


def client_of(booth: Tollbooth, serve: Serve) -> TestClient:
    app = FastAPI()
    booth.install(app)

    @app.get("/x")
    async def x(toll: Annotated[Toll, Depends(priced("$0.01"))]) -> str:
        return toll.payer

    return serve(app)


def test_it_spends_what_others_paid_in(booth: Tollbooth, serve: Serve) -> None:
    client, credential = client_of(booth, serve), minted(booth)
    fund(booth, "x402:abc", "$0.02")
    headers = {"Authorization": credential.authorization}
    answers = [client.get("/x", headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 402]
    assert answers[0].json() == "x402:abc"
    assert answers[2].json()["reason"] == "insufficient_credit"


def test_it_never_credits_anything_itself(booth: Tollbooth, serve: Serve) -> None:
    refused = client_of(booth, serve).get("/x", headers={"Authorization": minted(booth).authorization})
    assert (refused.status_code, refused.json()["reason"]) == (402, "credit_not_funded")


def test_minted_again_it_has_the_same_secret_and_both_work(booth: Tollbooth, serve: Serve) -> None:
    client, first, second = client_of(booth, serve), minted(booth), minted(booth)
    fund(booth, "x402:abc", "$0.02")
    assert first.preimage == second.preimage
    assert [client.get("/x", headers={"Authorization": c.authorization}).status_code for c in (first, second)] == [
        200,
        200,
    ]


def test_it_opens_its_own_account_and_no_other(booth: Tollbooth, serve: Serve) -> None:
    client, mine, theirs = client_of(booth, serve), minted(booth, "x402:mine"), minted(booth, "x402:theirs")
    fund(booth, "x402:mine", "$1")
    mixed = f"L402 {mine.macaroon}:{theirs.preimage}"
    assert client.get("/x", headers={"Authorization": mixed}).json()["reason"] == "wrong_preimage"
    assert client.get("/x", headers={"Authorization": theirs.authorization}).json()["reason"] == "credit_not_funded"


def test_another_service_s_secret_makes_no_credential(booth: Tollbooth, serve: Serve) -> None:
    client = client_of(booth, serve)
    fund(booth, "x402:abc", "$1")
    forged = mint_credit(KeyRing((b"f" * 32,)), booth.settings.service, "x402:abc", Asset.USD, TOMORROW)
    assert client.get("/x", headers={"Authorization": forged.authorization}).json()["reason"] == "invalid_signature"


def test_it_is_not_shown() -> None:
    credential = mint_credit(KeyRing((b"n" * 32,)), "svc", "x402:abc", Asset.BTC, TOMORROW)
    assert credential.preimage not in repr(credential)
    assert credential.macaroon not in repr(credential)


def test_it_is_spent_where_there_is_no_lightning_node_and_nothing_is_offered_over_lightning(tmp_path: Path) -> None:
    settings = TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", secret="s" * 32)
    keys, ledger = KeyRing(settings.key_ring()), Ledger(settings.database_url)
    rail = L402Rail(settings, keys, ledger, None, FixedRate(None))
    booth = Tollbooth(settings, rails=[rail])
    booth.ledger = ledger
    app = FastAPI()
    booth.install(app)

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def x() -> str:
        return "ok"

    with TestClient(app) as client:
        fund(booth, "x402:abc", "$1")
        credential = {"Authorization": minted(booth).authorization}
        assert client.get("/x", headers=credential).headers["x-credit-balance"] == "$0.99"
        assert client.get("/tollbooth/balance", headers=credential).json()["balance"] == "$0.99"
        assert client.get("/x").json()["reason"] == "no_rail_available"
        assert client.post("/tollbooth/invoices", json={}).json()["reason"] == "no_rail_available"
        assert client.get("/openapi.json").json()["paths"]["/x"]["get"]["x-payment-info"] == {"offers": []}
