"""Attacks on payments, each named by its id in the project's list of attacks, and tried on every rail."""

import asyncio
import base64
import json
import secrets
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymacaroons import Macaroon

from fastapi_tollbooth import Reject, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.hardening import is_weak
from fastapi_tollbooth.lightning.bolt11 import decode
from tests.attacks.counters import SERVED, Counter, FakeCounter, L402Counter, X402Counter, counter_of
from tests.x402_payer import SIGNATURE, encode, sign
from tests.x402_payer import decode as decode_header


@pytest.fixture
def x402(tmp_path: Path) -> Iterator[X402Counter]:
    """The counter of x402 alone, for attacks on facilitators."""
    with counter_of("x402", tmp_path) as made:
        assert isinstance(made, X402Counter)
        yield made


def served(answers: list[Any]) -> int:
    return sum(answer.status_code == 200 for answer in answers)


def test_a1_a_credential_is_spent_once(counter: Counter) -> None:
    credential = counter.buy()
    answers = [counter.get("/goods", credential) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, *[403 if counter.name == "x402" else 402] * 4]
    assert counter.runs == ["/goods"]


@pytest.mark.parametrize("name", ["l402", "x402"])
def test_a1_not_even_after_a_restart(name: str, tmp_path: Path) -> None:
    with counter_of(name, tmp_path) as before:
        credential = before.buy()
        assert before.get("/goods", credential).status_code == 200
    with counter_of(name, tmp_path) as after:
        assert after.get("/goods", credential).status_code in (402, 403)
        assert after.runs == []


def test_a2_of_many_at_once_one_is_served(counter: Counter) -> None:
    credential = counter.buy()
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: counter.get("/goods", credential), range(32)))
    assert served(answers) == 1
    assert counter.runs == ["/goods"]
    assert all(SERVED not in answer.text for answer in answers if answer.status_code != 200)


def test_a3_what_was_not_paid_buys_nothing(counter: Counter) -> None:
    invented = counter.invent(counter.get("/goods"))
    answers = [counter.get("/goods", invented) for _ in range(3)]
    assert served(answers) == 0
    assert {answer.status_code for answer in answers} <= {402, 503}
    assert counter.runs == []


def test_a4_a_response_whose_settlement_fails_is_withheld() -> None:
    counter = FakeCounter()
    with counter.client, counter.fake.settlement_fails():
        for path in ("/goods", "/stream"):
            refused = counter.get(path, counter.buy(path))
            assert refused.status_code == 402
            assert SERVED not in refused.text
        counter.fake.assert_not_charged()


