from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from openapi_spec_validator import validate

from fastapi_tollbooth import Tollbooth, priced


@pytest.fixture
def app(booth: Tollbooth) -> FastAPI:
    app = FastAPI()
    booth.install(app)

    @app.get("/free")
    async def free() -> None: ...

    @app.get("/weather", dependencies=[Depends(priced("$0.01", description="today's weather"))])
    async def weather() -> None:
        """What the sky looks like."""

    return app


def schema(app: FastAPI) -> dict[str, Any]:
    document: dict[str, Any] = TestClient(app).get("/openapi.json").json()
    validate(document)
    return document


def test_a_priced_operation_shows_its_price_the_402_and_how_to_pay(app: FastAPI) -> None:
    document = schema(app)
    operation = document["paths"]["/weather"]["get"]
    assert operation["description"] == "What the sky looks like.\n\n**Costs $0.01: today's weather**"
    assert operation["x-payment-info"] == {
        "offers": [{"intent": "charge", "method": "lightning", "amount": "10000", "currency": "usd-micro"}]
    }
    response = operation["responses"]["402"]
    assert "$0.01" in response["description"]
    assert response["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/PaymentRequired"}
    assert response["headers"]["WWW-Authenticate"]["schema"]["type"] == "array"
    assert operation["security"] == [{"l402": []}]
    scheme = document["components"]["securitySchemes"]["l402"]
    assert (scheme["type"], scheme["name"], scheme["x-l402-scheme"]) == ("apiKey", "Authorization", "L402")


def test_patterns_are_not_emphasis_and_the_example_of_a_402_is_one(app: FastAPI) -> None:
    rules = [{"where": {"body.model": f"{name}-*"}, "price": price} for name, price in (("a", "$1"), ("b_c", "$2"))]

    @app.post("/chat", dependencies=[Depends(priced(match=rules, fallback="$2"))])
    async def chat() -> None: ...

    operation = schema(app)["paths"]["/chat"]["post"]
    for text in (operation["description"], operation["responses"]["402"]["description"]):
        assert r"$1.00 when body.model is a-\*; $2.00 when body.model is b\_c-\*" in text
    example = operation["responses"]["402"]["content"]["application/problem+json"]["example"]
    body = TestClient(app).post("/chat", json={"model": "a-1"}).json()
    assert set(example) <= set(body)
    assert {name: example[name] for name in ("status", "reason", "price", "detail")} == {
        name: body[name] for name in ("status", "reason", "price", "detail")
    }


def test_an_unpriced_operation_shows_nothing(app: FastAPI) -> None:
    operation = schema(app)["paths"]["/free"]["get"]
    assert "402" not in operation["responses"]
    assert "security" not in operation
    assert "x-payment-info" not in operation


def test_a_402_has_every_member_that_is_documented_as_required(app: FastAPI) -> None:
    documented = schema(app)["components"]["schemas"]["PaymentRequired"]
    body = TestClient(app).get("/weather").json()
    assert set(documented["required"]) <= set(body)
    assert set(body) <= set(documented["properties"])


def test_routes_that_are_added_later_are_shown(app: FastAPI) -> None:
    first = schema(app)
    assert schema(app) == first
    router, outer = APIRouter(), APIRouter(prefix="/outer", dependencies=[Depends(priced("21 sat"))])

    @router.post("/late/{number}")
    async def late(number: int) -> None: ...

    outer.include_router(router, prefix="/inner")
    app.include_router(outer, prefix="/v1")
    operation = schema(app)["paths"]["/v1/outer/inner/late/{number}"]["post"]
    assert operation["x-payment-info"]["offers"][0] == {
        "intent": "charge",
        "method": "lightning",
        "amount": "21000",
        "currency": "msat",
    }
    assert "422" in operation["responses"]


def test_the_owner_s_own_openapi_is_kept(booth: Tollbooth) -> None:
    app = FastAPI()
    generated = app.openapi

    def custom() -> dict[str, Any]:
        return {**generated(), "info": {"title": "Mine", "version": "7"}}

    app.openapi = custom  # type: ignore[method-assign]
    booth.install(app)

    @app.get("/x", dependencies=[Depends(priced("$0.01"))], responses={402: {"description": "My words"}})
    async def x() -> None: ...

    document = schema(app)
    assert document["info"]["title"] == "Mine"
    assert document["paths"]["/x"]["get"]["responses"]["402"]["description"] == "My words"


def test_the_owner_s_own_security_stays(booth: Tollbooth) -> None:
    from fastapi.security import APIKeyHeader

    app = FastAPI()
    booth.install(app)

    @app.get("/x", dependencies=[Depends(APIKeyHeader(name="X-Key", auto_error=False)), Depends(priced("$0.01"))])
    async def x() -> None: ...

    assert schema(app)["paths"]["/x"]["get"]["security"] == [{"APIKeyHeader": []}, {"l402": []}]


def test_hidden_routes_and_preflights_are_left_alone(booth: Tollbooth) -> None:
    app = FastAPI()
    booth.install(app)

    @app.get("/hidden", dependencies=[Depends(priced("$0.01"))], include_in_schema=False)
    async def hidden() -> None: ...

    @app.options("/x", dependencies=[Depends(priced("$0.01"))])
    async def preflight() -> None: ...

    document = schema(app)
    assert list(document["paths"]) == ["/x"]
    assert "402" not in document["paths"]["/x"]["options"]["responses"]
