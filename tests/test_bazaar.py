"""What directories are told of a route is what its own OpenAPI document says."""

from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Form, Query
from pydantic import BaseModel, Field

from fastapi_tollbooth.rails.x402.bazaar import declaration


class Tree(BaseModel):
    """Refers to itself."""

    name: str
    children: list["Tree"] = []


class Order(BaseModel):
    model: str = Field(examples=["claude-haiku-4"])
    size: int = Field(ge=3)
    note: str | None = None
    tree: Tree | None = None


class Receipt(BaseModel):
    id: str
    total: float


app = FastAPI()


@app.get("/weather/{city}")
async def weather(city: str, days: Annotated[int, Query(ge=1)], unit: str = "metric") -> Receipt:
    return Receipt(id="1", total=1.0)


@app.post("/orders")
async def order(body: Order) -> Receipt:
    return Receipt(id="1", total=1.0)


@app.post("/form")
async def form(name: Annotated[str, Form()]) -> None:
    return None


@app.delete("/bare")
async def bare() -> Any:
    return None


def declared(path: str, method: str, **params: Any) -> dict[str, Any]:
    found = declaration(app.openapi(), path, method, params)
    assert found is not None
    return found


def test_queries_and_paths() -> None:
    found = declared("/weather/{city}", "GET", city="Lisbon")
    assert found["info"]["input"] == {
        "type": "http",
        "method": "GET",
        "queryParams": {"days": 1, "unit": "metric"},
        "pathParams": {"city": "Lisbon"},
    }
    assert found["routeTemplate"] == "/weather/:city"
    shape = found["schema"]["properties"]["input"]["properties"]["queryParams"]
    assert shape["required"] == ["days"]
    assert found["info"]["output"] == {"type": "json", "example": {"id": "string", "total": 0}}


def test_bodies() -> None:
    found = declared("/orders", "POST")
    assert found["info"]["input"] == {
        "type": "http",
        "method": "POST",
        "bodyType": "json",
        "body": {"model": "claude-haiku-4", "size": 3},
    }
    assert declared("/form", "POST")["info"]["input"]["bodyType"] == "form-data"
    assert "routeTemplate" not in found


def test_nothing_refers_to_the_document_any_more_however_deep_it_goes() -> None:
    assert "$ref" not in str(declared("/orders", "POST"))


def test_a_route_that_says_little() -> None:
    assert declared("/bare", "DELETE")["info"] == {"input": {"type": "http", "method": "DELETE"}}


@pytest.mark.parametrize(("path", "method"), [("/nowhere", "GET"), ("/orders", "GET"), ("/orders", "WEBSOCKET")])
def test_what_the_document_does_not_have_is_not_declared(path: str, method: str) -> None:
    assert declaration(app.openapi(), path, method, {}) is None


@pytest.mark.parametrize("path", ["/weather/{city}", "/orders", "/form", "/bare"])
def test_the_example_fits_the_schema(path: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    method = next(iter(app.openapi()["paths"][path])).upper()
    params = {"city": "Lisbon"} if "{" in path else {}
    found = declared(path, method, **params)
    jsonschema.Draft202012Validator(found["schema"]).validate(found["info"])


def test_a_strange_document_does_no_harm() -> None:
    assert declaration({}, "/x", "GET", {}) is None
    strange = {"paths": {"/x": {"post": {"parameters": [{"$ref": "#/nowhere/x"}], "responses": {"200": {}}}}}}
    with pytest.raises(KeyError):
        # A parameter without a name is no OpenAPI; the rail leaves the extension out then.
        declaration({"paths": {"/x": {"get": {"parameters": [{"in": "query"}]}}}}, "/x", "GET", {})
    assert declaration(strange, "/x", "POST", {}) is not None
