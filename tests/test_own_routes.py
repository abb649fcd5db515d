from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from fastapi_tollbooth.own_routes import OwnRoute, body_of


def test_an_own_route_serves_its_path_and_no_other() -> None:
    async def named(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.path_params.get("name", "plain"))

    app = FastAPI()
    app.router.routes.extend([OwnRoute("/own", named), OwnRoute("/own/{name}", named)])

    @app.get("/theirs/own")
    def theirs() -> str:
        return "theirs"

    client = TestClient(app)
    assert client.get("/own").text == "plain"
    assert client.get("/own/x").text == "x"
    assert client.get("/theirs/own").json() == "theirs"
    assert client.post("/own").status_code == 405
    assert client.get("/owned").status_code == 404
    assert TestClient(app, root_path="/api").get("/own/x").text == "x"


def test_a_body_is_read_up_to_a_limit_and_not_beyond() -> None:
    read: list[int] = []

    async def counted(request: Request) -> PlainTextResponse:
        body = await body_of(request, most=10)
        read.append(-1 if body is None else len(body))
        return PlainTextResponse("" if body is None else body)

    app = FastAPI()
    app.router.routes.append(OwnRoute("/own", counted, methods=["POST"]))
    client = TestClient(app)
    assert client.post("/own", content=b"0123456789").text == "0123456789"
    client.post("/own", content=(part for part in (b"01234", b"56789", b"a")))
    assert read == [10, -1]
