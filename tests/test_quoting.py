import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from fastapi_tollbooth import ConfigurationError, Money, priced
from fastapi_tollbooth.pricing import declare
from fastapi_tollbooth.quoting import quoted, require_total
from fastapi_tollbooth.routes import prices_of


def connection(query: str = "") -> HTTPConnection:
    return HTTPConnection(
        {"type": "http", "method": "GET", "path": "/x", "query_string": query.encode(), "headers": [], "client": None}
    )


@pytest.mark.anyio
async def test_a_quote_says_what_decided_and_carries_the_terms_of_the_route() -> None:
    price = declare("$0.01", match=[{"where": {"query.n": 1}, "price": "$1"}], rate_limit="1/second")
    ruled = await quoted(price, connection("n=1"), "me", None, None)
    assert (ruled.price, ruled.rule, ruled.client) == (Money.parse("$1"), "match[0]", "me")
    plain = await quoted(price, connection(), "me", None, None)
    assert (plain.price, plain.rule) == (Money.parse("$0.01"), "price")
    assert plain.terms == ruled.terms == price.terms
    assert plain.terms.rate_limit is not None


@pytest.mark.anyio
async def test_a_function_decides_before_the_fallback_and_the_default_comes_last() -> None:
    async def compute() -> Money | None:
        return Money.parse("$2")

    price = declare(lambda: None, fallback="$3")
    assert (await quoted(price, connection(), "me", None, compute)).price == Money.parse("$2")
    assert (await quoted(price, connection(), "me", None, None)).price == Money.parse("$3")
    assert (await quoted(declare(), connection(), "me", Money.parse("$4"), None)).rule == "default"


def test_mounted_applications_are_listed_once_and_gaps_are_named() -> None:
    app, mounted = FastAPI(), FastAPI()
    app.mount("/sub", mounted)

    @mounted.get("/x", dependencies=[Depends(priced(match=[{"where": {"query.n": 1}, "price": "$1"}]))])
    async def x() -> str:
        return "ok"

    prices = prices_of([app, mounted], None)
    assert [(route.methods, route.path) for route in prices] == [("GET", "/sub/x")]
    with pytest.raises(ConfigurationError, match="GET /sub/x"):
        require_total(prices)
