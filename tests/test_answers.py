"""Requests with identifiers: sent again, they get the same answer, and no handler runs and no money moves again."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from fastapi_tollbooth import Toll, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.ledger import answers
from fastapi_tollbooth.ledger.answers import prune
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.ledger.tables import metadata
from fastapi_tollbooth.rails.x402.history import Known
from fastapi_tollbooth.rails.x402.identifiers import EXTENSION
from fastapi_tollbooth.rails.x402.order import Held, Order
from fastapi_tollbooth.rails.x402.settling import Settler
from fastapi_tollbooth.settings import LightningSettings, X402Settings
from fastapi_tollbooth.testing import run
from tests.service import ROOT, free_port, wait_for
from tests.stub_facilitator import StubFacilitator, stub_facilitator
from tests.x402_payer import PAY_TO, decode, encode, sign, sign_v1

Serve = Callable[..., TestClient]
NAME = "pay_7d5d747be160e280504c099d984bcfe0"
OTHER = "pay_another_identifier_of_mine"
ALREADY = (403, "already_spent")
TAKEN = (409, "identifier_in_use")


class Office:
    """An application whose clients name their requests, on any database; what its handlers did, and what was paid."""

    def __init__(self, stub: StubFacilitator, url: str, serve: Serve, **x402: Any) -> None:
        self.stub = stub
        self.runs: list[str] = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()
        lightning = LightningSettings(backend="none")
        node = {"rpc_url": f"{stub.url}/rpc"}
        stablecoins = X402Settings(pay_to=PAY_TO, networks=["base-sepolia"], facilitator_url=stub.url, **(node | x402))
        self.tollbooth = Tollbooth(
            TollboothSettings(
                _env_file=None,
                database_url=url,
                lightning=lightning,
                btc_usd="100000",
                unpaid_rate_limit="off",
                secret="s" * 40,
                x402=stablecoins,
            )
        )
        app = self.app = FastAPI()
        self.tollbooth.install(app)
        cent, first = [Depends(priced("$0.01"))], [Depends(priced("$0.01", settle="before"))]

        def handler(request: Request, response: Response) -> dict[str, int]:
            self.runs.append(request.url.path)
            assert self.gate.wait(20)
            if self.fails:
                raise HTTPException(500, "the handler fails")
            response.headers["x-kept"] = "yes"
            response.set_cookie("session", "secret")
            response.status_code = 201
            return {"run": len(self.runs)}

        for path, dependencies in (("/after", cent), ("/before", first), ("/other", cent)):
            app.get(path, dependencies=dependencies)(handler)
            app.post(path, dependencies=dependencies)(handler)

        @app.post("/form", dependencies=cent)
        async def form(name: Annotated[str, Form()], file: UploadFile) -> str:
            self.runs.append(name)
            return f"{name} {(await file.read()).decode()} {len(self.runs)}"

        @app.get("/stream", dependencies=cent)
        async def stream() -> StreamingResponse:
            self.runs.append("/stream")
            return StreamingResponse(iter(["first", "second"]))

        @app.get("/large", dependencies=cent)
        async def large() -> Response:
            self.runs.append("/large")
            return Response(b"x" * 70_000)

        @app.get("/metered")
        async def metered(toll: Annotated[Toll, Depends(priced("$0.05", metered=True))]) -> str:
            self.runs.append("/metered")
            toll.use("$0.02")
            return "measured"

        self.client = serve(app, raise_server_exceptions=False)

    def payment(
        self, path: str = "/after", name: str | None = NAME, method: str = "GET", body: Any = None, **changes: Any
    ) -> dict[str, str]:
        """The header of a new payment, with an identifier."""
        refused = self.client.request(method, path, json=body)
        assert refused.status_code == 402, refused.text
        required = decode(refused.headers["payment-required"])
        signed = sign(required["accepts"][0], **changes)
        if name is not None:
            signed["extensions"] = required["extensions"]
            signed["extensions"][EXTENSION]["info"]["id"] = name
        return {"PAYMENT-SIGNATURE": encode(signed)}

    def get(self, path: str, payment: dict[str, str]) -> Any:
        return self.client.get(path, headers=payment)

    def answers(self) -> list[bytes | None]:
        """What is kept."""
        answer = metadata.tables["tollbooth_answer"]
        query = select(answer.c.sealed)
        return run(self.tollbooth.ledger.read(lambda connection: list(connection.execute(query).scalars())))

    def age(self) -> None:
        """Have all that is kept be beyond its time."""
        statement = text("UPDATE tollbooth_answer SET expires_at = '2020-01-01 00:00:00.000000'")
        run(self.tollbooth.ledger.execute(lambda connection: connection.execute(statement)))

    def earned(self) -> int:
        """What was earned, in micro-dollars; the books are checked on the way."""
        account = metadata.tables["tollbooth_account"]
        query = select(func.coalesce(func.sum(account.c.posted), 0)).where(account.c.key == "revenue:USD")
        assert run(self.tollbooth.ledger.read(verify)).discrepancy is None
        return run(self.tollbooth.ledger.read(lambda connection: int(connection.execute(query).scalar_one())))


@pytest.fixture
def stub() -> Iterator[StubFacilitator]:
    with stub_facilitator() as running:
        yield running


@pytest.fixture
def office(stub: StubFacilitator, url: str, serve: Serve) -> Office:
    return Office(stub, url, serve)


@pytest.fixture
def lite(stub: StubFacilitator, tmp_path: Path, serve: Serve) -> Office:
    """One on SQLite, for what the database has no part in."""
    return Office(stub, f"sqlite:///{tmp_path}/ledger.db", serve)


def said(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["reason"]


# ── the same again ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/after", "/before"])
def test_who_lost_the_answer_gets_it_again(office: Office, path: str) -> None:
    payment = office.payment(path)
    first, again = office.get(path, payment), office.get(path, payment)
    assert (first.status_code, first.json()) == (201, {"run": 1})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["payment-response"] == first.headers["payment-response"]
    assert decode(again.headers["payment-response"])["transaction"] == f"0x{1:064x}"
    assert (again.headers["x-kept"], again.headers["cache-control"]) == ("yes", "private")
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert ("set-cookie" in first.headers, "set-cookie" in again.headers) == (True, False)
    assert (office.runs, office.stub.count("/settle"), office.earned()) == ([path], 1, 10_000)


def test_it_is_given_again_when_no_facilitator_answers_and_after_a_restart(
    stub: StubFacilitator, url: str, serve: Serve
) -> None:
    before = Office(stub, url, serve)
    payment = before.payment()
    assert before.get("/after", payment).status_code == 201
    before.client.portal.call(before.tollbooth.close)  # type: ignore[union-attr]
    after = Office(stub, url, serve)
    stub.verify_answer = stub.settle_answer = 500, {}
    again = after.get("/after", payment)
    assert (again.status_code, again.json(), after.runs) == (201, {"run": 1}, [])
    assert (len(stub.transfers), after.earned()) == (1, 10_000)


def test_of_twenty_copies_one_runs_and_all_get_its_answer_in_the_end(office: Office) -> None:
    payment = office.payment()
    office.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        copies = [pool.submit(office.get, "/after", payment) for _ in range(20)]
        deadline = time.monotonic() + 20
        while sum(copy.done() for copy in copies) < 19 and time.monotonic() < deadline:
            time.sleep(0.02)
        office.gate.set()
        answers = [copy.result() for copy in copies]
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    busy = next(answer for answer in answers if answer.status_code == 409)
    assert (busy.json()["reason"], busy.headers["retry-after"]) == ("payment_in_use", "1")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: office.get("/after", payment), range(20)))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(201, {"run": 1})] * 20
    assert (len(office.runs), len(office.stub.transfers), office.earned()) == (1, 1, 10_000)


def test_copies_that_race_are_served_once_and_never_told_that_it_was_spent(office: Office) -> None:
    payment = office.payment("/before")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: office.get("/before", payment), range(36)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert all(answer.json() == {"run": 1} for answer in answers if answer.status_code == 201)
    assert all(answer.json()["reason"] == "payment_in_use" for answer in answers if answer.status_code == 409)
    assert (len(office.runs), len(office.stub.transfers), office.earned()) == (1, 1, 10_000)


def test_a_copy_that_looked_before_the_first_was_served_gets_its_answer(
    lite: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment, hold = lite.payment(), Settler.hold
    waiting, go_on = threading.Event(), threading.Event()

    async def slow(settler: Settler, order: Order) -> Held:
        if waiting.is_set():
            return await hold(settler, order)
        waiting.set()
        await asyncio.to_thread(go_on.wait, 20)
        return await hold(settler, order)

    monkeypatch.setattr(Settler, "hold", slow)
    with ThreadPoolExecutor(1) as pool:
        copy = pool.submit(lite.get, "/after", payment)
        assert waiting.wait(20)
        served = lite.get("/after", payment)
        go_on.set()
        late = copy.result()
    assert (served.status_code, late.status_code, late.content) == (201, 201, served.content)
    assert (late.headers["idempotent-replayed"], len(lite.runs)) == ("true", 1)


def test_of_two_payments_under_one_identifier_one_is_made(office: Office) -> None:
    payments = [office.payment() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda payment: office.get("/after", payment), payments))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert {answer.json()["reason"] for answer in answers if answer.status_code == 409} == {"identifier_in_use"}
    assert (len(office.runs), len(office.stub.transfers), office.earned()) == (1, 1, 10_000)


def test_workers_share_identifiers_and_answers(stub: StubFacilitator, url: str, serve: Serve) -> None:
    workers = [Office(stub, url, serve) for _ in range(2)]
    payments = [workers[0].payment() for _ in range(4)]

    def send(number: int) -> Any:
        return workers[number % 2].get("/after", payments[number % 4])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    reasons = {answer.json()["reason"] for answer in answers if answer.status_code == 409}
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert reasons <= {"identifier_in_use", "payment_in_use"}
    assert len(workers[0].runs + workers[1].runs) == len(stub.transfers) == 1
    assert workers[0].earned() == 10_000
    found = [[worker.get("/after", payment).status_code for worker in workers] for payment in payments]
    assert sorted(found) == [[201, 201]] + [[409, 409]] * 3


def test_an_answer_is_given_again_where_the_price_had_to_wait_for_dependencies(lite: Office) -> None:
    def tenant() -> str:
        return "one"

    def price(tenant: Annotated[str, Depends(tenant)]) -> str:
        return "$0.01"

    @lite.app.get("/waits", dependencies=[Depends(priced("$0.02")), Depends(priced(price))])
    async def waits() -> int:
        lite.runs.append("/waits")
        return len(lite.runs)

    payment = lite.payment("/waits")
    first, again = lite.get("/waits", payment), lite.get("/waits", payment)
    assert [(each.status_code, each.json()) for each in (first, again)] == [(200, 1)] * 2


def test_an_answer_is_kept_although_the_ledger_is_busy_by_then(lite: Office) -> None:
    ledger = lite.tollbooth.ledger

    @lite.app.get("/busy", dependencies=[Depends(priced("$0.01"))])
    async def busy() -> int:
        lite.runs.append("/busy")
        ledger._most_waiting = 0  # as many wait as may
        return len(lite.runs)

    payment = lite.payment("/busy")
    first, ledger._most_waiting = lite.get("/busy", payment), 10
    again = lite.get("/busy", payment)
    assert [(each.status_code, each.json()) for each in (first, again)] == [(200, 1)] * 2


@pytest.mark.parametrize("later", ["$0.01", "$0.03"])
def test_an_answer_costs_what_it_did_whatever_the_price_is_by_now(office: Office, later: str) -> None:
    asked = ["$0.02"]

    def price() -> str:
        return asked[0]

    @office.app.get("/moves", dependencies=[Depends(priced(price))])
    async def moves() -> int:
        office.runs.append("/moves")
        return len(office.runs)

    payment, office.stub.lose_settle_answer = office.payment("/moves"), True
    assert said(office.get("/moves", payment)) == (503, "settlement_unknown")
    asked[0] = later
    found, again = office.get("/moves", payment), office.get("/moves", payment)
    assert [(each.status_code, each.json()) for each in (found, again)] == [(200, 1)] * 2
    assert (len(office.stub.transfers), office.earned()) == (1, 20_000)


def test_a_request_that_has_lost_its_claim_keeps_no_answer(office: Office) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    @office.app.get("/slow/{name}", dependencies=[Depends(priced("$0.01"))])
    def slow(name: str) -> str:
        if name == "late":
            waiting.set()
            assert go_on.wait(20)
        return name

    payment = office.payment("/slow/late")
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(office.get, "/slow/late", payment)
        assert waiting.wait(20)
        ages = text("UPDATE tollbooth_payment SET updated_at = '2020-01-01 00:00:00.000000'")
        run(office.tollbooth.ledger.execute(lambda connection: connection.execute(ages)))
        assert office.client.portal is not None
        office.client.portal.call(office.tollbooth.recover)
        assert office.get("/slow/soon", payment).json() == "soon"
        go_on.set()
        assert said(late.result()) == (503, "settlement_unknown")
    assert said(office.get("/slow/late", payment)) == TAKEN
    assert office.get("/slow/soon", payment).json() == "soon"
    assert (len(office.stub.transfers), office.earned()) == (1, 10_000)


def copied(payment: dict[str, str], name: str) -> dict[str, str]:
    """What anybody can make of what the chain shows of a payment."""
    document = decode(payment["PAYMENT-SIGNATURE"])
    document["payload"]["signature"] = "0x" + "00" * 65
    document["extensions"][EXTENSION]["info"]["id"] = name
    return {"PAYMENT-SIGNATURE": encode(document)}


def test_who_copies_a_payment_off_the_chain_writes_nothing_and_counts_for_nobody(lite: Office) -> None:
    @lite.app.get("/limited", dependencies=[Depends(priced("$0.01", rate_limit="2/minute"))])
    async def limited() -> str:
        return "served"

    payment = lite.payment("/limited")
    assert lite.get("/limited", payment).status_code == 200
    for number in range(5):
        assert said(lite.get("/limited", copied(payment, f"{OTHER}_{number}"))) == ALREADY
    assert len(lite.answers()) == 1
    assert lite.get("/limited", lite.payment("/limited", OTHER)).status_code == 200
    assert said(lite.get("/limited", lite.payment("/limited"))) == (429, "rate_limited")


def test_a_copy_gets_no_claim_when_the_settlement_that_it_waited_for_fails(
    lite: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment, known = lite.payment(), Settler.known
    lite.stub.settle_answer = 500, {}
    assert said(lite.get("/after", payment)) == (503, "settlement_unknown")
    lite.stub.verify_answer = 200, {"isValid": False, "invalidReason": "invalid_signature"}

    async def known_until_now(settler: Settler, spend_key: str) -> Known | None:
        found = await known(settler, spend_key)
        fails = text("UPDATE tollbooth_payment SET state = 'failed'")
        await lite.tollbooth.ledger.execute(lambda connection: connection.execute(fails))
        return found

    monkeypatch.setattr(Settler, "known", known_until_now)
    assert said(lite.get("/after", copied(payment, NAME))) == (402, "payment_invalid")
    assert lite.runs == ["/after"]


def test_what_surrounds_the_application_surrounds_what_is_given_again(lite: Office) -> None:
    below = FastAPI()
    below.add_middleware(CORSMiddleware, allow_origins=["https://a.example"], expose_headers=["X-Below"])
    left: list[str] = []

    async def with_exit() -> AsyncIterator[None]:
        try:
            yield
        finally:
            left.append("left")

    @below.exception_handler(Exception)
    async def whatever(*_: object) -> Response:
        return Response("failed", 500)

    @below.get("/x", dependencies=[Depends(with_exit), Depends(priced("$0.01"))])
    async def x() -> str:
        lite.runs.append("/below/x")
        return "below"

    lite.app.mount("/below", below)
    payment = lite.payment("/below/x") | {"origin": "https://a.example"}
    first, again = lite.get("/below/x", payment), lite.get("/below/x", payment)
    assert (first.status_code, again.status_code, again.json()) == (200, 200, "below")
    assert again.headers["access-control-expose-headers"] == "X-Below"
    assert (lite.runs, left) == (["/below/x"], ["left"] * 3)


def test_a_body_belongs_to_the_request(lite: Office) -> None:
    payment = lite.payment(method="POST", body={"q": 1})
    first = lite.client.post("/after", json={"q": 1}, headers=payment)
    again = lite.client.post("/after", json={"q": 1}, headers=payment)
    assert (first.status_code, again.content) == (201, first.content)
    for request in (
        {"json": {"q": 2}},
        {"content": b'{"q":1}', "headers": {"content-type": "text/plain"}},
        {"json": {"q": 1}, "params": {"a": "1"}},
    ):
        headers = payment | request.pop("headers", {})  # type: ignore[operator]
        assert said(lite.client.post("/after", **request, headers=headers)) == TAKEN
    assert said(lite.client.post("/other", json={"q": 1}, headers=payment)) == TAKEN
    assert said(lite.client.get("/after", headers=payment)) == TAKEN
    assert (len(lite.runs), lite.earned()) == (1, 10_000)


def test_a_long_path_belongs_to_the_request(lite: Office) -> None:
    @lite.app.get("/long/{name}", dependencies=[Depends(priced("$0.01"))])
    async def long(name: str) -> str:
        return name

    path = "/long/" + "x" * 600
    payment = lite.payment(f"{path}1")
    assert lite.get(f"{path}1", payment).json().endswith("1")
    assert said(lite.get(f"{path}2", payment)) == TAKEN


def test_a_form_that_a_dependency_has_read_off_the_wire_is_not_compared(lite: Office) -> None:
    async def eats(request: Request) -> None:
        async for _ in request.stream():
            pass

    @lite.app.post("/eaten", dependencies=[Depends(eats), Depends(priced("$0.01"))])
    async def eaten() -> str:
        return "eaten"

    payment = lite.payment("/eaten", method="POST")
    assert lite.client.post("/eaten", data={"a": "1"}, headers=payment).status_code == 200
    assert said(lite.client.post("/eaten", data={"a": "1"}, headers=payment)) == ALREADY


@pytest.mark.parametrize(("sent", "status"), [(2, 201), (1_000, 413)])
def test_a_body_without_a_length_is_read_within_bounds(lite: Office, sent: int, status: int) -> None:
    payment = lite.payment(method="POST")["PAYMENT-SIGNATURE"].encode()
    chunks, answer = iter(range(sent, -1, -1)), list[dict[str, Any]]()
    headers = [(b"host", b"testserver"), (b"payment-signature", payment)]
    scope: dict[str, Any] = {"type": "http", "http_version": "2", "method": "POST", "scheme": "http", "state": {}}
    scope |= {"path": "/after", "raw_path": b"/after", "query_string": b"", "root_path": "", "headers": headers}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": next(chunks) > 0}

    async def send(message: Any) -> None:
        answer.append(message)

    assert lite.client.portal is not None
    lite.client.portal.call(lite.app, scope | {"server": ("testserver", 80), "client": ("127.0.0.1", 1)}, receive, send)
    assert (answer[0]["status"], len(lite.runs)) == (status, int(status == 201))
    assert sent - next(chunks, 0) <= 20


def test_a_form_belongs_to_the_request(lite: Office) -> None:
    def send(name: str, content: bytes, payment: dict[str, str] | None = None) -> Any:
        # The boundary is part of the content type, and so of what makes two requests the same.
        files = {"file": ("a.txt", content)}
        kind = {"content-type": "multipart/form-data; boundary=b"}
        return lite.client.post("/form", data={"name": name}, files=files, headers=kind | (payment or {}))

    required = decode(send("x", b"y").headers["payment-required"])
    signed = sign(required["accepts"][0])
    signed["extensions"] = {EXTENSION: {"info": {"required": False, "id": NAME}}}
    payment = {"PAYMENT-SIGNATURE": encode(signed)}
    first, again = send("x", b"y", payment), send("x", b"y", payment)
    assert (first.json(), again.content) == ("x y 1", first.content)
    assert said(send("x", b"z", payment)) == TAKEN
    assert said(send("w", b"y", payment)) == TAKEN
    assert lite.runs == ["x"]


def test_a_request_too_large_to_be_compared_is_served_and_not_kept(lite: Office) -> None:
    payment = lite.payment(method="POST")
    large = b" " * 1_048_577
    assert lite.client.post("/after", content=large, headers=payment).status_code == 201
    assert said(lite.client.post("/after", content=large, headers=payment)) == ALREADY
    assert lite.answers() == []


@pytest.mark.parametrize("path", ["/stream", "/large"])
def test_what_streams_or_is_too_large_is_not_kept(lite: Office, path: str) -> None:
    payment = lite.payment(path)
    assert lite.get(path, payment).status_code == 200
    assert said(lite.get(path, payment)) == ALREADY
    assert (lite.runs, lite.answers()) == ([path], [None])


def test_a_metered_answer_comes_again_with_the_credit_that_it_left(lite: Office) -> None:
    payment = lite.payment("/metered")
    first, again = lite.get("/metered", payment), lite.get("/metered", payment)
    assert (first.json(), again.json(), lite.runs) == ("measured", "measured", ["/metered"])
    spend = {"Authorization": again.headers["x-credit-authorization"]}
    assert lite.client.get("/after", headers=spend).headers["x-credit-balance"] == "$0.02"
    assert (len(lite.stub.transfers), lite.earned()) == (1, 30_000)


def test_it_is_kept_for_its_time_and_no_longer(office: Office) -> None:
    payment = office.payment()
    assert office.get("/after", payment).status_code == 201
    assert run(prune(office.tollbooth.ledger)) == 0
    office.age()
    assert said(office.get("/after", payment)) == ALREADY
    office.age()
    office.client.portal.call(office.tollbooth.recover)  # type: ignore[union-attr]
    assert office.answers() == []
    assert said(office.get("/after", payment)) == ALREADY
    assert (len(office.runs), office.earned()) == (1, 10_000)


def test_nothing_is_kept_of_requests_without_an_identifier(lite: Office) -> None:
    payment = lite.payment(name=None)
    assert lite.get("/after", payment).status_code == 201
    assert said(lite.get("/after", payment)) == ALREADY
    assert lite.answers() == []


# ── not the same ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_identifier_is_no_bearer_token(office: Office) -> None:
    payment = office.payment()
    assert office.get("/after", payment).status_code == 201
    assert said(office.get("/after", office.payment())) == TAKEN
    # The same authorization under another signature, as who reads the chain could send it.
    document = decode(payment["PAYMENT-SIGNATURE"])
    document["payload"]["signature"] = "0x" + "33" * 65
    assert said(office.get("/after", {"PAYMENT-SIGNATURE": encode(document)})) == ALREADY
    unsigned = office.payment()
    office.stub.verify_answer = 200, {"isValid": False, "invalidReason": "invalid_signature"}
    assert said(office.get("/after", unsigned)) == (402, "payment_invalid")
    assert (len(office.runs), office.stub.count("/settle"), office.earned()) == (1, 1, 10_000)


def test_another_payer_may_have_the_same_identifier(lite: Office) -> None:
    other = {"from": "0x" + "cd" * 20}
    assert lite.get("/after", lite.payment()).json() == {"run": 1}
    assert lite.get("/after", lite.payment(**other)).json() == {"run": 2}


def test_one_payment_under_two_identifiers_is_spent_once(lite: Office) -> None:
    payment = lite.payment()
    assert lite.get("/after", payment).status_code == 201
    document = decode(payment["PAYMENT-SIGNATURE"])
    document["extensions"][EXTENSION]["info"]["id"] = OTHER
    assert said(lite.get("/after", {"PAYMENT-SIGNATURE": encode(document)})) == ALREADY
    assert len(lite.runs) == 1


@pytest.mark.parametrize("name", ["short", "not a name of this form", "x" * 129])
def test_an_identifier_of_another_form_is_refused_before_anybody_is_asked(lite: Office, name: str) -> None:
    assert said(lite.get("/after", lite.payment(name=name))) == (400, "malformed_identifier")
    assert (lite.runs, lite.stub.calls) == ([], [])


def test_the_owner_may_require_one_or_take_none(stub: StubFacilitator, tmp_path: Path, serve: Serve) -> None:
    strict = Office(stub, f"sqlite:///{tmp_path}/a.db", serve, identifiers="required")
    offer = strict.client.get("/after")
    required = decode(offer.headers["payment-required"])
    assert required["extensions"][EXTENSION]["info"] == {"required": True}
    assert said(strict.get("/after", strict.payment(name=None))) == (400, "identifier_required")
    v1 = {"X-PAYMENT": encode(sign_v1(offer.json()["accepts"][0]))}
    assert said(strict.get("/after", v1)) == (400, "identifier_required")
    assert (strict.runs, stub.calls) == ([], [])
    assert strict.get("/after", strict.payment()).status_code == 201
    none = Office(stub, f"sqlite:///{tmp_path}/b.db", serve, identifiers="off")
    document = decode(none.client.get("/after").headers["payment-required"])
    assert EXTENSION not in document.get("extensions", {})
    signed = sign(document["accepts"][0]) | {"extensions": {EXTENSION: {"info": {"id": NAME}}}}
    payment = {"PAYMENT-SIGNATURE": encode(signed)}
    assert none.get("/after", payment).status_code == 201
    assert said(none.get("/after", payment)) == ALREADY
    assert none.answers() == []


# ── what fails ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/after", "/before"])
def test_a_request_that_failed_was_not_answered(office: Office, path: str) -> None:
    payment = office.payment(path)
    office.fails = True
    assert office.get(path, payment).status_code == 500
    assert office.answers() == [None]
    office.fails = False
    # It may be mended, too: nothing was delivered for it.
    assert office.client.get(f"{path}?mended=1", headers=payment).json() == {"run": 2}
    assert office.client.get(f"{path}?mended=1", headers=payment).json() == {"run": 2}
    assert (len(office.stub.transfers), office.earned()) == (1, 10_000)


def test_an_identifier_whose_payment_was_not_made_is_free_again(office: Office) -> None:
    office.fails = True
    assert office.get("/after", office.payment()).status_code == 500
    office.fails = False
    payment = office.payment()
    assert office.get("/after", payment).json() == {"run": 2}
    assert office.get("/after", payment).json() == {"run": 2}
    assert (len(office.stub.transfers), office.earned()) == (1, 10_000)


def test_an_answer_whose_settlement_failed_is_not_given(office: Office) -> None:
    payment = office.payment()
    office.stub.settle_answer = 200, {"success": False, "errorReason": "insufficient_funds", "transaction": ""}
    for run_ in (1, 2):
        assert said(office.get("/after", payment)) == (402, "settlement_failed")
        assert len(office.runs) == run_
    office.stub.settle_answer = None
    assert office.get("/after", payment).json() == {"run": 3}
    assert office.get("/after", payment).json() == {"run": 3}
    assert (len(office.stub.transfers), office.earned()) == (1, 10_000)


def test_an_answer_whose_settlement_was_lost_is_given_when_its_money_is_found(office: Office) -> None:
    payment = office.payment()
    office.stub.lose_settle_answer = True
    assert said(office.get("/after", payment)) == (503, "settlement_unknown")
    assert office.earned() == 0
    found = office.get("/after", payment)
    assert (found.status_code, found.json(), found.headers["idempotent-replayed"]) == (201, {"run": 1}, "true")
    assert decode(found.headers["payment-response"])["transaction"] == f"0x{1:064x}"
    assert (office.runs, len(office.stub.transfers), office.earned()) == (["/after"], 1, 10_000)
    assert office.get("/after", payment).json() == {"run": 1}
    assert office.earned() == 10_000


def test_a_process_that_dies_in_its_settlement_has_kept_the_answer(stub: StubFacilitator, tmp_path: Path) -> None:
    settings = {
        "TOLLBOOTH_DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db",
        "TOLLBOOTH_LIGHTNING__BACKEND": "none",
        "TOLLBOOTH_BTC_USD": "100000",
        "TOLLBOOTH_PUBLIC_URL": "https://api.example.com",
        "TOLLBOOTH_X402__PAY_TO": PAY_TO,
        "TOLLBOOTH_X402__NETWORKS": '["base-sepolia"]',
        "TOLLBOOTH_X402__FACILITATOR_URL": stub.url,
        "TOLLBOOTH_X402__RPC_URL": f"{stub.url}/rpc",
    }
    settle, processes = stub._settle, [start(settings)]

    def settle_and_kill(body: Any) -> Any:
        settle(body)
        processes[0][0].kill()

    stub._settle = settle_and_kill  # type: ignore[method-assign]
    try:
        url = f"{processes[0][1]}/weather"
        required = decode(httpx.get(url).headers["payment-required"])
        signed = sign(required["accepts"][0]) | {"extensions": {EXTENSION: {"info": {"id": NAME}}}}
        payment = {"PAYMENT-SIGNATURE": encode(signed)}
        with pytest.raises(httpx.TransportError):
            httpx.get(url, headers=payment, timeout=30)
        assert len(stub.transfers) == 1
        processes.append(start(settings))
        with sqlite3.connect(tmp_path / "ledger.db") as connection:
            assert connection.execute("SELECT state FROM tollbooth_payment").fetchall() == [("settling",)]
            connection.execute("UPDATE tollbooth_payment SET updated_at = '2020-01-01 00:00:00.000000'")
        base = processes[1][1]
        for _ in range(2):
            found = httpx.get(f"{base}/weather", headers=payment, timeout=30)
            assert (found.status_code, found.json()) == (200, {"forecast": "sunny"}), found.text
        assert httpx.get(f"{base}/runs").json() == {}
        assert len(stub.transfers) == 1
        assert stub.count("/settle") <= 2  # one, where the new process has found it on the chain before it was asked
    finally:
        for process, _ in processes:
            process.kill()
            process.wait(20)


def start(settings: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """A server of its own process, and its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.peers.app:app", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings)
    wait_for(f"http://127.0.0.1:{port}")
    return process, f"http://127.0.0.1:{port}"