@pytest.mark.parametrize("reuse", [True, False])
def test_a5_payments_that_do_not_settle_buy_little_work(x402: X402Counter, reuse: bool) -> None:
    x402.facilitator.settle_answer = 200, {"success": False, "errorReason": "insufficient_funds"}
    credential = x402.buy()
    answers = [x402.get("/goods", credential if reuse else x402.buy()) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [402] * 3 + [429] * 5
    assert all(SERVED not in answer.text for answer in answers)
    assert x402.runs == ["/goods"] * 3


def test_a6_no_answer_is_not_a_failure() -> None:
    counter = FakeCounter()
    with counter.client:
        credential = counter.buy()
        with counter.fake.node_is_silent():
            refused = counter.get("/goods", credential)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert "www-authenticate" not in refused.headers
        assert counter.get("/goods", credential).status_code == 200
    assert counter.runs == ["/goods"]


def test_a6_a_settlement_whose_answer_is_lost_is_not_paid_again(x402: X402Counter) -> None:
    x402.facilitator.lose_settle_answer = True
    credential = x402.buy()
    refused = x402.get("/goods", credential)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert "payment-required" not in refused.headers
    assert SERVED not in refused.text
    assert len(x402.facilitator.transfers) == 1


def on_chain(payment: dict[str, str], *, signature: str | None = None) -> dict[str, Any]:
    """What everybody can read of a payment that has been made, as a payment of somebody else's making."""
    signed = decode_header(payment["PAYMENT-SIGNATURE"])
    authorization = signed["payload"]["authorization"]
    copied = {"signature": signature or "0x" + "22" * 65, "authorization": authorization}
    network, scheme = signed["accepted"]["network"], signed["accepted"]["scheme"]
    return (
        {"x402Version": 1, "scheme": scheme, "network": network, "payload": copied}
        if signature
        else {
            **signed,
            "payload": copied,
        }
    )


@pytest.mark.parametrize("signature", [None, SIGNATURE])
def test_a1_what_is_owed_is_not_served_to_who_saw_the_payment_on_chain(tmp_path: Path, signature: str | None) -> None:
    with counter_of("x402", tmp_path) as counter:
        assert isinstance(counter, X402Counter)
        app, failing = counter.client.app, [True]
        assert isinstance(app, FastAPI)

        @app.get("/owed", dependencies=[Depends(priced("$0.01", settle="before"))])
        async def owed() -> str:
            counter.runs.append("/owed")
            if failing.pop():
                raise HTTPException(500)
            failing.append(False)
            return SERVED

        payment = counter.buy("/owed")
        assert counter.get("/owed", payment).status_code == 500
        assert len(counter.facilitator.transfers) == 1
        failing.append(False)
        stolen = on_chain(payment, signature=signature)
        for name in ("PAYMENT-SIGNATURE", "X-PAYMENT"):
            refused = counter.get("/owed", {name: encode(stolen)})
            assert (refused.status_code, refused.json()["reason"]) == (403, "payment_altered")
        assert counter.runs == ["/owed"]
        assert counter.get("/owed", payment).status_code == 200
        assert counter.get("/owed", {"PAYMENT-SIGNATURE": encode(stolen)}).json()["reason"] == "already_spent"
        assert counter.runs == ["/owed"] * 2


def test_a6_an_unknown_payment_is_not_resolved_for_who_saw_it_on_chain(x402: X402Counter) -> None:
    x402.facilitator.lose_settle_answer = True
    payment = x402.buy()
    assert x402.get("/goods", payment).status_code == 503
    settled = {"success": True, "transaction": f"0x{1:064x}", "network": "eip155:84532"}
    x402.facilitator.settle_answer, asked = (200, settled), x402.facilitator.count("/settle")
    refused = x402.get("/goods", {"PAYMENT-SIGNATURE": encode(on_chain(payment))})
    assert (refused.status_code, refused.json()["reason"]) == (403, "payment_altered")
    # Nobody is asked about a payment with a stranger's words.
    assert x402.facilitator.count("/settle") == asked
    assert x402.runs == ["/goods"]
    assert x402.get("/goods", payment).status_code == 200


def test_a7_a_facilitator_that_says_yes_to_everything_sells_once(x402: X402Counter) -> None:
    x402.facilitator.verify_answer = 200, {"isValid": True, "payer": "0x" + "ab" * 20}
    credential = x402.buy()
    assert [x402.get("/goods", credential).status_code == 200 for _ in range(4)] == [True, False, False, False]
    assert x402.runs == ["/goods"]


@pytest.mark.parametrize(
    "change",
    [
        {"amount": "1"},
        {"payTo": "0x" + "66" * 20},
        {"asset": "0x" + "66" * 20},
        {"network": "eip155:8453"},
        {"scheme": "upto"},
        {"maxTimeoutSeconds": 10**9},
        {"extra": {"name": "Dogecoin", "version": "1"}},
    ],
)
def test_a8_what_was_asked_is_what_is_paid(x402: X402Counter, change: dict[str, Any]) -> None:
    # The facilitator of an attacker's dreams, which agrees to everything.
    x402.facilitator.verify_answer = 200, {"isValid": True, "payer": "0x" + "ab" * 20}
    accepted = x402.accepted(x402.get("/goods"))
    payment = {"PAYMENT-SIGNATURE": encode(sign({**accepted, **change}))}
    answer = x402.get("/goods", payment)
    if "extra" in change or "maxTimeoutSeconds" in change:
        # What is echoed is not believed; the payment itself is for the right amount and address.
        assert answer.status_code in (200, 400, 402)
    else:
        assert answer.status_code in (400, 402)
        assert x402.runs == []


def test_a9_a_payment_for_one_thing_does_not_buy_a_dearer_one(counter: Counter) -> None:
    credential = counter.buy("/goods")
    assert counter.get("/treasure", credential).status_code == 402
    assert counter.runs == []
    assert counter.get("/goods", credential).status_code == 200


def test_a9_a_payment_to_one_service_does_not_pay_another(tmp_path: Path) -> None:
    def service(name: str) -> tuple[TestClient, list[str]]:
        runs: list[str] = []
        read = TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/{name}.db", service=name, top_up=5)
        app = FastAPI()
        Tollbooth(read.model_copy(update={"secret": None})).install(app)

        @app.get("/x", dependencies=[Depends(priced("$0.01"))])
        async def x() -> str:
            runs.append(name)
            return SERVED

        return TestClient(app), runs

    (mine, _), (other, runs) = service("mine"), service("other")
    with mine, other:
        offer = mine.get("/x").json()
        paid = mine.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]}).json()
        headers = {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}
        assert other.get("/x", headers=headers).status_code == 402
    assert runs == []


