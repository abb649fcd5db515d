"""The x402 rail on a real application, with a facilitator that does as tests say: who is served, and what is paid."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import select

from fastapi_tollbooth import Toll, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.settings import LightningSettings, X402Settings
from fastapi_tollbooth.testing import run
from tests import raw
from tests.stub_facilitator import StubFacilitator, stub_facilitator
from tests.x402_payer import PAY_TO, PAYER, decode, encode, sign, sign_v1

Serve = Callable[..., TestClient]


class Desk:
    """An application with priced routes, its facilitator, and what happened to both."""

    def __init__(self, stub: StubFacilitator, path: Path, serve: Serve, **x402: Any) -> None:
        self.stub = stub
        self.runs: list[str] = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()
        path.mkdir(exist_ok=True)
        settings = TollboothSettings(
            _env_file=None,
            database_url=f"sqlite:///{path}/tollbooth.db",
            lightning=LightningSettings(backend="none"),
            btc_usd="100000",
            unpaid_rate_limit="off",
            x402=X402Settings(pay_to=PAY_TO, networks=["base-sepolia"], facilitator_url=stub.url, **x402),
        )
        self.tollbooth = Tollbooth(settings)
        self.app = FastAPI()
        self.tollbooth.install(self.app)
        for path_, price, settle in (
            ("/cheap", "$0.01", None),
            ("/dear", "$1", None),
            ("/same", "$0.01", None),
            ("/first", "$0.01", "before"),
        ):
            self.app.get(path_, dependencies=[Depends(priced(price, settle=settle))])(self._handler(path_))  # type: ignore[arg-type]

        @self.app.get("/stream", dependencies=[Depends(priced("$0.01"))])
        async def stream() -> StreamingResponse:
            self.runs.append("/stream")
            return StreamingResponse(iter(["first", "second"]))

        @self.app.get("/free")
        async def free() -> str:
            return "free"

        self.client = serve(self.app, raise_server_exceptions=False)

    def _handler(self, path: str) -> Callable[[], str]:
        def handler() -> str:
            self.runs.append(path)
            assert self.gate.wait(20)
            if self.fails:
                raise HTTPException(500, "the handler fails")
            return "served"

        return handler

    def offer(self, path: str = "/cheap") -> dict[str, Any]:
        """The first entry of ``accepts`` of an unpaid request."""
        refused = self.client.get(path)
        assert refused.status_code == 402, refused.text
        offered: dict[str, Any] = decode(refused.headers["payment-required"])["accepts"][0]
        return offered

    def payment(self, path: str = "/cheap", **changes: Any) -> dict[str, str]:
        """The header of a new payment."""
        return {"PAYMENT-SIGNATURE": encode(sign(self.offer(path), **changes))}

    def get(self, path: str, payment: dict[str, str]) -> Any:
        """A request with a payment."""
        return self.client.get(path, headers=payment)

    def states(self) -> list[str]:
        """The states of all payments in the ledger."""
        payment = metadata.tables["tollbooth_payment"]
        return run(
            self.tollbooth.ledger.read(lambda connection: list(connection.execute(select(payment.c.state)).scalars()))
        )

    def earned(self) -> int:
        """What was earned, in micro-dollars; the books are checked on the way."""
        account = metadata.tables["tollbooth_account"]
        query = select(account.c.posted).where(account.c.key == "revenue:USD")
        assert run(self.tollbooth.ledger.read(verify)).discrepancy is None
        return run(self.tollbooth.ledger.read(lambda connection: connection.execute(query).scalar())) or 0

    def make_old(self) -> None:
        """Have every payment in the ledger look as if nobody had touched it for an hour."""
        statement = "UPDATE tollbooth_payment SET updated_at = '2020-01-01 00:00:00.000000'"
        run(self.tollbooth.ledger.execute(lambda connection: connection.exec_driver_sql(statement)))

    def put(self, state: str) -> None:
        """Have every payment in the ledger be in this state."""
        statement = f"UPDATE tollbooth_payment SET state = '{state}'"
        run(self.tollbooth.ledger.execute(lambda connection: connection.exec_driver_sql(statement)))

    def reconcile(self) -> int:
        """What the service does every minute: how many payments were resolved."""
        return self.client.portal.call(self.tollbooth.recover).payments  # type: ignore[union-attr]


@pytest.fixture
def stub() -> Iterator[StubFacilitator]:
    with stub_facilitator() as running:
        yield running


@pytest.fixture
def desk(stub: StubFacilitator, tmp_path: Path, serve: Serve) -> Desk:
    return Desk(stub, tmp_path, serve)


@pytest.fixture
def with_node(stub: StubFacilitator, tmp_path: Path, serve: Serve) -> Desk:
    return Desk(stub, tmp_path, serve, rpc_url=f"{stub.url}/rpc")


# ── the 402 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_402_asks_in_both_versions_and_nobody_was_asked(desk: Desk) -> None:
    refused = desk.client.get("/cheap?q=1")
    document, body = decode(refused.headers["payment-required"]), refused.json()
    assert document["x402Version"] == 2
    assert document["resource"] == {"url": "http://testserver/cheap"}
    assert document["accepts"][0]["amount"] == "10000"
    assert document["accepts"][0]["network"] == "eip155:84532"
    assert (body["x402Version"], body["accepts"][0]["maxAmountRequired"]) == (1, "10000")
    assert body["x402"]["singleUse"] is True
    assert (body["reason"], body["price"]) == ("payment_required", "$0.01")
    assert refused.headers["cache-control"] == "no-store"
    assert (desk.stub.calls, desk.runs) == ([], [])


def test_all_headers_stay_below_8_kilobytes_on_many_networks(stub: StubFacilitator, tmp_path: Path) -> None:
    from fastapi_tollbooth.rails.x402.networks import BY_NAME

    networks = [name for name in BY_NAME if name and not name.startswith("solana")]
    settings = TollboothSettings(
        _env_file=None,
        database_url=f"sqlite:///{tmp_path}/t.db",
        x402=X402Settings(pay_to=PAY_TO, networks=networks, facilitator_url=stub.url),
    )
    app = FastAPI()
    Tollbooth(settings).install(app)
    app.get("/{path:path}", dependencies=[Depends(priced("$0.01", description="long " * 400))])(lambda: "x")
    with TestClient(app) as client:
        refused = client.get("/" + "a" * 2_000)
    assert refused.status_code == 402
    assert sum(len(name) + len(value) + 4 for name, value in refused.headers.items()) < 8_192
    assert len(decode(refused.headers["payment-required"])["accepts"]) >= 3
    assert len(refused.json()["accepts"]) == len(networks)


def test_the_402_describes_its_route_unless_the_owner_does_not_want_that(
    stub: StubFacilitator, tmp_path: Path, serve: Serve
) -> None:
    for discovery in (True, False):
        desk = Desk(stub, tmp_path / str(discovery), serve, discovery=discovery)
        below = FastAPI()
        below.get("/items/{item}", dependencies=[Depends(priced("$0.01"))])(lambda item, q=1: item)
        desk.app.mount("/shop", below)
        document = decode(desk.client.get("/shop/items/7?q=2").headers["payment-required"])
        if not discovery:
            assert "bazaar" not in document["extensions"]
            continue
        bazaar = document["extensions"]["bazaar"]
        assert bazaar["info"]["input"]["pathParams"] == {"item": "7"}
        assert bazaar["routeTemplate"] == "/shop/items/:item"


def test_one_402_offers_lightning_too(stub: StubFacilitator, tmp_path: Path, serve: Serve) -> None:
    settings = TollboothSettings(
        _env_file=None,
        database_url=f"sqlite:///{tmp_path}/t.db",
        x402=X402Settings(pay_to=PAY_TO, networks=["base-sepolia"], facilitator_url=stub.url),
    )
    app = FastAPI()
    Tollbooth(settings).install(app)
    app.get("/x", dependencies=[Depends(priced("$0.01"))])(lambda: "served")
    client = serve(app)
    refused = client.get("/x")
    assert refused.headers["www-authenticate"].startswith("L402 ")
    header = {"PAYMENT-SIGNATURE": encode(sign(decode(refused.headers["payment-required"])["accepts"][0]))}
    both = client.get("/x", headers=header | {"Authorization": "L402 abc:" + "0" * 64})
    assert (both.status_code, both.json()["reason"]) == (400, "ambiguous_credential")
    assert client.get("/x", headers=header).status_code == 200


def test_the_documentation_names_the_way_to_pay(desk: Desk) -> None:
    document = desk.client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["x402"]["name"] == "PAYMENT-SIGNATURE"
    assert "PAYMENT-REQUIRED" in document["paths"]["/cheap"]["get"]["responses"]["402"]["headers"]
    offer = document["paths"]["/cheap"]["get"]["x-payment-info"]["offers"][0]
    assert (offer["method"], offer["networks"], offer["amount"]) == ("x402", ["eip155:84532"], "10000")


# ── after the handler ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_payment_is_verified_served_and_settled(desk: Desk) -> None:
    answer = desk.get("/cheap", desk.payment())
    assert (answer.status_code, answer.json()) == (200, "served")
    receipt = decode(answer.headers["payment-response"])
    assert receipt == {
        "success": True,
        "transaction": f"0x{1:064x}",
        "network": "eip155:84532",
        "payer": PAYER,
    }
    assert answer.headers["cache-control"] == "private"
    assert [path for path, _ in desk.stub.calls] == ["/verify", "/settle"]
    assert (desk.runs, desk.states(), desk.earned()) == (["/cheap"], ["settled"], 10_000)


def test_version_1_is_answered_in_kind(desk: Desk) -> None:
    asked = desk.client.get("/cheap").json()["accepts"][0]
    answer = desk.get("/cheap", {"X-PAYMENT": encode(sign_v1(asked))})
    assert answer.status_code == 200
    assert decode(answer.headers["x-payment-response"])["network"] == "base-sepolia"
    assert "payment-response" not in answer.headers
    told = desk.stub.calls[0][1]
    assert (told["x402Version"], told["paymentRequirements"]["maxAmountRequired"]) == (1, "10000")


def test_the_facilitator_is_told_our_terms_and_the_payer_s_words(desk: Desk) -> None:
    signed = sign(desk.offer())
    signed["accepted"]["amount"] = "1"
    signed["accepted"]["payTo"] = PAYER
    signed["payload"]["authorization"]["to"] = PAY_TO
    signed["extensions"] = {"theirs": {"kept": True}}
    assert desk.get("/cheap", {"PAYMENT-SIGNATURE": encode(signed)}).status_code == 200
    told = desk.stub.calls[0][1]
    assert told["paymentPayload"] == signed
    assert (told["paymentRequirements"]["amount"], told["paymentRequirements"]["payTo"]) == ("10000", PAY_TO)


def test_a_spent_payment_is_not_served_again_and_not_challenged(desk: Desk) -> None:
    payment = desk.payment()
    assert desk.get("/cheap", payment).status_code == 200
    again = desk.get("/cheap", payment)
    assert (again.status_code, again.json()["reason"]) == (403, "already_spent")
    assert "payment-required" not in again.headers
    assert (len(desk.runs), len(desk.stub.transfers), desk.earned()) == (1, 1, 10_000)


def test_a_spent_payment_is_refused_even_if_every_facilitator_says_yes(desk: Desk) -> None:
    payment = desk.payment()
    assert desk.get("/cheap", payment).status_code == 200
    desk.stub.verify_answer = 200, {"isValid": True, "payer": PAYER}
    desk.stub.settle_answer = 200, {"success": True, "transaction": "0x9", "network": "eip155:84532"}
    for path in ("/cheap", "/same"):
        assert desk.get(path, payment).json()["reason"] == "already_spent"
    assert len(desk.runs) == 1


def test_twenty_copies_of_one_signature_run_the_handler_once(desk: Desk) -> None:
    payment = desk.payment()
    desk.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(desk.get, "/cheap", payment) for _ in range(20)]
        deadline = time.monotonic() + 10
        while sum(answer.done() for answer in answers) < 19 and time.monotonic() < deadline:
            time.sleep(0.02)
        desk.gate.set()
        responses = [answer.result() for answer in answers]
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [200] + [409] * 19
    busy = next(response for response in responses if response.status_code == 409)
    assert (busy.json()["reason"], busy.headers["retry-after"]) == ("payment_in_use", "1")
    assert all("payment-required" not in response.headers for response in responses)
    assert (len(desk.runs), len(desk.stub.transfers), desk.earned()) == (1, 1, 10_000)


def test_a_handler_that_fails_costs_nothing_and_frees_the_payment(desk: Desk) -> None:
    payment = desk.payment()
    desk.fails = True
    assert desk.get("/cheap", payment).status_code == 500
    assert (desk.stub.count("/settle"), desk.states(), desk.earned()) == (0, ["released"], 0)
    desk.fails = False
    assert desk.get("/cheap", payment).status_code == 200
    assert (len(desk.stub.transfers), desk.earned()) == (1, 10_000)


def test_a_settlement_that_fails_withholds_every_byte(desk: Desk) -> None:
    desk.stub.settle_answer = 200, {"success": False, "errorReason": "insufficient_funds", "transaction": ""}
    payment = desk.payment()
    answer = desk.get("/cheap", payment)
    assert (answer.status_code, answer.json()["reason"]) == (402, "settlement_failed")
    assert answer.json()["settlementReason"] == "insufficient_funds"
    receipt = decode(answer.headers["payment-response"])
    assert (receipt["success"], receipt["errorReason"]) == (False, "insufficient_funds")
    assert "served" not in answer.text
    assert (desk.states(), desk.earned()) == (["failed"], 0)
    desk.stub.settle_answer = None
    assert desk.get("/cheap", payment).status_code == 200


def test_a_stream_is_settled_before_its_first_byte(desk: Desk) -> None:
    answer = desk.get("/stream", desk.payment("/stream"))
    assert (answer.text, decode(answer.headers["payment-response"])["success"]) == ("firstsecond", True)
    desk.stub.settle_answer = 200, {"success": False, "errorReason": "insufficient_funds", "transaction": ""}
    refused = desk.get("/stream", desk.payment("/stream"))
    assert refused.status_code == 402
    assert "first" not in refused.text


# ── bound ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": "9999"}, "wrong_amount"),
        ({"value": "1000000"}, "wrong_amount"),
        ({"to": PAYER}, "wrong_recipient"),
        ({"validBefore": "1000"}, "payment_expired"),
        ({"validAfter": "99999999999"}, "payment_not_yet_valid"),
        ({"nonce": "0x00"}, "malformed_payment"),
    ],
)
def test_a_payment_that_is_not_the_one_asked_for_is_refused(desk: Desk, changes: dict[str, Any], reason: str) -> None:
    signed = sign(desk.offer())
    signed["payload"]["authorization"] |= changes
    answer = desk.get("/cheap", {"PAYMENT-SIGNATURE": encode(signed)})
    assert (answer.status_code, answer.json()["reason"]) == (402, reason)
    assert "payment-required" in answer.headers
    assert (desk.runs, desk.stub.calls, desk.states()) == ([], [], [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "eip155:1"}, "wrong_network"),
        ({"asset": PAYER}, "wrong_asset"),
        ({"scheme": "upto"}, "wrong_scheme"),
    ],
)
def test_a_payment_for_another_offer_is_refused(desk: Desk, changes: dict[str, str], reason: str) -> None:
    signed = sign(desk.offer())
    signed["accepted"] |= changes
    answer = desk.get("/cheap", {"PAYMENT-SIGNATURE": encode(signed)})
    assert (answer.status_code, answer.json()["reason"]) == (402, reason)
    assert (desk.runs, desk.stub.calls) == ([], [])


def test_a_payment_for_a_cheap_route_does_not_buy_a_dear_one(desk: Desk) -> None:
    payment = desk.payment("/cheap")
    assert desk.get("/dear", payment).json()["reason"] == "wrong_amount"
    assert (desk.runs, desk.stub.calls) == ([], [])


def test_a_signature_that_the_facilitator_does_not_vouch_for_is_refused(desk: Desk) -> None:
    desk.stub.verify_answer = 400, {"isValid": False, "invalidReason": "invalid_exact_evm_payload_signature"}
    answer = desk.get("/cheap", desk.payment())
    assert (answer.status_code, answer.json()["reason"]) == (402, "payment_invalid")
    assert answer.json()["facilitatorReason"] == "invalid_exact_evm_payload_signature"
    assert (desk.runs, desk.states()) == ([], [])


def test_a_verdict_about_another_payer_is_no_verdict(desk: Desk) -> None:
    desk.stub.verify_answer = 200, {"isValid": True, "payer": PAY_TO}
    assert desk.get("/cheap", desk.payment()).json()["reason"] == "payment_invalid"
    assert desk.runs == []


@pytest.mark.slow
def test_ten_thousand_payments_that_are_none_are_refused_and_nothing_crashes(desk: Desk) -> None:
    dice = random.Random(402)
    good = sign(desk.offer())
    junk: list[Any] = [None, True, -1, 1e300, "", "0x", "é" * 9, [], {}, [[]], "9" * 80, "0x" + "g" * 40]
    desk.stub.verify_answer = 200, {"isValid": False, "invalidReason": "invalid_payload"}
    for _ in range(10_000):
        document = json.loads(json.dumps(good))
        for _ in range(dice.randint(1, 3)):
            place: Any = document
            while isinstance(place, dict) and place:
                name = dice.choice(list(place))
                if not isinstance(place[name], dict) or dice.random() < 0.2:
                    place[name] = dice.choice(junk)
                    break
                place = place[name]
        header = encode(document)
        if dice.random() < 0.2:
            at = dice.randrange(len(header))
            header = header[:at] + chr(dice.randrange(33, 126)) + header[at + dice.randint(0, 3) :]
        name = dice.choice(["PAYMENT-SIGNATURE", "X-PAYMENT"])
        answer = raw.get(desk.client, "/cheap", name, header.encode())
        assert answer.status == 402, (answer, header)
    assert (desk.runs, desk.stub.count("/settle"), desk.states()) == ([], 0, [])


# ── nobody answers ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dead_facilitator_means_later_and_no_new_challenge(desk: Desk) -> None:
    payment = desk.payment()
    desk.stub.verify_answer = 500, {}
    answer = desk.get("/cheap", payment)
    assert (answer.status_code, answer.json()["reason"]) == (503, "facilitator_unavailable")
    assert "payment-required" not in answer.headers
    assert answer.headers["retry-after"]
    assert (desk.runs, desk.states()) == ([], [])
    assert desk.client.get("/free").status_code == 200
    assert desk.client.get("/cheap").status_code == 402
    desk.stub.verify_answer = None
    assert desk.get("/cheap", payment).status_code == 200


def test_a_settlement_that_was_never_sent_leaves_the_payment_good(desk: Desk) -> None:
    payment = desk.payment()
    place = desk.tollbooth.rails[0]._accepted[0].facilitator  # type: ignore[attr-defined]
    alive = place.urls
    place.urls = ("http://127.0.0.1:9", *alive)
    answer = desk.get("/cheap", payment)
    assert (answer.status_code, answer.json()["reason"]) == (503, "facilitator_unavailable")
    assert (desk.states(), desk.earned()) == (["failed"], 0)
    place.urls = alive
    assert desk.get("/cheap", payment).status_code == 200


def test_a_lost_answer_is_503_and_the_same_payment_is_served(with_node: Desk) -> None:
    desk = with_node
    desk.stub.lose_settle_answer = True
    payment = desk.payment()
    lost = desk.get("/cheap", payment)
    assert (lost.status_code, lost.json()["reason"]) == (503, "settlement_unknown")
    assert "payment-required" not in lost.headers
    assert "served" not in lost.text
    assert (desk.states(), desk.earned()) == (["unknown"], 0)
    served = desk.get("/cheap", payment)
    assert served.status_code == 200
    assert decode(served.headers["payment-response"])["transaction"] == f"0x{1:064x}"
    assert desk.get("/cheap", payment).json()["reason"] == "already_spent"
    assert (len(desk.stub.transfers), desk.states(), desk.earned()) == (1, ["settled"], 10_000)


def test_without_a_node_a_facilitator_that_remembers_resolves_it(desk: Desk) -> None:
    desk.stub.lose_settle_answer = True
    payment = desk.payment()
    assert desk.get("/cheap", payment).status_code == 503
    still = desk.get("/cheap", payment)
    assert (still.status_code, still.json()["reason"]) == (503, "settlement_unknown")
    desk.stub.settle_answer = 200, {"success": True, "transaction": f"0x{1:064x}", "network": "eip155:84532"}
    assert desk.get("/cheap", payment).status_code == 200
    assert (len(desk.stub.transfers), desk.earned()) == (1, 10_000)


def test_a_lost_answer_of_a_payment_that_has_expired_meanwhile(with_node: Desk) -> None:
    desk = with_node
    desk.stub.lose_settle_answer = True
    payment = desk.payment(validBefore=str(int(time.time()) + 8))
    assert desk.get("/cheap", payment).status_code == 503
    time.sleep(2.5)
    assert desk.get("/cheap", payment).status_code == 200
    assert len(desk.stub.transfers) == 1


def test_the_sweeper_finds_a_lost_payment_and_it_is_owed(with_node: Desk) -> None:
    desk = with_node
    desk.stub.lose_settle_answer = True
    payment = desk.payment()
    assert desk.get("/cheap", payment).status_code == 503
    assert desk.reconcile() == 1
    assert (desk.states(), desk.earned()) == (["settled"], 0)
    asked = desk.stub.count("/settle")
    assert desk.get("/cheap", payment).status_code == 200
    assert (desk.stub.count("/settle"), desk.earned(), len(desk.stub.transfers)) == (asked, 10_000, 1)


def test_a_settlement_that_a_process_died_in_is_found(with_node: Desk) -> None:
    desk = with_node
    desk.stub.lose_settle_answer = True
    payment = desk.payment()
    assert desk.get("/cheap", payment).status_code == 503
    desk.put("settling")
    assert desk.reconcile() == 0
    assert desk.get("/cheap", payment).json()["reason"] == "payment_in_use"
    desk.make_old()
    assert desk.reconcile() == 1
    assert desk.states() == ["settled"]
    assert desk.get("/cheap", payment).status_code == 200


def test_a_claim_that_a_process_died_with_is_given_up(desk: Desk) -> None:
    payment = desk.payment()
    desk.fails = True
    assert desk.get("/cheap", payment).status_code == 500
    desk.fails = False
    desk.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(desk.get, "/cheap", payment)
        while desk.states() != ["claimed"]:
            time.sleep(0.02)
        assert desk.reconcile() == 0
        desk.make_old()
        assert desk.reconcile() == 1
        desk.gate.set()
        answer = hanging.result()
    # Whoever comes back from the dead finds that the claim is no longer theirs.
    assert (answer.status_code, answer.json()["reason"]) == (503, "settlement_unknown")
    assert (desk.states(), desk.stub.count("/settle")) == (["released"], 0)
    assert desk.get("/cheap", payment).status_code == 200


def test_a_nonce_that_was_cancelled_is_no_payment(with_node: Desk) -> None:
    desk = with_node
    desk.stub.lose_settle_answer = True
    payment = desk.payment()
    assert desk.get("/cheap", payment).status_code == 503
    for made in desk.stub.transfers.values():
        made["to"] = "0x" + "99" * 20
    answer = desk.get("/cheap", payment)
    assert (answer.status_code, answer.json()["reason"]) == (402, "settlement_failed")
    assert (len(desk.runs), desk.states(), desk.earned()) == (1, ["failed"], 0)


def test_a_payment_that_somebody_else_put_on_chain_counts(with_node: Desk) -> None:
    desk = with_node
    desk.stub.lose_settle_answer = True
    desk.stub.settle_answer = 200, {"success": False, "errorReason": "transaction_failed", "transaction": ""}
    signed = sign(desk.offer())
    nonce = signed["payload"]["authorization"]["nonce"]
    desk.stub.verify_answer = 200, {"isValid": True, "payer": PAYER}
    token = desk.offer()["asset"]
    desk.stub.transfers[PAYER, nonce] = {"hash": f"0x{7:064x}", "token": token, "to": PAY_TO, "value": 10_000}
    answer = desk.get("/cheap", {"PAYMENT-SIGNATURE": encode(signed)})
    assert answer.status_code == 200
    assert decode(answer.headers["payment-response"])["transaction"] == f"0x{7:064x}"


# ── before the handler ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_money_comes_first_where_the_owner_says_so(desk: Desk) -> None:
    assert desk.offer("/first")["extra"]["paymentFlow"] == "upfront"
    answer = desk.get("/first", desk.payment("/first"))
    assert answer.status_code == 200
    assert decode(answer.headers["payment-response"])["transaction"] == f"0x{1:064x}"
    assert (desk.runs, desk.earned()) == (["/first"], 10_000)


def test_the_handler_does_not_run_when_the_money_does_not_come(desk: Desk) -> None:
    desk.stub.settle_answer = 200, {"success": False, "errorReason": "insufficient_funds", "transaction": ""}
    answer = desk.get("/first", desk.payment("/first"))
    assert (answer.status_code, answer.json()["reason"]) == (402, "settlement_failed")
    assert "payment-required" in answer.headers
    assert desk.runs == []


def test_a_request_that_fails_after_its_payment_is_owed(desk: Desk) -> None:
    payment = desk.payment("/first")
    desk.fails = True
    for _ in range(2):
        assert desk.get("/first", payment).status_code == 500
    assert (len(desk.stub.transfers), desk.earned()) == (1, 0)
    desk.fails = False
    assert desk.get("/first", payment).status_code == 200
    assert desk.get("/first", payment).json()["reason"] == "already_spent"
    assert (desk.stub.count("/settle"), len(desk.stub.transfers), desk.earned()) == (1, 1, 10_000)
    assert len(desk.runs) == 3


def test_what_is_owed_is_served_without_any_facilitator(desk: Desk) -> None:
    payment = desk.payment("/first")
    desk.fails = True
    assert desk.get("/first", payment).status_code == 500
    desk.fails = False
    desk.stub.verify_answer = 500, {}
    desk.stub.settle_answer = 500, {}
    assert desk.get("/first", payment).status_code == 200


def test_copies_of_what_is_owed_run_the_handler_once(desk: Desk) -> None:
    payment = desk.payment("/first")
    desk.fails = True
    assert desk.get("/first", payment).status_code == 500
    desk.fails = False
    with ThreadPoolExecutor(10) as pool:
        statuses = sorted(answer.status_code for answer in pool.map(lambda _: desk.get("/first", payment), range(10)))
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {403, 409}
    assert (len(desk.runs), len(desk.stub.transfers), desk.earned()) == (2, 1, 10_000)


def test_a_lost_answer_before_the_handler_is_resolved_the_same_way(with_node: Desk) -> None:
    desk = with_node
    desk.stub.lose_settle_answer = True
    payment = desk.payment("/first")
    lost = desk.get("/first", payment)
    assert (lost.status_code, desk.runs) == (503, [])
    assert desk.get("/first", payment).status_code == 200
    assert (len(desk.runs), len(desk.stub.transfers), desk.earned()) == (1, 1, 10_000)


def test_the_service_s_setting_holds_where_a_route_says_nothing(
    stub: StubFacilitator, tmp_path: Path, serve: Serve
) -> None:
    desk = Desk(stub, tmp_path, serve, settle="before")
    assert desk.offer("/cheap")["extra"]["paymentFlow"] == "upfront"
    desk.fails = True
    assert desk.get("/cheap", desk.payment()).status_code == 500
    assert len(stub.transfers) == 1


def test_a_metered_payment_moves_the_most_first_and_charges_what_was_used(desk: Desk) -> None:
    @desk.app.get("/metered")
    async def metered(toll: Annotated[Toll, Depends(priced("$0.50", metered=True))]) -> StreamingResponse:
        def words() -> Iterator[str]:
            for word in ("one ", "two"):
                desk.runs.append(f"{len(desk.stub.transfers)} moved")
                toll.use("$0.03")
                yield word

        return StreamingResponse(words())

    response = desk.get("/metered", desk.payment("/metered"))
    assert response.text == "one two"
    assert desk.runs[:2] == ["1 moved", "1 moved"]
    assert decode(response.headers["payment-response"])["success"]
    # What it did not use is credit of whoever paid.
    rest = {"Authorization": response.headers["x-credit-authorization"]}
    served = desk.client.get("/cheap", headers=rest)
    assert (served.status_code, served.headers["x-credit-balance"]) == (200, "$0.43")
    desk.client.portal.call(desk.tollbooth.ledger.flush, None)  # type: ignore[union-attr]
    assert desk.earned() == 70_000
    assert desk.states() == ["settled"]


def test_the_id_of_a_metered_toll_is_that_of_its_charge(desk: Desk) -> None:
    seen: list[Toll] = []

    @desk.app.get("/metered")
    async def metered(toll: Annotated[Toll, Depends(priced("$0.50", metered=True))]) -> str:
        seen.append(toll)
        toll.use("$0.03")
        return "one"

    assert desk.get("/metered", desk.payment("/metered")).status_code == 200
    corrected = desk.client.portal.call(desk.tollbooth.reconcile, seen[0].id, "$0.01")  # type: ignore[union-attr]
    assert (str(corrected), desk.earned()) == ("$0.01", 10_000)


def test_a_handler_that_charges_nothing_moves_nothing(desk: Desk) -> None:
    @desk.app.get("/sorry")
    async def sorry(toll: Annotated[Toll, Depends(priced("$0.50"))]) -> str:
        toll.refund()
        return "sorry"

    response = desk.get("/sorry", desk.payment("/sorry"))
    assert response.status_code == 200
    assert (desk.stub.transfers, desk.states(), desk.earned()) == ({}, ["released"], 0)
