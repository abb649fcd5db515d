"""Metered routes over real HTTP semantics: what is held, what is used, and what a broken response costs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from fastapi_tollbooth import Asset, Money, Toll, Waive, priced
from fastapi_tollbooth.errors import TollClosed, TollExceeded
from fastapi_tollbooth.ledger.audit import verify
from fastapi_tollbooth.testing import PAYMENT_HEADER, FakeTollbooth, PayingClient, run
from tests.attacks.counters import counter_of
from tests.test_settlement import scope

Metered = Annotated[Toll, Depends(priced("$0.50", metered=True))]
Priced = Annotated[Toll, Depends(priced("$0.10"))]


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    FakeTollbooth().install(app)

    @app.get("/plain")
    async def plain(toll: Metered, uses: int = 2) -> str:
        for _ in range(uses):
            toll.use("$0.0123")
        return "done"

    @app.get("/sync")
    def sync(toll: Metered) -> str:
        toll.use("$0.02")
        return "done"

    @app.get("/stream")
    async def stream(toll: Metered, tokens: int = 3, fail_at: int = -1) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            for number in range(tokens):
                if number == fail_at:
                    raise RuntimeError("the upstream hung up")
                toll.use("$0.01")
                yield f"{number} "

        return StreamingResponse(chunks())

    @app.get("/fails")
    async def fails(toll: Metered) -> str:
        toll.use("$0.40")
        raise RuntimeError("nothing to show for it")

    @app.get("/refund")
    async def refund(toll: Priced) -> str:
        toll.refund()
        return "sorry"

    @app.get("/less")
    async def less(toll: Priced, amount: str = "$0.03") -> str:
        toll.charge_instead(amount)
        return "less"

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, toll: Metered) -> None:
        await websocket.accept()
        for _ in range(3):
            toll.use("$0.05")
            await websocket.send_text("word")
        await websocket.close()

    return app


@pytest.fixture
def tollbooth(app: FastAPI) -> FakeTollbooth:
    engine: FakeTollbooth = app.state.tollbooth
    return engine


@pytest.fixture
def client(app: FastAPI, tollbooth: FakeTollbooth) -> Any:
    with PayingClient(app, tollbooth, raise_server_exceptions=False) as paying:
        yield paying


@pytest.mark.parametrize(
    ("path", "charged"),
    [
        ("/plain", "$0.0246"),
        ("/plain?uses=0", "$0"),
        ("/sync", "$0.02"),
        ("/stream", "$0.03"),
        ("/stream?tokens=0", "$0"),
        ("/refund", "$0"),
        ("/less", "$0.03"),
    ],
)
def test_what_is_used_is_charged(client: PayingClient, tollbooth: FakeTollbooth, path: str, charged: str) -> None:
    assert client.get(path).status_code == 200
    tollbooth.assert_charged(charged)


def test_the_402_and_the_documentation_say_that_the_price_is_the_most(app: FastAPI) -> None:
    client = TestClient(app)
    assert client.get("/plain").json()["price"] == "$0.50"
    operation = client.get("/openapi.json").json()["paths"]["/plain"]["get"]
    assert "up to $0.50" in operation["description"]


def test_a_handler_that_fails_before_its_response_costs_nothing(client: PayingClient, tollbooth: FakeTollbooth) -> None:
    assert client.get("/fails").status_code == 500
    tollbooth.assert_not_charged()


def test_a_stream_that_breaks_costs_what_was_used(client: PayingClient, tollbooth: FakeTollbooth) -> None:
    client.get("/stream?tokens=9&fail_at=4")
    tollbooth.assert_charged("$0.04")


def test_more_than_is_held_is_refused_and_what_was_used_counts(
    app: FastAPI, client: PayingClient, tollbooth: FakeTollbooth
) -> None:
    client.get("/stream?tokens=60")
    tollbooth.assert_charged("$0.50")
    with pytest.raises(TollExceeded), PayingClient(app, tollbooth) as raising:
        raising.get("/stream?tokens=60")


@pytest.mark.anyio
async def test_a_client_that_leaves_pays_for_what_was_used(app: FastAPI, tollbooth: FakeTollbooth) -> None:
    started = asyncio.Event()

    @app.get("/slow")
    async def slow(toll: Metered) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            toll.use("$0.07")
            yield "first"
            await asyncio.sleep(60)
            toll.use("$0.40")
            yield "never"

        return StreamingResponse(chunks())

    payment = TestClient(app).get("/slow").json()["fakePayment"]
    tollbooth.rail.pay(payment)

    async def receive() -> dict[str, Any]:
        await started.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            started.set()

    async with asyncio.timeout(10):
        await app(scope("/slow", headers={PAYMENT_HEADER: payment}), receive, send)
    tollbooth.assert_charged("$0.07")


def test_a_websocket_costs_what_was_used_while_it_was_open(app: FastAPI, tollbooth: FakeTollbooth) -> None:
    client = TestClient(app)
    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/ws"):
        raise AssertionError("an unpaid websocket was opened")
    payment = denied.value.json()["fakePayment"]
    tollbooth.rail.pay(payment)
    with client.websocket_connect("/ws", headers={PAYMENT_HEADER: payment}) as socket:
        assert [socket.receive_text() for _ in range(3)] == ["word"] * 3
    tollbooth.assert_charged("$0.15")


def test_a_hold_that_fails_withholds_the_response(client: PayingClient, tollbooth: FakeTollbooth) -> None:
    with tollbooth.settlement_fails():
        assert client.get("/stream").status_code == 402
    tollbooth.assert_not_charged()


def test_nothing_is_decided_about_a_toll_that_is_captured(app: FastAPI, tollbooth: FakeTollbooth) -> None:
    refused: list[TollClosed] = []

    @app.get("/late")
    async def late(toll: Priced) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            try:
                toll.refund()
            except TollClosed as error:
                refused.append(error)
            yield "late"

        return StreamingResponse(chunks())

    with PayingClient(app, tollbooth) as client:
        assert client.get("/late").text == "late"
    assert "reconcile" in str(refused[0])
    tollbooth.assert_charged("$0.10")


def test_more_than_the_price_is_never_charged_instead(client: PayingClient, tollbooth: FakeTollbooth) -> None:
    assert client.get("/less?amount=$0.11").status_code == 500
    assert client.get("/less?amount=5 sat").status_code == 500
    tollbooth.assert_not_charged()


def test_a_stream_that_is_given_away_is_served_to_its_end(client: PayingClient, tollbooth: FakeTollbooth) -> None:
    tollbooth.on_response(lambda toll, head: Waive())
    assert client.get("/stream").text == "0 1 2 "
    tollbooth.assert_not_charged()


def test_an_error_that_streams_is_told_to_its_end(app: FastAPI, client: PayingClient, tollbooth: FakeTollbooth) -> None:
    @app.get("/broken")
    async def broken(toll: Metered) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            toll.use("$0.01")
            yield "the upstream says no"

        return StreamingResponse(chunks(), status_code=502)

    assert client.get("/broken").text == "the upstream says no"
    tollbooth.assert_not_charged()


def test_a_websocket_that_was_accepted_before_it_was_priced_costs_what_was_used(
    app: FastAPI, tollbooth: FakeTollbooth
) -> None:
    async def accept(websocket: WebSocket) -> None:
        await websocket.accept()

    @app.websocket("/early", dependencies=[Depends(accept)])
    async def early(websocket: WebSocket, toll: Metered) -> None:
        for _ in range(3):
            toll.use("$0.05")
            await websocket.send_text("word")
        await websocket.close()

    client = TestClient(app)
    with client.websocket_connect("/early") as unpaid, pytest.raises(WebSocketDisconnect):
        unpaid.receive_text()
    payment = next(reversed(tollbooth.rail._payments))
    tollbooth.rail.pay(payment)
    with client.websocket_connect("/early", headers={PAYMENT_HEADER: payment}) as socket:
        assert [socket.receive_text() for _ in range(3)] == ["word"] * 3
    tollbooth.assert_charged("$0.15")


@pytest.mark.parametrize("rail", ["l402", "x402"])
def test_a_response_that_never_ends_is_charged_before_its_money_is_given_back(rail: str, tmp_path: Path) -> None:
    with counter_of(rail, tmp_path) as counter:
        tollbooth = counter.tollbooth
        tollbooth.toll_deadline = tollbooth.settings.toll_deadline = 0.5

        @counter.app.get("/endless")
        async def endless(toll: Metered) -> StreamingResponse:
            async def chunks() -> AsyncIterator[str]:
                with contextlib.suppress(TollClosed):
                    while True:
                        toll.use("$0.02")
                        yield "word "
                        await asyncio.sleep(0.05)

            return StreamingResponse(chunks())

        payment = counter.buy("/endless")
        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(counter.get, "/endless", payment)
            while not first.done():
                counter.client.portal.call(tollbooth.recover)  # type: ignore[union-attr]
                assert counter.get("/endless", payment).status_code in (402, 403, 409)
        words = first.result(10).text.split()
        [toll] = [toll for toll in run(tollbooth.books.tolls(route="/endless")) if toll.state == "captured"]
        assert words
        assert toll.cost == Money(20_000 * len(words), Asset.USD)
        assert run(tollbooth.ledger.read(verify)).discrepancy is None
