import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection

from fastapi_tollbooth import ConfigurationError, Money, Reject, ResponseHead, Toll, Waive, priced
from fastapi_tollbooth.errors import Forbidden
from fastapi_tollbooth.testing import FakeTollbooth, PayingClient
from fastapi_tollbooth.toll import Quote


class Shop:
    """One priced route for a GET and one for an upload, and how often each ran."""

    def __init__(self, **price: Any) -> None:
        self.runs: list[str] = []
        self.tollbooth = FakeTollbooth()
        self.app = FastAPI()
        self.tollbooth.install(self.app)
        gate = priced("$0.05", **price)

        @self.app.get("/x", dependencies=[Depends(gate)])
        async def x() -> str:
            self.runs.append("x")
            return "ok"

        @self.app.post("/upload", dependencies=[Depends(gate)])
        async def upload(body: dict[str, Any]) -> str:
            self.runs.append("upload")
            return "ok"

        @self.app.get("/crash", dependencies=[Depends(gate)])
        async def crash() -> str:
            raise RuntimeError("crashed")

        @self.app.get("/unpriced")
        async def unpriced() -> str:
            return "ok"

    def client(self) -> PayingClient:
        return PayingClient(self.app, self.tollbooth, raise_server_exceptions=False)


# ── on_request ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_request_may_be_refused_with_a_status(asynchronous: bool) -> None:
    shop, asked = Shop(), list[str]()

    def block(connection: HTTPConnection) -> Reject | None:
        asked.append(connection.url.path)
        return Reject(451, "Not in your country.", "blocked") if "x-blocked" in connection.headers else None

    async def block_later(connection: HTTPConnection) -> Reject | None:
        await asyncio.sleep(0)
        return block(connection)

    shop.tollbooth.on_request(block_later if asynchronous else block)
    with shop.client() as client:
        refused = client.get("/x", headers={"X-Blocked": "1"})
        assert (refused.status_code, refused.json()["reason"]) == (451, "blocked")
        assert refused.json()["detail"] == "Not in your country."
        assert "www-authenticate" not in refused.headers
        # Before a byte of the upload is read: broken JSON would be a 422.
        json = {"Content-Type": "application/json", "X-Blocked": "1"}
        assert client.post("/upload", content="{broken", headers=json).status_code == 451
        assert client.get("/unpriced", headers={"X-Blocked": "1"}).status_code == 200
        assert client.get("/x").status_code == 200
    assert shop.runs == ["x"]
    assert asked == ["/x", "/upload", "/x", "/x"]


