"""The ASGI layer: what leaves the service, and what happens to the toll, however a request ends."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from starlette.background import BackgroundTask
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request

from fastapi_tollbooth import PaymentRequired, Toll, priced
from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.testing import PAYMENT_HEADER, FakeTollbooth, PayingClient
from fastapi_tollbooth.visit import SCOPE_KEY

Message = MutableMapping[str, Any]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def app(notes: list[str]) -> FastAPI:
    app = FastAPI()
    FakeTollbooth().install(app)
    price = [Depends(priced("$0.01"))]

    def session() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            notes.append(f"rollback {type(error).__name__}")
            raise

    @app.get("/secret", dependencies=[*price, Depends(session)])
    async def secret() -> JSONResponse:
        notes.append("handler")
        task = BackgroundTask(lambda: notes.append("background"))
        return JSONResponse("secret", headers={"X-Secret": "1"}, background=task)

    @app.get("/stream", dependencies=price)
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            for number in range(3):
                notes.append(f"chunk{number}")
                yield str(number)

        return StreamingResponse(chunks())

    @app.get("/break", dependencies=price)
    async def break_off() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            yield "0"
            raise RuntimeError("upstream died")

        return StreamingResponse(chunks())

    @app.get("/slow", dependencies=price)
    async def slow() -> str:
        notes.append("started")
        await asyncio.sleep(30)
        return "late"

    @app.post("/body", dependencies=price)
    async def body(value: dict[str, str]) -> dict[str, str]:
        notes.append("handler")
        return value

    @app.get("/free")
    async def free() -> str:
        return "free"

    return app


async def call(
    app: FastAPI, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[list[Message], int]:
    """Call the application as a server does; what it sent, and how often it asked for the body."""
    sent: list[Message] = []
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope(path, method, headers), receive, send)
    return sent, asked


def scope(path: str, method: str = "GET", headers: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }


def paid(tollbooth: FakeTollbooth, unpaid_client: TestClient, path: str) -> dict[str, str]:
    payment: str = unpaid_client.get(path).json()["fakePayment"]
    tollbooth.rail.pay(payment)
    return {PAYMENT_HEADER: payment}


def test_a_failed_settlement_withholds_every_byte(
    paying_client: PayingClient, tollbooth: FakeTollbooth, notes: list[str]
) -> None:
    with tollbooth.settlement_fails():
        response = paying_client.get("/secret")
    assert response.status_code == 402
    assert response.json()["reason"] == "settlement_failed"
    assert "secret" not in response.text
    assert "x-secret" not in response.headers
    assert notes == ["handler", "rollback Withheld"]
    tollbooth.assert_not_charged()


def test_a_failed_settlement_never_starts_a_stream(
    paying_client: PayingClient, tollbooth: FakeTollbooth, notes: list[str]
) -> None:
    with tollbooth.settlement_fails():
        assert paying_client.get("/stream").status_code == 402
    assert notes == []
    tollbooth.assert_not_charged()


def test_a_silent_node_is_503_without_a_challenge_and_the_same_payment_works_later(
    unpaid_client: TestClient, tollbooth: FakeTollbooth, notes: list[str]
) -> None:
    headers = paid(tollbooth, unpaid_client, "/secret")
    with tollbooth.node_is_silent():
        response = unpaid_client.get("/secret", headers=headers)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert "www-authenticate" not in response.headers
    assert "fakePayment" not in response.json()
    assert notes == []
    tollbooth.assert_not_charged()
    assert unpaid_client.get("/secret", headers=headers).status_code == 200
    tollbooth.assert_charged("$0.01")


def test_a_settlement_that_does_not_end_is_unknown_and_withheld(
    unpaid_client: TestClient, tollbooth: FakeTollbooth, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(toll: Toll) -> None:
        await asyncio.sleep(30)

    headers = paid(tollbooth, unpaid_client, "/secret")
    monkeypatch.setattr(tollbooth.rail, "capture", hang)
    monkeypatch.setattr("fastapi_tollbooth.guard.SETTLEMENT_SECONDS", 0.05)
    response = unpaid_client.get("/secret", headers=headers)
    assert response.status_code == 503
    assert response.json()["reason"] == "settlement_unknown"
    assert "www-authenticate" not in response.headers
    assert "secret" not in response.text
    assert tollbooth.charges() == []


def test_a_settlement_is_not_broken_off_by_a_cancellation(
    unpaid_client: TestClient, tollbooth: FakeTollbooth, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = tollbooth.rail.capture
    done: list[str] = []

    async def slow(toll: Toll) -> Any:
        await asyncio.sleep(0.2)
        receipt = await capture(toll)
        done.append("captured")
        return receipt

    headers = paid(tollbooth, unpaid_client, "/secret")
    monkeypatch.setattr(tollbooth.rail, "capture", slow)

    async def cut_off() -> None:
        request = asyncio.create_task(call(app, "/secret", headers=headers))
        await asyncio.sleep(0.1)
        request.cancel()
        await asyncio.wait({request})

    asyncio.run(cut_off())
    assert done == ["captured"]
    tollbooth.assert_charged("$0.01")


def test_a_void_that_fails_does_not_change_the_answer(
    unpaid_client: TestClient, tollbooth: FakeTollbooth, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(toll: Toll) -> None:
        raise Unavailable("ledger_unavailable", "gone")

    payment = unpaid_client.post("/body", json={"a": "b"}).json()["fakePayment"]
    tollbooth.rail.pay(payment)
    monkeypatch.setattr(tollbooth.rail, "void", fail)
    response = unpaid_client.post("/body", json={"a": 1}, headers={PAYMENT_HEADER: payment})
    assert response.status_code == 422
    assert tollbooth.charges() == []


@pytest.mark.anyio
async def test_nothing_follows_a_withheld_response(
    app: FastAPI, tollbooth: FakeTollbooth, unpaid_client: TestClient
) -> None:
    class Swallow:
        """A middleware of a mounted application that swallows whatever its ``send`` raises."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def swallow(message: Any) -> None:
                with contextlib.suppress(Exception):
                    await send(message)

            await self.app(scope, receive, swallow)

    inner = FastAPI()
    inner.add_middleware(Swallow)

    @inner.get("/secret", dependencies=[Depends(priced("$0.01"))])
    async def secret() -> str:
        return "secret"

    app.mount("/inner", inner)
    from fastapi_tollbooth import get_tollbooth

    inner.dependency_overrides[get_tollbooth] = lambda: tollbooth
    headers = paid(tollbooth, unpaid_client, "/inner/secret")
    with tollbooth.settlement_fails():
        sent, _ = await call(app, "/inner/secret", headers=headers)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 402
    assert b"secret" not in sent[1]["body"]