def test_a10_a_cheap_quote_does_not_pay_a_dear_variant(counter: Counter) -> None:
    credential = counter.pay(counter.get("/either"))
    for query in ("size=big", "size=big&size=small", "size=small&size=big", "%73ize=big"):
        assert counter.get(f"/either?{query}", credential).status_code in (400, 402)
    assert counter.runs == []


def test_a11_a_price_that_rose_is_not_paid_with_less(tmp_path: Path) -> None:
    price = ["$0.01"]

    def today() -> str:
        return price[0]

    runs: list[str] = []
    app = FastAPI()
    Tollbooth(TollboothSettings(_env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", top_up=1)).install(app)

    @app.get("/x", dependencies=[Depends(priced(today, max_price="$5"))])
    async def x() -> str:
        runs.append("x")
        return SERVED

    with TestClient(app) as client:
        offer = client.get("/x").json()
        paid = client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]}).json()
        price[0] = "$1.00"
        headers = {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}
        assert client.get("/x", headers=headers).json()["reason"] == "insufficient_credit"
    assert runs == []


def test_a12_a_second_credential_is_refused_in_every_form(tmp_path: Path) -> None:
    with counter_of("l402", tmp_path) as counter:
        first, second = counter.buy("/goods")["Authorization"], counter.buy("/treasure")["Authorization"]
        doubled: list[list[tuple[str, str]]] = [
            [("Authorization", first), ("Authorization", second)],
            [("Authorization", second), ("Authorization", first)],
            [("Authorization", first), ("authorization", second.replace("L402", "LSAT"))],
        ]
        for headers in doubled:
            answer = counter.client.get("/goods", headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (400, "ambiguous_credential")
        joined = counter.client.get("/goods", headers={"Authorization": f"{first}, {second}"})
        assert joined.status_code == 402
    assert counter.runs == []


def test_a12_credentials_of_two_rails_are_refused(tmp_path: Path) -> None:
    fake, l402 = FakeCounter(), L402Counter(tmp_path)
    both = Tollbooth(l402.tollbooth.settings, rails=[fake.fake.rail, *l402.tollbooth.rails])
    app = FastAPI()
    both.install(app)
    runs: list[str] = []

    @app.get("/goods", dependencies=[Depends(priced("$0.01"))])
    async def goods() -> str:
        runs.append("goods")
        return SERVED

    with TestClient(app) as client:
        payment = client.get("/goods").json()["fakePayment"]
        fake.fake.rail.pay(payment)
        headers = {"X-Fake-Payment": payment, "Authorization": "L402 AAAA:" + "0" * 64}
        answer = client.get("/goods", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (400, "ambiguous_credential")
    assert runs == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a13_one_flipped_bit_is_a_forgery(paid_l402: tuple[Counter, str], position: int, bit: int) -> None:
    counter, line = paid_l402
    macaroon, _, preimage = line.removeprefix("L402 ").partition(":")
    raw = bytearray(base64.b64decode(macaroon + "==", altchars=b"-_" if "-" in macaroon or "_" in macaroon else None))
    raw[position % len(raw)] ^= 1 << bit
    forged = f"L402 {base64.b64encode(bytes(raw)).decode()}:{preimage}"
    answer = counter.get("/goods", {"Authorization": forged})
    # What is not covered by the signature, such as the location's hint, may change; nothing else may.
    same = Macaroon.deserialize(macaroon).identifier_bytes.hex() in bytes(raw).hex()
    assert answer.status_code == 402 or (answer.status_code == 200 and same)


@pytest.fixture(scope="module")
def paid_l402(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with counter_of("l402", tmp_path_factory.mktemp("forgery")) as counter:
        yield counter, counter.buy()["Authorization"]


@pytest.mark.parametrize(
    "token",
    [
        base64.b64encode(json.dumps({"identifier": "x", "caveats": [], "signature": ""}).encode()).decode(),
        base64.b64encode(b"\x02").decode(),
        base64.b64encode(b"{}").decode(),
        "AAAA",
        "=" * 40,
        "",
    ],
)
def test_a13_what_is_no_macaroon_is_refused(tmp_path: Path, token: str) -> None:
    with counter_of("l402", tmp_path) as counter:
        answer = counter.get("/goods", {"Authorization": f"L402 {token}:{secrets.token_hex(32)}"})
        assert answer.status_code == 402
        assert counter.runs == []


@pytest.mark.parametrize(
    "caveats",
    [
        ["tollbooth_valid_until=1", "tollbooth_valid_until=99999999999"],
        ["services=other:0", "services=tollbooth:0"],
        ["services=other:0,tollbooth"],
    ],
)
def test_a14_a_holder_narrows_a_credential_and_never_widens_it(tmp_path: Path, caveats: list[str]) -> None:
    with counter_of("l402", tmp_path) as counter:
        macaroon, _, preimage = counter.buy()["Authorization"].removeprefix("L402 ").partition(":")
        token = Macaroon.deserialize(macaroon)
        for caveat in caveats[:2] if len(caveats) > 1 else ["tollbooth_valid_until=1", *caveats]:
            token.add_first_party_caveat(caveat)
        answer = counter.get("/goods", {"Authorization": f"L402 {token.serialize()}:{preimage}"})
        assert answer.status_code == 402
        assert counter.runs == []


@pytest.mark.parametrize("money", ["credit=1000000", "price=0", "amount=0", "admin = 1", "balance=999999999"])
def test_a14_money_in_a_caveat_means_nothing(tmp_path: Path, money: str) -> None:
    with counter_of("l402", tmp_path) as counter:
        macaroon, _, preimage = counter.buy()["Authorization"].removeprefix("L402 ").partition(":")
        token = Macaroon.deserialize(macaroon)
        token.add_first_party_caveat(money)
        headers = {"Authorization": f"L402 {token.serialize()}:{preimage}"}
        assert counter.get("/treasure", headers).status_code == 402
        answers = [counter.get("/goods", headers) for _ in range(3)]
        assert served(answers) <= 1


@pytest.mark.parametrize("key", [b"", b"\x00" * 32, b"secret", b"tollbooth", b"\x00"])
def test_a15_a_token_signed_with_a_guessable_key_is_a_forgery(tmp_path: Path, key: bytes) -> None:
    with counter_of("l402", tmp_path) as counter:
        macaroon, _, preimage = counter.buy()["Authorization"].removeprefix("L402 ").partition(":")
        genuine = Macaroon.deserialize(macaroon)
        forged = Macaroon(location=genuine.location, identifier=genuine.identifier_bytes, key=key, version=2)
        forged.add_first_party_caveat("services=tollbooth:0")
        forged.add_first_party_caveat("tollbooth_valid_until=99999999999")
        answer = counter.get("/treasure", {"Authorization": f"L402 {forged.serialize()}:{preimage}"})
        assert answer.status_code == 402
        assert counter.runs == []
    assert is_weak(key.decode("latin-1"))


def test_a16_a_stolen_credential_ends(tmp_path: Path) -> None:
    with counter_of("l402", tmp_path) as counter:
        macaroon, _, preimage = counter.buy()["Authorization"].removeprefix("L402 ").partition(":")
        token = Macaroon.deserialize(macaroon)
        token.add_first_party_caveat("tollbooth_valid_until=1000000000")
        answer = counter.get("/goods", {"Authorization": f"L402 {token.serialize()}:{preimage}"})
        assert answer.json()["reason"] == "credential_expired"
        assert counter.runs == []


@pytest.mark.anyio
async def test_a30_credit_is_not_spent_twice_while_it_is_topped_up_and_given_back(tmp_path: Path) -> None:
    read = TollboothSettings(
        _env_file=None, database_url=f"sqlite:///{tmp_path}/t.db", top_up=5, unpaid_rate_limit="off"
    )
    booth, app, runs = Tollbooth(read), FastAPI(), list[str]()
    booth.install(app)

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def x(fail: bool = False) -> str:
        await asyncio.sleep(0.001)
        if fail:
            raise RuntimeError("given back")
        runs.append("x")
        return SERVED

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        offer = (await client.get("/x")).json()
        paid = (await client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})).json()
        headers = {"Authorization": f"L402 {offer['macaroon']}:{paid['preimage']}"}
        for _ in range(4):
            await asyncio.gather(
                *(client.get("/x", headers=headers, params={"fail": number % 2}) for number in range(24)),
                return_exceptions=True,
            )
    await booth.close()
    assert len(runs) == 5
    with sqlite3.connect(tmp_path / "t.db") as connection:
        rows = connection.execute("SELECT posted, pending FROM tollbooth_account WHERE kind = 'payer'").fetchall()
    connection.close()
    assert rows == [(0, 0)]


def test_a40_what_a_hook_refuses_does_not_run(counter: Counter) -> None:
    credential = counter.buy()
    counter.tollbooth.on_request(lambda connection: Reject(403))
    assert counter.get("/goods", credential).status_code == 403
    assert counter.get("/goods").status_code == 403
    assert counter.runs == []


def test_a46_a_leaked_preimage_opens_no_unpaid_invoice(tmp_path: Path) -> None:
    with counter_of("l402", tmp_path) as counter:
        offer = counter.get("/goods").json()
        node = counter.tollbooth.dev_node
        assert node is not None
        invoice = decode(offer["invoice"])
        # What a node on the route of a payment learns before the payee has the money.
        assert invoice.payment_secret
        assert invoice.amount_msat
        preimage = node._preimage(invoice.payment_secret, invoice.amount_msat)
        headers = {"Authorization": f"L402 {offer['macaroon']}:{preimage.hex()}"}
        refused = counter.get("/goods", headers)
        assert refused.status_code == 503
        assert "www-authenticate" not in refused.headers
        assert counter.runs == []
        counter.client.post("/tollbooth/dev/pay", json={"invoice": offer["invoice"]})
        assert counter.get("/goods", headers).status_code == 200


def test_a47_nothing_of_the_request_is_in_what_is_paid(counter: Counter) -> None:
    secret = "my-private-prompt"
    refused = counter.client.get(f"/goods?prompt={secret}", headers={"X-Secret": secret, "Cookie": f"a={secret}"})
    assert refused.status_code == 402
    everything = refused.text + " ".join(f"{name}: {value}" for name, value in refused.headers.multi_items())
    assert secret not in everything
    if counter.name == "l402":
        assert decode(refused.json()["invoice"]).description == "tollbooth: $0.01 credit"


def test_a41_an_abandoned_stream_is_paid(counter: Counter) -> None:
    credential = counter.buy("/stream")
    with counter.client.stream("GET", "/stream", headers=credential) as answer:
        assert answer.status_code == 200  # and not a byte of it is read
    assert counter.get("/stream", credential).status_code in (402, 403)
    assert counter.runs == ["/stream"]