@pytest.mark.parametrize("answer", [False, True, 403, "no", Money.parse("$1"), Waive(), object()])
def test_an_answer_that_means_nothing_refuses(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    shop.tollbooth.on_request(lambda connection: answer)
    with shop.client() as client:
        refused = client.get("/x")
    assert (refused.status_code, refused.json()["reason"]) == (500, "hook_failed")
    assert "on_request" in caplog.text
    assert shop.runs == []


@pytest.mark.parametrize("raised", [RuntimeError("secret"), KeyError("secret"), TimeoutError()])
@pytest.mark.parametrize("name", ["on_request", "on_price_resolved", "on_response"])
def test_a_hook_that_fails_never_charges_and_never_serves(
    name: str, raised: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()

    def fail(*_: Any) -> None:
        raise raised

    getattr(shop.tollbooth, name)(fail)
    with shop.client() as client:
        refused = client.get("/x")
        shop.tollbooth.assert_not_charged()
    assert (refused.status_code, refused.json()["reason"]) == (500, "hook_failed")
    assert "secret" not in refused.text
    assert name in caplog.text
    assert shop.runs == (["x"] if name == "on_response" else [])


def test_a_hook_may_raise_an_answer_of_its_own() -> None:
    shop = Shop()

    def refuse(connection: HTTPConnection) -> Reject | None:
        if "x-teapot" in connection.headers:
            raise HTTPException(418, "I am a teapot")
        raise Forbidden("banned", "You are banned.")

    shop.tollbooth.on_request(refuse)
    with shop.client() as client:
        assert client.get("/x", headers={"X-Teapot": "1"}).json() == {"detail": "I am a teapot"}
        assert client.get("/x").json()["reason"] == "banned"
    assert shop.runs == []


@pytest.mark.parametrize("status", [200, 302, 399, 402, 600, 0])
def test_a_rejection_is_a_refusal(status: int) -> None:
    with pytest.raises(ConfigurationError, match=str(status)):
        Reject(status)


# ── on_price_resolved ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_price_may_be_changed_capped_or_refused() -> None:
    shop = Shop()

    def friends(connection: HTTPConnection, quote: Quote) -> Money | str | Reject | None:
        assert quote.price == Money.parse("$0.05")
        match connection.headers.get("x-who"):
            case "friend":
                return "$0.01"
            case "boss":
                return Money.parse("$0")
            case "foe":
                return Reject(403)
        return None

    shop.tollbooth.on_price_resolved(friends)

    @shop.tollbooth.on_price_resolved
    async def cap(connection: HTTPConnection, quote: Quote) -> Money | None:
        return Money.parse("$0.02") if Money.parse("$0.02") < quote.price else None

    with shop.client() as client:
        asked = [TestClient(shop.app).get("/x", headers={"X-Who": who}).json() for who in ("friend", "anybody")]
        assert [(body["price"], body["priceRule"]) for body in asked] == [
            ("$0.01", "on_price_resolved"),
            ("$0.02", "on_price_resolved"),
        ]
        statuses = [
            client.get("/x", headers={"X-Who": who}).status_code for who in ("friend", "anybody", "boss", "foe")
        ]
        assert statuses == [200, 200, 200, 403]
        shop.tollbooth.assert_charged("$0.01", "$0.02")
    assert shop.runs == ["x"] * 3


def test_what_was_paid_for_one_price_does_not_buy_another() -> None:
    shop = Shop()
    shop.tollbooth.on_price_resolved(lambda connection, quote: connection.headers["x-price"])
    with TestClient(shop.app) as client:
        payment = client.get("/x", headers={"X-Price": "$0.01"}).json()["fakePayment"]
        shop.tollbooth.rail.pay(payment)
        dear = client.get("/x", headers={"X-Price": "$1", "X-Fake-Payment": payment})
        assert (dear.status_code, dear.json()["reason"]) == (402, "wrong_resource")
        assert client.get("/x", headers={"X-Price": "$0.01", "X-Fake-Payment": payment}).status_code == 200


@pytest.mark.parametrize("answer", ["free", "$-1", 0, 0.01, False, "$2", Money.parse("1 sat")])
def test_a_price_that_is_none_or_above_the_most_refuses(answer: Any) -> None:
    shop = Shop(max_price="$1")
    shop.tollbooth.on_price_resolved(lambda connection, quote: answer)
    with shop.client() as client:
        refused = client.get("/x")
    assert (refused.status_code, refused.json()["reason"]) == (500, "hook_failed")
    assert shop.runs == []


# ── on_response ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_response_may_be_served_and_not_charged() -> None:
    shop, seen = Shop(), list[tuple[str, int, str]]()

    @shop.tollbooth.on_response
    def stale(toll: Toll, response: ResponseHead) -> Waive | None:
        seen.append((str(toll.price), response.status, response.headers["content-type"]))
        return Waive("stale") if len(seen) == 1 else None

    with shop.client() as client:
        first = client.get("/x")
        shop.tollbooth.assert_not_charged()
        second = client.get("/x")
        shop.tollbooth.assert_charged("$0.05")
        assert client.get("/crash").status_code == 500
    assert (first.status_code, second.status_code) == (200, 200)
    assert "x-fake-receipt" not in first.headers
    assert "x-fake-receipt" in second.headers
    assert seen == [("$0.05", 200, "application/json")] * 2


@pytest.mark.parametrize("answer", [False, True, Reject(), "no"])
def test_a_verdict_that_means_nothing_withholds_the_response(answer: Any) -> None:
    shop = Shop()
    shop.tollbooth.on_response(lambda toll, response: answer)
    with shop.client() as client:
        refused = client.get("/x")
        shop.tollbooth.assert_not_charged()
    assert (refused.status_code, refused.json()["reason"]) == (500, "hook_failed")
    assert refused.headers["content-type"] == "application/problem+json"


# ── on_settled ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("asynchronous", [False, True])
def test_settled_tolls_are_told_and_no_response_waits(asynchronous: bool) -> None:
    shop, told, go = Shop(), list[tuple[str, str]](), threading.Event()

    def record(toll: Toll) -> None:
        go.wait(5)
        told.append((str(toll.amount), toll.state))

    async def record_later(toll: Toll) -> None:
        while not go.is_set():
            await asyncio.sleep(0.01)
        record(toll)

    shop.tollbooth.on_settled(record_later if asynchronous else record)
    with shop.client() as client:
        started = time.monotonic()
        assert client.get("/x").status_code == 200
        assert client.get("/crash").status_code == 500
        assert time.monotonic() - started < 2
        assert told == []
        go.set()
    assert told == [("$0.05", "captured")]


def test_a_listener_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()

    def fail(*_: Any) -> None:
        raise RuntimeError("deaf")

    shop.tollbooth.on_settled(fail)
    shop.tollbooth.on_error(fail)
    with shop.client() as client, caplog.at_level(logging.ERROR):
        assert client.get("/x").status_code == 200
        assert client.get("/crash").status_code == 500
        shop.tollbooth.assert_charged("$0.05")
    assert "an on_settled hook failed" in caplog.text
    assert "an on_error hook failed" in caplog.text


# ── on_error ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_errors_are_told_with_their_cause() -> None:
    shop, told = Shop(), list[tuple[str, str | None, str | None]]()

    @shop.tollbooth.on_error
    async def report(error: Exception, toll: Toll | None) -> None:
        cause = type(error.__cause__).__name__ if error.__cause__ else None
        told.append((getattr(error, "reason", type(error).__name__), cause, toll.route if toll else None))

    with shop.client() as client:
        assert client.get("/crash").status_code == 500
        with shop.tollbooth.settlement_fails():
            assert client.get("/x").status_code == 402
        with shop.tollbooth.node_is_silent():
            assert client.get("/x", headers={"X-Fake-Payment": "1"}).status_code == 503
        shop.tollbooth.on_request(lambda connection: 1 / 0)  # type: ignore[type-var]
        assert client.get("/x").status_code == 500
    assert sorted(told) == [
        ("RuntimeError", None, "/crash"),
        ("hook_failed", "ZeroDivisionError", None),
        ("settlement_failed", "CredentialRefused", "/x"),
        ("settlement_unconfirmed", None, None),
    ]


def test_hooks_cost_nothing_where_there_are_none() -> None:
    tollbooth = FakeTollbooth()
    assert not tollbooth.looks_at_responses
    registered: list[Callable[..., Any]] = [tollbooth.on_request(print), tollbooth.on_settled(print)]
    assert registered == [print, print]
