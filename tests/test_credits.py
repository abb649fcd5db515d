"""One stablecoin payment, many requests: credit is sold once per payment, and is there when its credential is."""

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from fastapi_tollbooth import Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.credits import PATH
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.settings import LightningSettings, X402Settings
from fastapi_tollbooth.testing import run
from tests.stub_facilitator import StubFacilitator, stub_facilitator
from tests.x402_payer import PAY_TO, decode, encode, sign

Serve = Callable[..., TestClient]


class Counter:
    """Where credit is sold and spent."""

    def __init__(self, stub: StubFacilitator, path: Path, serve: Serve, **x402: Any) -> None:
        self.stub = stub
        self.path = path
        self.tollbooth = Tollbooth(
            TollboothSettings(
                _env_file=None,
                database_url=f"sqlite:///{path}/t.db",
                lightning=LightningSettings(backend="none"),
                btc_usd="100000",
                x402=X402Settings(
                    pay_to=PAY_TO,
                    networks=["base-sepolia"],
                    facilitator_url=stub.url,
                    rpc_url=f"{stub.url}/rpc",
                    **x402,
                ),
            )
        )
        app = FastAPI(dependencies=[Depends(priced("$0.01"))])
        self.tollbooth.install(app)
        app.get("/x")(lambda: "served")
        self.client = serve(app, raise_server_exceptions=False)

    def payment(self, amount: str = "$0.05") -> dict[str, str]:
        refused = self.client.post(PATH, json={"amount": amount})
        assert refused.status_code == 402, refused.text
        return {"PAYMENT-SIGNATURE": encode(sign(decode(refused.headers["payment-required"])["accepts"][0]))}

    def buy(self, payment: dict[str, str], amount: str = "$0.05") -> Any:
        return self.client.post(PATH, json={"amount": amount}, headers=payment)

    def balances(self) -> dict[str, int]:
        account = metadata.tables["tollbooth_account"]
        query = select(account.c.kind, account.c.key, account.c.posted)
        assert run(self.tollbooth.ledger.read(verify)).discrepancy is None
        rows = run(self.tollbooth.ledger.read(lambda connection: list(connection.execute(query))))
        return {kind if kind == "payer" else key: posted for kind, key, posted in rows}


@pytest.fixture
def stub() -> Iterator[StubFacilitator]:
    with stub_facilitator() as running:
        yield running


@pytest.fixture(params=["after", "before"])
def counter(stub: StubFacilitator, tmp_path: Path, serve: Serve, request: pytest.FixtureRequest) -> Counter:
    return Counter(stub, tmp_path, serve, settle=request.param)


def test_one_payment_buys_many_requests(counter: Counter) -> None:
    sold = counter.buy(counter.payment())
    assert sold.status_code == 200, sold.text
    assert (sold.json()["scheme"], sold.json()["credit"]) == ("L402", "$0.05")
    assert sold.headers["cache-control"] == "no-store"
    assert decode(sold.headers["payment-response"])["success"] is True
    assert counter.balances()["payer"] == 50_000
    spend = {"Authorization": sold.json()["authorization"]}
    answers = [counter.client.get("/x", headers=spend) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [402]
    assert answers[4].headers["x-credit-balance"] == "$0.00"
    assert answers[5].json()["reason"] == "insufficient_credit"
    assert "payment-required" in answers[5].headers
    assert (counter.balances()["revenue:USD"], len(counter.stub.transfers)) == (50_000, 1)


def test_who_buys_credit_with_payments_that_do_not_settle_is_stopped(
    stub: StubFacilitator, tmp_path: Path, serve: Serve
) -> None:
    counter = Counter(stub, tmp_path, serve)
    stub.settle_answer = 200, {"success": False, "errorReason": "insufficient_funds"}
    assert [counter.buy(counter.payment()).status_code for _ in range(6)] == [402] * 3 + [429] * 3
    assert stub.count("/settle") == 3


def test_credit_is_there_before_it_is_spent(counter: Counter) -> None:
    spend = {"Authorization": counter.buy(counter.payment()).json()["authorization"]}
    assert counter.client.get("/tollbooth/balance", headers=spend).json()["balance"] == "$0.05"
    assert counter.client.get("/x", headers=spend).status_code == 200
    assert counter.client.get("/tollbooth/balance", headers=spend).json()["balance"] == "$0.04"


def test_a_payment_is_turned_into_credit_once(counter: Counter) -> None:
    payment = counter.payment()
    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(answer.status_code for answer in pool.map(lambda _: counter.buy(payment), range(8)))
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {403, 409}
    # The signature is public once it is on chain: it must not buy the same thing again, nor anything else.
    assert counter.buy(payment).json()["reason"] == "already_spent"
    assert counter.client.get("/x", headers=payment).status_code in (402, 403)
    assert (counter.balances()["payer"], len(counter.stub.transfers)) == (50_000, 1)


def test_the_amount_asked_for_is_the_amount_paid(counter: Counter) -> None:
    payment = counter.payment("$0.05")
    assert counter.buy(payment, "$5").json()["reason"] == "wrong_amount"
    assert counter.stub.transfers == {}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"amount": 5}', b'{"amount": "$0"}', b'{"amount": "5 sat"}', b"[" * 900, b"x" * 2_000]
)
def test_an_amount_that_is_none_is_refused(counter: Counter, body: bytes) -> None:
    refused = counter.client.post(PATH, content=body)
    assert (refused.status_code, refused.json()["reason"]) == (400, "invalid_amount")


def test_no_credential_leaves_before_the_money_has_come(counter: Counter) -> None:
    counter.stub.settle_answer = 200, {"success": False, "errorReason": "insufficient_funds", "transaction": ""}
    refused = counter.buy(counter.payment())
    assert (refused.status_code, refused.json()["reason"]) == (402, "settlement_failed")
    assert "macaroon" not in refused.text
    assert counter.balances().get("payer", 0) == 0


def test_who_lost_the_credential_that_they_named_gets_it_again(counter: Counter) -> None:
    payment = counter.payment()
    signed = decode(payment["PAYMENT-SIGNATURE"])
    signed["extensions"] = {"payment-identifier": {"info": {"required": False, "id": "credit_0123456789abcdef"}}}
    payment = {"PAYMENT-SIGNATURE": encode(signed)}
    first, again = counter.buy(payment), counter.buy(payment)
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert (again.headers["cache-control"], again.headers["idempotent-replayed"]) == ("no-store", "true")
    assert again.headers["payment-response"] == first.headers["payment-response"]
    spend = {"Authorization": again.json()["authorization"]}
    assert counter.client.get("/x", headers=spend).status_code == 200
    # Who reads the chain has the signature, and neither the identifier nor the credential.
    signed["extensions"] = {}
    assert counter.buy({"PAYMENT-SIGNATURE": encode(signed)}).json()["reason"] == "already_spent"
    assert (counter.balances()["payer"], len(counter.stub.transfers)) == (40_000, 1)
    sealed = sqlite3.connect(counter.path / "t.db").execute("SELECT sealed FROM tollbooth_answer").fetchall()
    assert [first.json()["preimage"].encode() in row[0] for row in sealed] == [False]


def test_a_lost_answer_sells_the_credit_when_the_payment_comes_again(counter: Counter) -> None:
    payment = counter.payment()
    counter.stub.lose_settle_answer = True
    assert counter.buy(payment).status_code == 503
    sold = counter.buy(payment)
    assert sold.status_code == 200
    assert counter.client.get("/x", headers={"Authorization": sold.json()["authorization"]}).status_code == 200
    assert len(counter.stub.transfers) == 1
