"""``Depends(priced(...))`` wherever FastAPI takes dependencies, paid with real L402 credentials."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from fastapi_tollbooth import ConfigurationError, Money, Toll, Tollbooth, get_tollbooth, priced
from fastapi_tollbooth.testing import FakeTollbooth, PayingClient, run
from tests.wallet import buy, pay

Serve = Callable[..., TestClient]


class Item(BaseModel):
    name: str


def test_the_readme_s_first_app(booth: Tollbooth, serve: Serve) -> None:
    app = FastAPI()
    booth.install(app)

    @app.get("/weather", dependencies=[Depends(priced("$0.01"))])
    async def weather() -> dict[str, str]:
        return {"sky": "blue"}

    @app.get("/joke")
    async def joke(toll: Annotated[Toll, Depends(priced("21 sat"))]) -> dict[str, Any]:
        return {"amount": str(toll.amount), "balance": str(toll.balance), "payer": toll.payer, "id": toll.id}

    client = serve(app)
    credential = buy(client, "/weather")
    served = client.get("/weather", headers=credential)
    assert served.json() == {"sky": "blue"}
    assert served.headers["x-credit-balance"] == "$0.09"
    assert served.headers["cache-control"] == "private"

    offer = client.get("/joke").json()
    facts = client.get("/joke", headers=pay(client, offer)).json()
    assert facts == {
        "amount": "21 sat",
        "balance": "189 sat",
        "payer": "l402:" + offer["paymentHash"],
        "id": facts["id"],
    }
    assert facts["id"].isdigit()


def every_place(app: FastAPI) -> list[str]:
    """One route for each way of hanging a price on it."""

    @app.get("/async", dependencies=[Depends(priced("$0.01"))])
    async def in_decorator() -> str:
        return "ok"

    @app.get("/sync", dependencies=[Depends(priced("$0.01"))])
    def in_thread() -> str:
        return "ok"

    @app.get("/parameter")
    async def in_parameter(toll: Annotated[Toll, Depends(priced("$0.01"))]) -> str:
        return "ok"

    @app.get("/sync-parameter")
    def in_thread_parameter(toll: Annotated[Toll, Depends(priced("$0.01"))]) -> str:
        return "ok"

    async def member(toll: Annotated[Toll, Depends(priced("$0.01"))]) -> Toll:
        return toll

    @app.get("/nested")
    async def nested(toll: Annotated[Toll, Depends(member)]) -> str:
        return "ok"

    priced_router = APIRouter(prefix="/router", dependencies=[Depends(priced("$0.01"))])

    @priced_router.get("/route/{number}")
    async def routed(number: int) -> str:
        return "ok"

    plain_router = APIRouter()

    @plain_router.get("/included")
    async def included() -> str:
        return "ok"

    inner = APIRouter()

    @inner.get("/leaf")
    async def leaf() -> str:
        return "ok"

    branch = APIRouter(prefix="/branch", dependencies=[Depends(priced("$0.01"))])
    branch.include_router(inner, prefix="/twig")
    app.include_router(priced_router)
    app.include_router(plain_router, prefix="/v1", dependencies=[Depends(priced("$0.01"))])
    app.include_router(branch)

    mounted = FastAPI()

    @mounted.get("/weather", dependencies=[Depends(priced("$0.01"))])
    async def on_mounted() -> str:
        return "ok"

    app.mount("/mounted", mounted)
    return [
        "/async",
        "/sync",
        "/parameter",
        "/sync-parameter",
        "/nested",
        "/router/route/7",
        "/v1/included",
        "/branch/twig/leaf",
        "/mounted/weather",
    ]


@pytest.mark.parametrize("install_first", [True, False])
def test_a_price_holds_wherever_it_hangs(booth: Tollbooth, serve: Serve, install_first: bool) -> None:
    app = FastAPI()
    if install_first:
        booth.install(app)
    paths = every_place(app)
    if not install_first:
        booth.install(app)
    client = serve(app)
    credential = buy(client, paths[0])
    for path in paths:
        assert client.get(path).status_code == 402, path
        assert client.get(path, headers=credential).json() == "ok", path
    left = client.get(paths[0], headers=credential).headers["x-credit-balance"]
    assert left == "$0.00"


def test_a_whole_application_is_priced_and_its_docs_are_free(booth: Tollbooth, serve: Serve) -> None:
    app = FastAPI(dependencies=[Depends(priced("$0.01"))])
    booth.install(app)

    @app.get("/a")
    async def a() -> str:
        return "ok"

    client = serve(app)
    assert client.get("/a").status_code == 402
    assert client.get("/openapi.json").status_code == 200
    assert client.get("/docs").status_code == 200
    assert client.get("/nowhere").status_code == 404


@pytest.mark.parametrize(
    ("app_price", "router_price", "route_price", "parameter_price", "charged"),
    [
        ("$0.01", None, None, None, "$0.01"),
        ("$0.01", "$0.02", None, None, "$0.02"),
        ("$0.01", "$0.02", "$0.03", None, "$0.03"),
        ("$0.01", "$0.02", "$0.03", "$0.04", "$0.04"),
        ("$0.05", None, None, "$0.001", "$0.001"),
        ("$0.05", None, "$0", None, None),
    ],
)
def test_the_most_specific_price_decides_and_is_charged_once(
    app_price: str, router_price: str | None, route_price: str | None, parameter_price: str | None, charged: str | None
) -> None:
    def at(price: str | None) -> list[Any]:
        return [] if price is None else [Depends(priced(price))]

    app = FastAPI(dependencies=at(app_price))
    fake = FakeTollbooth()
    fake.install(app)
    router = APIRouter(dependencies=at(router_price))
    seen: list[Toll] = []

    if parameter_price is None:

        @router.get("/x", dependencies=at(route_price))
        async def plain() -> str:
            return "ok"
    else:

        @router.get("/x", dependencies=at(route_price))
        async def with_parameter(toll: Annotated[Toll, Depends(priced(parameter_price))]) -> str:
            seen.append(toll)
            return "ok"

    app.include_router(router, prefix="/v1")
    with PayingClient(app, fake) as client:
        assert client.get("/v1/x").status_code == 200
        fake.assert_charged(*([] if charged is None else [charged]))
        assert all(toll.amount == Money.parse(charged or "$0") for toll in seen)


@pytest.fixture
def runs() -> list[str]:
    """What handlers note when they run."""
    return []


@pytest.fixture
def app(runs: list[str]) -> FastAPI:
    """Every way in which a request can end."""
    app = FastAPI()
    FakeTollbooth().install(app)
    price = [Depends(priced("$0.01"))]

    def session() -> Iterator[str]:
        runs.append("open")
        try:
            yield "session"
        except BaseException:
            runs.append("rollback")
            raise
        else:
            runs.append("commit")

    @app.get("/ok", dependencies=price)
    async def ok() -> str:
        runs.append("ok")
        return "ok"

    @app.post("/echo", dependencies=price)
    async def echo(item: Item) -> Item:
        runs.append("echo")
        return item

    @app.post("/form", dependencies=price)
    async def form(name: Annotated[str, Form()]) -> str:
        runs.append("form")
        return name

    @app.post("/upload", dependencies=price)
    async def upload(file: UploadFile) -> int:
        runs.append("upload")
        return len(await file.read())

    @app.get("/raise/{status}", dependencies=price)
    async def raising(status: int) -> None:
        runs.append("raise")
        raise HTTPException(status, "no")

    @app.get("/return/{status}", dependencies=price)
    async def returning(status: int) -> Any:
        from fastapi.responses import JSONResponse

        runs.append("return")
        return JSONResponse({"secret": "body"}, status)

    @app.get("/crash", dependencies=price)
    async def crash() -> None:
        runs.append("crash")
        raise ZeroDivisionError

    @app.get("/invalid", dependencies=price)
    async def invalid() -> Item:
        runs.append("invalid")
        return {"wrong": 1}  # type: ignore[return-value]

    @app.get("/stream", dependencies=price)
    async def stream() -> StreamingResponse:
        runs.append("stream")

        async def chunks() -> Any:
            for number in range(3):
                runs.append(f"chunk{number}")
                yield f"{number}"

        return StreamingResponse(chunks())

    @app.get("/session", dependencies=price)
    async def with_session(session: Annotated[str, Depends(session)]) -> str:
        return "ok"

    @app.api_route("/any", methods=["GET", "HEAD", "OPTIONS", "DELETE"], dependencies=price)
    async def any_method() -> str:
        runs.append("any")
        return "ok"

    @app.get("/cached", dependencies=price)
    async def cached() -> Any:
        from fastapi.responses import JSONResponse

        return JSONResponse("ok", headers={"Cache-Control": "max-age=60"})

    @app.websocket("/ws")
    async def talk(websocket: WebSocket, toll: Annotated[Toll, Depends(priced("$0.01"))]) -> None:
        runs.append("ws")
        await websocket.accept()
        await websocket.send_text(str(toll.amount))
        await websocket.close()

    @app.websocket("/ws-refused")
    async def hang_up(websocket: WebSocket, toll: Annotated[Toll, Depends(priced("$0.01"))]) -> None:
        runs.append("ws")
        await websocket.close()

    return app


@pytest.mark.parametrize("path", ["/ok", "/stream", "/session", "/any", "/cached"])
def test_success_is_charged_once(paying_client: PayingClient, tollbooth: FakeTollbooth, path: str) -> None:
    response = paying_client.get(path)
    assert response.status_code == 200
    assert response.headers["x-fake-receipt"]
    tollbooth.assert_charged("$0.01")


@pytest.mark.parametrize(
    "path", ["/raise/400", "/raise/404", "/raise/503", "/return/400", "/return/500", "/invalid", "/crash"]
)
def test_failure_costs_nothing(app: FastAPI, tollbooth: FakeTollbooth, runs: list[str], path: str) -> None:
    with PayingClient(app, tollbooth, raise_server_exceptions=False) as client:
        response = client.get(path)
    assert response.status_code >= 400
    assert "x-fake-receipt" not in response.headers
    assert len(runs) == 1
    tollbooth.assert_not_charged()


@pytest.mark.parametrize("status", [200, 204, 302, 304])
def test_success_is_any_status_below_400(paying_client: PayingClient, tollbooth: FakeTollbooth, status: int) -> None:
    if status in (204, 304):
        assert paying_client.get("/raise/" + str(status)).status_code == status
    else:
        assert paying_client.get(f"/return/{status}", follow_redirects=False).status_code == status
    tollbooth.assert_charged("$0.01")


def test_validation_errors_cost_nothing(paying_client: PayingClient, tollbooth: FakeTollbooth, runs: list[str]) -> None:
    assert paying_client.post("/echo", json={"nam": 1}).status_code == 422
    assert paying_client.get("/raise/notanumber").status_code == 422
    assert runs == []
    tollbooth.assert_not_charged()


def test_bodies_arrive_after_paying(paying_client: PayingClient, tollbooth: FakeTollbooth) -> None:
    assert paying_client.post("/echo", json={"name": "a"}).json() == {"name": "a"}
    assert paying_client.post("/form", data={"name": "b"}).json() == "b"
    assert paying_client.post("/upload", files={"file": b"12345"}).json() == 5
    tollbooth.assert_charged("$0.01", "$0.01", "$0.01")


@pytest.mark.parametrize(
    "request_",
    [
        {"url": "/echo", "content": b"{malformed", "headers": {"content-type": "application/json"}},
        {"url": "/echo", "json": {"nam": 1}},
        {"url": "/upload", "files": {"file": b"x" * 100_000}},
        {"url": "/form", "data": {"wrong": "field"}},
    ],
)
def test_an_unpaid_request_meets_the_402_before_anything_else(
    unpaid_client: TestClient, runs: list[str], request_: dict[str, Any]
) -> None:
    response = unpaid_client.post(**request_)
    assert response.status_code == 402
    assert response.json()["reason"] == "payment_required"
    assert runs == []


def test_methods(
    paying_client: PayingClient, unpaid_client: TestClient, tollbooth: FakeTollbooth, runs: list[str]
) -> None:
    preflight = unpaid_client.options("/any")
    assert (preflight.status_code, preflight.headers["allow"]) == (200, "DELETE, GET, HEAD, OPTIONS")
    assert runs == []
    tollbooth.assert_not_charged()
    head = unpaid_client.head("/any")
    assert head.status_code == 402
    assert head.content == b""
    assert "www-authenticate" in head.headers
    assert unpaid_client.post("/ok").status_code == 405
    assert unpaid_client.delete("/any").status_code == 402
    assert paying_client.delete("/any").status_code == 200
    tollbooth.assert_charged("$0.01")


def test_the_handler_s_own_cache_control_stays(paying_client: PayingClient) -> None:
    assert paying_client.get("/cached").headers.get_list("cache-control") == ["max-age=60"]


def test_a_replayed_payment_runs_no_handler(app: FastAPI, tollbooth: FakeTollbooth, runs: list[str]) -> None:
    with TestClient(app) as client:
        payment = client.get("/ok").json()["fakePayment"]
        tollbooth.rail.pay(payment)
        statuses = [client.get("/ok", headers={"X-Fake-Payment": payment}).status_code for _ in range(3)]
    assert statuses == [200, 402, 402]
    assert runs == ["ok"]
    tollbooth.assert_charged("$0.01")


def test_a_payment_whose_request_failed_is_good_again(app: FastAPI, tollbooth: FakeTollbooth) -> None:
    with TestClient(app) as client:
        payment = client.get("/return/503").json()["fakePayment"]
        tollbooth.rail.pay(payment)
        headers = {"X-Fake-Payment": payment}
        assert client.get("/return/503", headers=headers).status_code == 503
        tollbooth.assert_not_charged()
        assert client.get("/return/200", headers=headers).status_code == 200
    tollbooth.assert_charged("$0.01")


def test_websockets_pay_when_they_are_accepted(app: FastAPI, tollbooth: FakeTollbooth, runs: list[str]) -> None:
    with TestClient(app) as client:
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/ws"):
            raise AssertionError("an unpaid websocket was accepted")
        assert denied.value.status_code == 402
        assert runs == []
        payment = denied.value.json()["fakePayment"]
        tollbooth.rail.pay(payment)
        with client.websocket_connect("/ws", headers={"X-Fake-Payment": payment}) as websocket:
            assert websocket.receive_text() == "$0.01"
    tollbooth.assert_charged("$0.01")


def test_a_websocket_that_was_accepted_before_it_was_priced_is_charged(
    app: FastAPI, tollbooth: FakeTollbooth, runs: list[str]
) -> None:
    async def first_message(websocket: WebSocket) -> str:
        await websocket.accept()
        return await websocket.receive_text()

    @app.websocket("/early")
    async def early(
        websocket: WebSocket,
        hello: Annotated[str, Depends(first_message)],
        toll: Annotated[Toll, Depends(priced("$0.01"))],
    ) -> None:
        runs.append(hello)
        if hello != "silent":
            await websocket.send_text("secret")
        await websocket.close()

    def talk(client: TestClient, hello: str) -> list[Any]:
        payment = client.get("/ok").json()["fakePayment"]
        tollbooth.rail._payments[payment].quote = tollbooth.rail._payments[payment].quote._replace(route="/early")
        tollbooth.rail.pay(payment)
        with client.websocket_connect("/early", headers={"X-Fake-Payment": payment}) as websocket:
            websocket.send_text(hello)
            return [websocket.receive() for _ in range(1 if hello == "silent" else 2)]

    with TestClient(app) as client:
        assert talk(client, "hello")[0]["text"] == "secret"
        tollbooth.assert_charged("$0.01")
        talk(client, "silent")
        tollbooth.assert_charged("$0.01", "$0.01")
        with tollbooth.settlement_fails():
            assert talk(client, "silent")[0]["code"] == 1008
        tollbooth.assert_charged("$0.01", "$0.01")


def test_a_websocket_that_was_accepted_first_and_cannot_pay_is_closed(
    app: FastAPI, tollbooth: FakeTollbooth, runs: list[str]
) -> None:
    async def first_message(websocket: WebSocket) -> str:
        await websocket.accept()
        return await websocket.receive_text()

    @app.websocket("/early")
    async def early(
        hello: Annotated[str, Depends(first_message)], toll: Annotated[Toll, Depends(priced("$0.01"))]
    ) -> None:
        runs.append(hello)

    with TestClient(app) as client, client.websocket_connect("/early") as websocket:
        websocket.send_text("hello")
        assert websocket.receive() == {"type": "websocket.close", "code": 1008, "reason": "payment_required"}
    assert runs == []


def test_a_handler_that_only_listens_is_charged(app: FastAPI, tollbooth: FakeTollbooth, runs: list[str]) -> None:
    async def welcome(websocket: WebSocket) -> None:
        await websocket.accept()

    @app.websocket("/ok")
    async def listen(
        websocket: WebSocket,
        hello: Annotated[None, Depends(welcome)],
        toll: Annotated[Toll, Depends(priced("$0.01"))],
    ) -> None:
        runs.append(await websocket.receive_text())
        with contextlib.suppress(WebSocketDisconnect):
            await websocket.receive_text()

    with TestClient(app) as client:
        payment = client.get("/ok").json()["fakePayment"]
        tollbooth.rail.pay(payment)
        with client.websocket_connect("/ok", headers={"X-Fake-Payment": payment}) as websocket:
            websocket.send_text("work")
            while not runs:
                time.sleep(0.01)
    assert runs == ["work"]
    tollbooth.assert_charged("$0.01")


def test_a_price_that_was_taken_out_by_an_override_does_not_make_the_route_free() -> None:
    async def rate() -> str:
        return "$0.04"

    def price(rate: Annotated[str, Depends(rate)]) -> str:
        return rate

    async def member(toll: Annotated[Toll, Depends(priced(price))]) -> str:
        return "member"

    app, fake = FastAPI(dependencies=[Depends(priced("$5"))]), FakeTollbooth()
    fake.install(app)

    @app.get("/x")
    async def x(member: Annotated[str, Depends(member)]) -> str:
        return "secret"

    with PayingClient(app, fake) as client:
        assert client.get("/x").json() == "secret"
        fake.assert_charged("$0.04")
        app.dependency_overrides[member] = lambda: "nobody"
        refused = client.get("/x")
    assert refused.status_code == 500
    assert refused.json()["reason"] == "toll_not_taken"
    fake.assert_charged("$0.04")


def test_a_websocket_that_is_not_accepted_costs_nothing(app: FastAPI, tollbooth: FakeTollbooth) -> None:
    with TestClient(app) as client:
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/ws-refused"):
            raise AssertionError("an unpaid websocket was accepted")
        payment = denied.value.json()["fakePayment"]
        tollbooth.rail.pay(payment)
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/ws-refused", headers={"X-Fake-Payment": payment}),
        ):
            raise AssertionError("a refused websocket was accepted")
    tollbooth.assert_not_charged()


def test_a_route_without_install_fails_closed(runs: list[str]) -> None:
    app = FastAPI()

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def x() -> None:
        runs.append("x")

    with pytest.raises(ConfigurationError, match=r"tollbooth\.install\(app\)"):
        TestClient(app).get("/x")
    assert TestClient(app, raise_server_exceptions=False).get("/x").status_code == 500
    assert runs == []


def test_the_engine_is_a_dependency_too(booth: Tollbooth, serve: Serve) -> None:
    app = FastAPI()
    booth.install(app)

    @app.get("/engine")
    async def engine(tollbooth: Annotated[Tollbooth, Depends(get_tollbooth)]) -> bool:
        return tollbooth is booth

    assert serve(app).get("/engine").json() is True


def test_an_override_must_be_a_tollbooth(app: FastAPI) -> None:
    app.dependency_overrides[get_tollbooth] = lambda: "nonsense"
    with pytest.raises(ConfigurationError, match="override"), TestClient(app) as client:
        client.get("/ok")


def test_a_price_that_is_not_money_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ConfigurationError, match=r"like \"\$0\.01\""):
        priced("one cent")
    assert repr(priced("$0.01")) == "priced('$0.01')"


def test_a_declared_zero_is_free(booth: Tollbooth, serve: Serve) -> None:
    app = FastAPI()
    booth.install(app)

    @app.get("/free")
    async def free(toll: Annotated[Toll, Depends(priced("$0"))]) -> str:
        return toll.state

    assert serve(app).get("/free").json() == "free"


def test_without_a_lifespan_requests_are_served_too(booth: Tollbooth) -> None:
    app = FastAPI()
    booth.install(app)

    @app.get("/x", dependencies=[Depends(priced("$0.01"))])
    async def x() -> str:
        return "ok"

    client = TestClient(app)
    credential = buy(client, "/x")
    assert [client.get("/x", headers=credential).status_code for _ in range(11)] == [200] * 10 + [402]
    run(booth.close())
