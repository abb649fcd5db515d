from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from starlette.requests import Request

from fastapi_tollbooth import priced
from fastapi_tollbooth.routes import gate_of, priced_routes, template_of

CENT, DIME = priced("$0.01"), priced("$0.10")


def test_every_priced_route_is_listed_with_its_effective_path_and_price() -> None:
    app = FastAPI()
    router = APIRouter(prefix="/items", dependencies=[Depends(CENT)])

    @router.get("/{item}")
    async def item(item: str) -> None: ...

    @router.get("/{item}/dear", dependencies=[Depends(DIME)])
    async def dear(item: str) -> None: ...

    @app.get("/free")
    async def free() -> None: ...

    app.include_router(router, prefix="/v1")
    found = {context.path_format: gate for context, gate in priced_routes(app)}
    assert found == {"/v1/items/{item}": CENT, "/v1/items/{item}/dear": DIME}


def test_the_template_and_the_gate_of_a_request() -> None:
    seen: dict[str, Any] = {}

    async def look(request: Request) -> None:
        seen[request.scope["path"]] = (template_of(request.scope), gate_of(request.scope))

    def leaf(router: Any) -> None:
        async def x(y: str) -> None: ...

        router.get("/x/{y}", dependencies=[Depends(look)])(x)

    app, sub, router = FastAPI(), FastAPI(), APIRouter()
    for each in (app, sub, router):
        leaf(each)
    sub.include_router(router, prefix="/in")
    app.include_router(router, prefix="/v1")
    app.mount("/sub", sub)
    client = TestClient(app, root_path="/proxy")
    for path in ("/x/1", "/v1/x/1", "/sub/x/1", "/sub/in/x/1"):
        assert client.get(f"/proxy{path}").status_code == 200
    assert [template for template, _ in seen.values()] == ["/x/{y}", "/v1/x/{y}", "/sub/x/{y}", "/sub/in/x/{y}"]
    assert {gate for _, gate in seen.values()} == {None}


def test_callers_do_not_name_the_routes_of_a_mount_with_parameters() -> None:
    seen: list[str] = []

    async def look(request: Request) -> None:
        seen.append(template_of(request.scope))

    app, sub = FastAPI(), FastAPI()
    app.mount("/shops/{tenant}/{shelf}", sub)
    sub.get("/x/{y}", dependencies=[Depends(look)])(lambda y: None)
    client = TestClient(app, root_path="/proxy")
    for tenant in ("a", "b", "%ff", "a%00b", "{tenant}", "x"):
        assert client.get(f"/proxy/shops/{tenant}/1/x/1").status_code == 200
    assert set(seen) == {"/shops/{tenant}/{shelf}/x/{y}"}


def test_a_template_is_text_that_every_database_takes() -> None:
    assert template_of({"type": "http", "path": "/a\0b\ud800"}) == "/ab?"


def test_a_request_that_matched_nothing_has_no_gate() -> None:
    assert gate_of({"type": "http", "path": "/"}) is None
    assert template_of({"type": "http", "path": "/raw"}) == "/raw"