def test_a_claim_that_cannot_be_looked_after_is_let_go(lite: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    payment, has = lite.payment(), answers.has

    def fails(*_: object, **__: object) -> bool:
        raise OSError("the disk is gone")

    monkeypatch.setattr(answers, "has", fails)
    assert said(lite.get("/after", payment)) == (503, "ledger_unavailable")
    monkeypatch.setattr(answers, "has", has)
    deadline = time.monotonic() + 10
    while lite.get("/after", payment).status_code != 201 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (lite.runs, lite.earned()) == (["/after"], 10_000)


def test_a_database_that_cannot_keep_the_answer_withholds_it(lite: Office) -> None:
    payment = lite.payment()
    breaks = text("CREATE TRIGGER broken BEFORE UPDATE ON tollbooth_answer BEGIN SELECT RAISE(ABORT, 'full'); END")
    run(lite.tollbooth.ledger.execute(lambda connection: connection.execute(breaks)))
    assert lite.get("/after", payment).status_code == 503
    assert lite.stub.count("/settle") == 0


def test_nothing_readable_is_kept(lite: Office) -> None:
    assert lite.get("/after", lite.payment()).status_code == 201
    [sealed] = lite.answers()
    assert sealed is not None
    assert b"run" not in sealed
    query = text("SELECT * FROM tollbooth_answer")
    row = run(lite.tollbooth.ledger.read(lambda connection: tuple(connection.execute(query).one())))
    assert NAME not in str(row)
