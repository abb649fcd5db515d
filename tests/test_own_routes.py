from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from fastapi_tollbooth.own_routes import OwnRoute


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
