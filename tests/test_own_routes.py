from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fastapi_tollbooth.own_routes import OwnRoutes, body_of


def test_own_routes_serve_their_paths_and_no_others() -> None:
    async def named(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.path_params.get("name", "plain"))

    async def posted(request: Request) -> PlainTextResponse:
        return PlainTextResponse("posted")

    own = [
        Route("/tollbooth/own", named),
        Route("/tollbooth/own", posted, methods=["POST"]),
        Route("/tollbooth/own/{name}", named),
    ]
    app = FastAPI()
    app.router.routes.append(OwnRoutes(own))

    @app.get("/{path:path}")
    def theirs(path: str) -> str:
        return path

    client = TestClient(app)
    assert client.get("/tollbooth/own").text == "plain"
    assert client.post("/tollbooth/own").text == "posted"
    assert client.get("/tollbooth/own/x").text == "x"
    assert client.get("/theirs/tollbooth/own").json() == "theirs/tollbooth/own"
    assert client.delete("/tollbooth/own").status_code == 405
    assert client.get("/tollbooth/owned").json() == "tollbooth/owned"
    assert TestClient(app, root_path="/api").get("/tollbooth/own/x").text == "x"


def test_own_routes_leave_names_to_the_application() -> None:
    async def named(request: Request) -> PlainTextResponse:
        return PlainTextResponse("")

    app = FastAPI()
    app.router.routes.append(OwnRoutes([Route("/tollbooth/own", named, name="named")]))

    @app.get("/theirs", name="named")
    def theirs() -> None: ...

    assert app.url_path_for("named") == "/theirs"


def test_own_routes_have_a_path_as_instruments_expect_of_every_route() -> None:
    own = OwnRoutes([])
    assert (own.name, own.path) == ("tollbooth", "/tollbooth/{path:path}")


def test_a_body_is_read_up_to_a_limit_and_not_beyond() -> None:
    read: list[int] = []

    async def counted(request: Request) -> PlainTextResponse:
        body = await body_of(request, most=10)
        read.append(-1 if body is None else len(body))
        return PlainTextResponse("" if body is None else body)

    app = FastAPI()
    app.router.routes.append(Route("/own", counted, methods=["POST"]))
    client = TestClient(app)
    assert client.post("/own", content=b"0123456789").text == "0123456789"
    client.post("/own", content=(part for part in (b"01234", b"56789", b"a")))
    assert read == [10, -1]