def test_a_stream_is_charged_before_its_first_byte(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    assert paying_client.get("/stream").text == "012"
    tollbooth.assert_charged("$0.01")


def test_a_stream_that_breaks_off_stays_charged(app: FastAPI, tollbooth: FakeTollbooth) -> None:
    with PayingClient(app, tollbooth, raise_server_exceptions=False) as client:
        client.get("/break")
    tollbooth.assert_charged("$0.01")


@pytest.mark.anyio
async def test_a_cancelled_request_costs_nothing(
    app: FastAPI, tollbooth: FakeTollbooth, unpaid_client: TestClient, notes: list[str]
) -> None:
    headers = paid(tollbooth, unpaid_client, "/slow")
    request = asyncio.create_task(call(app, "/slow", headers=headers))
    while not notes:
        await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    tollbooth.assert_not_charged()


@pytest.mark.anyio
async def test_an_unpaid_upload_is_refused_without_reading_a_byte(
    app: FastAPI, tollbooth: FakeTollbooth, notes: list[str]
) -> None:
    sent, asked = await call(app, "/body", method="POST", headers={"content-type": "application/json"}, body=b"{}")
    assert sent[0]["status"] == 402
    assert asked == 0
    assert notes == []


@pytest.mark.anyio
async def test_nothing_of_a_request_outlives_it(app: FastAPI, tollbooth: FakeTollbooth) -> None:
    visits: list[weakref.ref[Any]] = []

    class Probe:
        """A middleware outside ours that watches what is in the scope."""

    gc.collect()
    gc.disable()
    try:
        for path in ("/free", "/secret"):
            seen = scope(path)

            async def receive() -> Message:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Message) -> None:
                return None

            marker = Probe()
            seen["probe"] = marker
            visits.append(weakref.ref(marker))
            await app(seen, receive, send)
            assert SCOPE_KEY in seen
            del seen, marker
        assert [visit() for visit in visits] == [None, None], "a reference cycle keeps the scope alive"
    finally:
        gc.enable()


def test_the_owner_s_middleware_wraps_refusals_too() -> None:
    app = FastAPI()
    app.add_middleware(GZipMiddleware, minimum_size=1)
    FakeTollbooth().install(app)
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], expose_headers=["WWW-Authenticate"])

    @app.middleware("http")
    async def stamp(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["X-Stamp"] = "1"
        return response

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def x() -> str:
        return "ok"

    response = TestClient(app).get("/x", headers={"Origin": "https://shop.example", "Accept-Encoding": "gzip"})
    assert response.status_code == 402
    assert response.headers["access-control-allow-origin"] == "https://shop.example"
    assert response.headers["access-control-expose-headers"] == "WWW-Authenticate"
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["x-stamp"] == "1"
    preflight = TestClient(app).options(
        "/x", headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    )
    assert preflight.status_code == 200


def test_the_owner_s_own_handler_answers_refusals() -> None:
    app = FastAPI()
    fake = FakeTollbooth()
    fake.install(app)

    @app.exception_handler(PaymentRequired)
    async def mine(request: Request, refusal: PaymentRequired) -> JSONResponse:
        return JSONResponse({"mine": refusal.reason}, 402)

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def x() -> str:
        return "ok"

    with TestClient(app) as client:
        assert client.get("/x").json() == {"mine": "payment_required"}
    fake.rail.settlement_fails = True
    payment = "known"
    fake.rail._payments[payment] = next(iter(fake.rail._payments.values()))
    fake.rail.pay(payment)
    with TestClient(app) as client:
        assert client.get("/x", headers={PAYMENT_HEADER: payment}).json() == {"mine": "settlement_failed"}


def test_an_installed_sub_application_charges_once() -> None:
    fake = FakeTollbooth()
    parent, child = FastAPI(), FastAPI()
    fake.install(parent)
    fake.install(child)

    @child.post("/x")
    async def x(value: dict[str, str], toll: Annotated[Toll, Depends(priced("$0.01"))]) -> str:
        return toll.route

    parent.mount("/child", child)
    with PayingClient(parent, fake) as client:
        assert client.post("/child/x", json={}).json() == "/child/x"
        fake.assert_charged("$0.01")


def test_other_protocols_pass_through(app: FastAPI) -> None:
    entered: list[str] = []

    async def lifespan() -> None:
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Message:
            return next(messages)

        async def send(message: Message) -> None:
            entered.append(message["type"])

        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    asyncio.run(lifespan())
    assert entered == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
