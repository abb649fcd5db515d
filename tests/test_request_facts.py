"""Dynamic prices over HTTP: the facts that decide are those that the handler gets, and nothing else."""

import logging
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, Form, Header, HTTPException, Query, Request, UploadFile
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fastapi_tollbooth import ConfigurationError, Money, Rule, Toll, Tollbooth, TollboothSettings, priced
from fastapi_tollbooth.pricing import declare
from fastapi_tollbooth.testing import PAYMENT_HEADER, FakeTollbooth, PayingClient
from tests.shop import Shop

CLAUDE = priced(
    match=[
        {"where": {"body.model": "claude-haiku-*"}, "price": "$0.005"},
        {"where": {"body.model": "claude-sonnet-*"}, "price": "$0.015"},
        Rule(where={"body.model": "claude-opus-*"}, price="$0.075"),
    ],
    fallback="$0.015",
)
GPT = priced(
    match=[
        {"where": {"body.model": "gpt-4o"}, "price": "$0.01"},
        {"where": {"body.model": "gpt-4o-mini"}, "price": "$0.002"},
    ],
    fallback="$0.01",
)


def by_tokens(body: dict[str, Any] | None) -> float:
    """The design's own example: dollars per started thousand tokens."""
    body = body or {}
    rate = 0.015 if "opus" in body.get("model", "") else 0.003
    return float(rate * math.ceil(body.get("max_tokens", 1024) / 1000))


async def by_tokens_later(body: dict[str, Any] | None) -> str:
    return f"${by_tokens(body):.6f}"


@pytest.mark.parametrize(
    ("model", "price", "rule"),
    [
        ("claude-haiku-4-5-20251001", "$0.005", "match[0]"),
        ("claude-sonnet-4", "$0.015", "match[1]"),
        ("claude-opus-4", "$0.075", "match[2]"),
        ("claude-2", "$0.015", "fallback"),
        ("", "$0.015", "fallback"),
        (None, "$0.015", "fallback"),
        (7, "$0.015", "fallback"),
        (["claude-haiku-1"], "$0.015", "fallback"),
        ("CLAUDE-HAIKU-4", "$0.015", "fallback"),
        ("ｃlaude-haiku-4", "$0.015", "fallback"),
        ("claude-haiku", "$0.015", "fallback"),
        ("claude-haiku-\n", "$0.005", "match[0]"),
        (" claude-haiku-4", "$0.015", "fallback"),
    ],
)
def test_a_model_decides(model: Any, price: str, rule: str) -> None:
    assert Shop(CLAUDE).asked(json={"model": model}) == (price, rule)


@pytest.mark.parametrize(("model", "price"), [("gpt-4o", "$0.01"), ("gpt-4o-mini", "$0.002"), ("gpt-4", "$0.01")])
def test_exact_models(model: str, price: str) -> None:
    assert Shop(GPT).asked(json={"model": model})[0] == price


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"content": b""},
        {"content": b"claude-haiku-4"},
        {"content": b"{model: claude-haiku-4}", "headers": {"content-type": "application/json"}},
        {"content": b'{"model": "claude-haiku-4"}', "headers": {"content-type": "text/plain"}},
        {"content": b'{"model": "claude-haiku-4"}'},
        {"content": b'{"model": "claude-haiku-4"}', "headers": {"content-type": "text/json"}},
        {"content": b'{"model": "claude-haiku-4"}', "headers": {"content-type": "application/jsonx"}},
        {"content": b'{"model": "claude-haiku-4"}', "headers": {"content-type": "nonsense"}},
        {"data": {"model": "claude-haiku-4"}},
        {"files": {"model": (None, "claude-haiku-4")}},
        {"json": "claude-haiku-4"},
        {"json": ["claude-haiku-4"]},
        {"json": {"constructor": "claude-haiku-4", "__proto__": {"model": "claude-haiku-4"}}},
        {"json": {"Model": "claude-haiku-4", "model ": "claude-haiku-4"}},
        {"content": b'{"model": NaN}', "headers": {"content-type": "application/json"}},
        {"content": b'{"model": ' + b"9" * 5_000 + b"}", "headers": {"content-type": "application/json"}},
    ],
)
def test_what_is_not_the_handler_s_json_matches_nothing(request_: dict[str, Any]) -> None:
    assert Shop(CLAUDE).asked(**request_) == ("$0.015", "fallback")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "application/vnd.api+json", "APPLICATION/JSON"],
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_what_the_handler_reads_as_json_matches(content_type: str, bom: bytes) -> None:
    shop = Shop(CLAUDE)
    body = bom + b'{"model": "claude-haiku-4"}'
    assert shop.asked(content=body, headers={"content-type": content_type}) == ("$0.005", "match[0]")


def test_a_route_that_reads_untyped_bodies_as_json_is_priced_by_them() -> None:
    async def complete(prompt: dict[str, str]) -> dict[str, str]:
        return prompt

    shop = Shop(CLAUDE, handler=complete, strict_content_type=False)
    body = b'{"model": "claude-opus-4"}'
    assert shop.asked(content=body) == ("$0.075", "match[2]")
    assert shop.pay(content=body).json() == {"model": "claude-opus-4"}
    strict = Shop(CLAUDE, handler=complete)
    assert strict.asked(content=body) == ("$0.015", "fallback")
    assert strict.pay(content=body).status_code == 422
    strict.tollbooth.assert_not_charged()


def test_no_depth_of_nesting_is_priced_as_if_there_were_no_body() -> None:
    async def complete(prompt: dict[str, Any]) -> str:
        return str(prompt["model"])

    shop = Shop(CLAUDE, handler=complete)
    for depth in (*range(880, 1_000, 2), 20_000):
        content = b'{"model": "claude-opus-4", "deep": ' + b"[" * depth + b"]" * depth + b"}"
        asked = shop.asked(content=content, headers={"content-type": "application/json"})
        assert asked[0] in ("$0.075", "400"), depth


class Prompt(BaseModel):
    """A declared body."""

    model: str


def test_the_handler_gets_the_body_that_was_priced() -> None:
    async def complete(prompt: Prompt) -> str:
        return prompt.model

    shop = Shop(CLAUDE, handler=complete)
    assert shop.pay(json={"model": "claude-opus-4"}).json() == "claude-opus-4"
    shop.tollbooth.assert_charged("$0.075")


def test_a_handler_that_reads_the_raw_request_gets_all_of_it() -> None:
    async def raw(request: Request) -> str:
        return (b"".join([chunk async for chunk in request.stream()])).decode()

    shop = Shop(CLAUDE, handler=raw)
    assert shop.pay(json={"model": "claude-opus-4"}).json() == '{"model":"claude-opus-4"}'
    shop.tollbooth.assert_charged("$0.075")


DATA = priced(
    match=[
        {"where": {"query.format": "csv", "headers.x-priority": "high"}, "price": "$0.20"},
        {"where": {"query.format": "csv"}, "price": "$0.10"},
        {"where": {"query.format": "json"}, "price": "$0.05"},
        {"where": {"query.tier": "premium"}, "price": "$0.30"},
        {"where": {"query.n": 10}, "price": "$0.40"},
        {"where": {"params.query_id": "123*"}, "price": "$0.50"},
    ],
    fallback="$0.05",
)


@pytest.mark.parametrize(
    ("url", "headers", "price", "rule"),
    [
        ("/data/7?format=csv", {}, "$0.10", "match[1]"),
        ("/data/7?format=csv", {"X-Priority": "high"}, "$0.20", "match[0]"),
        ("/data/7?format=json", {}, "$0.05", "match[2]"),
        ("/data/7?tier=premium", {}, "$0.30", "match[3]"),
        ("/data/7?n=10", {}, "$0.40", "match[4]"),
        ("/data/12345", {}, "$0.50", "match[5]"),
        ("/data/7", {}, "$0.05", "fallback"),
        ("/data/7?format=CSV", {}, "$0.05", "fallback"),
        ("/data/7?format=csv&format=json", {}, "400", "ambiguous_request"),
        ("/data/7?other=1&other=2", {}, "$0.05", "fallback"),
    ],
)
def test_query_headers_and_parameters_decide(url: str, headers: dict[str, str], price: str, rule: str) -> None:
    shop = Shop(DATA, method="GET", path="/data/{query_id}")
    assert shop.asked("GET", url, headers=headers) == (price, rule)


def test_a_header_given_twice_is_ambiguous() -> None:
    shop = Shop(DATA, method="GET", path="/data/{query_id}")
    lines = [("x-priority", "high"), ("x-priority", "low")]
    assert shop.asked("GET", "/data/7", headers=lines) == ("400", "ambiguous_request")


@pytest.mark.parametrize("order", [("claude-haiku-4", "claude-opus-4"), ("claude-opus-4", "claude-haiku-4")])
def test_a_json_key_given_twice_is_ambiguous_and_runs_nothing(order: tuple[str, str]) -> None:
    shop = Shop(CLAUDE)
    content = b'{"model": "%s", "model": "%s"}' % (order[0].encode(), order[1].encode())
    request: dict[str, Any] = {"content": content, "headers": {"content-type": "application/json"}}
    assert shop.asked(**request) == ("400", "ambiguous_request")
    assert shop.pay(**request).status_code == 400
    assert shop.runs == 0
    shop.tollbooth.assert_not_charged()


def form_price() -> Any:
    return priced(
        match=[{"where": {"body.size": "large"}, "price": "$2"}, {"where": {"body.n": 3}, "price": "$3"}], fallback="$1"
    )


def test_declared_forms_are_matched_as_text() -> None:
    async def order(size: Annotated[str, Form()], n: Annotated[int, Form()] = 0) -> str:
        return size

    shop = Shop(form_price(), handler=order)
    assert shop.asked(data={"size": "large"}) == ("$2.00", "match[0]")
    assert shop.asked(data={"size": "small", "n": "3"}) == ("$3.00", "match[1]")
    assert shop.asked(data={"size": ["large", "small"]}) == ("400", "ambiguous_request")
    assert shop.asked(json={"size": "large"}) == ("$1.00", "fallback")
    assert shop.pay(data={"size": "large"}).json() == "large"
    shop.tollbooth.assert_charged("$2")


def test_multipart_fields_are_matched_and_files_are_not() -> None:
    async def upload(file: UploadFile, size: Annotated[str, Form()] = "") -> str:
        return size

    shop = Shop(form_price(), handler=upload)
    assert shop.asked(files={"file": b"x", "size": (None, "large")}) == ("$2.00", "match[0]")
    assert shop.asked(files={"file": b"x", "size": ("large", b"large")}) == ("$1.00", "fallback")
    twins = [("file", ("a", b"x")), ("size", (None, "large")), ("size", (None, "small"))]
    assert shop.asked(files=twins) == ("400", "ambiguous_request")
    assert shop.asked(data={"size": "large"}, files={"size": ("a", b"small")}) == ("400", "ambiguous_request")


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_decides_is_bounded(declared: bool, chunked: bool) -> None:
    async def complete(prompt: Prompt) -> str:
        return prompt.model

    shop = Shop(CLAUDE, handler=complete if declared else None)
    content = b'{"model": "' + b"x" * 70_000 + b'"}'
    body: Any = iter([content[:40_000], content[40_000:]]) if chunked else content
    assert shop.asked(content=body, headers={"content-type": "application/json"}) == ("413", "body_too_large")
    fits = b'{"model": "' + b"x" * 60_000 + b'"}'
    assert shop.asked(content=fits, headers={"content-type": "application/json"}) == ("$0.015", "fallback")


@pytest.mark.anyio
async def test_streams_stay_unbuffered_where_the_price_does_not_read_the_body() -> None:
    order: list[str] = []

    async def stream(request: Request) -> int:
        total = 0
        async for chunk in request.stream():
            order.append(f"handler got {len(chunk)}")
            total += len(chunk)
        return total

    price = priced(match=[{"where": {"query.fast": True}, "price": "$0.02"}], fallback="$0.01")
    shop = Shop(price, handler=stream)
    payment = shop.client.post("/x").json()["fakePayment"]
    shop.tollbooth.rail.pay(payment)

    async def receive() -> dict[str, Any]:
        number = sum(note.startswith("sent") for note in order)
        order.append(f"sent {number}")
        return {"type": "http.request", "body": b"x" * 50_000, "more_body": number < 2}

    async def send(message: Any) -> None:
        return None

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "query_string": b"",
        "headers": [(PAYMENT_HEADER.lower().encode(), payment.encode())],
        "client": ("testclient", 1),
    }
    await shop.app(scope, receive, send)
    assert [note for note in order if note != "handler got 0"] == [
        "sent 0", "handler got 50000", "sent 1", "handler got 50000", "sent 2", "handler got 50000",
    ]  # fmt: skip
    shop.tollbooth.assert_charged("$0.01")


# ── functions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("function", [by_tokens, by_tokens_later])
@pytest.mark.parametrize(
    ("body", "price"),
    [
        ({"model": "claude-opus-4", "max_tokens": 1000}, "$0.015"),
        ({"model": "claude-opus-4", "max_tokens": 1001}, "$0.03"),
        ({"model": "claude-haiku-4", "max_tokens": 2500}, "$0.009"),
        ({"model": "claude-haiku-4"}, "$0.006"),
        ({}, "$0.006"),
    ],
)
def test_a_function_prices_by_the_body(function: Any, body: dict[str, Any], price: str) -> None:
    shop = Shop(priced(function))
    assert shop.asked(json=body) == (price, "function")
    assert shop.pay(json=body).status_code == 200
    shop.tollbooth.assert_charged(price)


def test_a_function_gets_what_it_names() -> None:
    def price(headers: Any, query: Any, params: Any, request: Any) -> str:
        assert request.method == "GET"
        return f"${len(headers['x-words'].split())}.{query['cents']}{params['digit']}"

    shop = Shop(priced(price), method="GET", path="/x/{digit}")
    assert shop.asked("GET", "/x/5?cents=2", headers={"X-Words": "a b c"}) == ("$3.25", "function")
    assert Shop(priced(lambda: Money.parse("21 sat")), method="GET").asked("GET") == ("21 sat", "function")
    assert Shop(priced(lambda: None, fallback="$0.07"), method="GET").asked("GET") == ("$0.07", "fallback")


@pytest.mark.parametrize("max_tokens", ["0", "-5000", "1" + "0" * 30, '"many"', "null", "1e400", "NaN"])
def test_a_function_that_is_led_astray_charges_nothing_and_says_nothing(
    max_tokens: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(priced(by_tokens, max_price="$1"))
    content = b'{"max_tokens": %s}' % max_tokens.encode()
    response = shop.client.post("/x", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 500
    assert response.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "The price of this request could not be found.",
        "reason": "pricing_failed",
    }
    assert "www-authenticate" not in response.headers
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    assert "/x" in record.getMessage()
    assert shop.runs == 0
    shop.tollbooth.assert_not_charged()


def test_a_function_may_refuse_in_the_fastapi_way() -> None:
    def price(query: Any) -> str:
        if "n" not in query:
            raise HTTPException(422, "say how many")
        return "$0.01"

    shop = Shop(priced(price), method="GET")
    assert shop.client.get("/x").status_code == 422
    assert shop.asked("GET", "/x?n=1") == ("$0.01", "function")


def test_a_function_s_body_is_read_once_and_must_have_one_reading() -> None:
    def price(body: Any) -> str:
        body.clear()
        return "$0.01"

    async def complete(prompt: Prompt) -> str:
        return prompt.model

    shop = Shop(priced(price), handler=complete)
    assert shop.pay(json={"model": "x"}).json() == "x"
    ambiguous: dict[str, Any] = {
        "content": b'{"model": "x", "deep": {"n": 1, "n": 99}}',
        "headers": {"content-type": "application/json"},
    }
    assert shop.client.post("/x", **ambiguous).json()["reason"] == "ambiguous_request"


class Session:
    """Stands for a database session."""

    rate = "$0.04"


opened: list[str] = []


async def session() -> AsyncIterator[Session]:
    opened.append("open")
    try:
        yield Session()
    finally:
        opened.append("close")


def test_a_function_may_have_dependencies_of_its_own() -> None:
    opened.clear()

    async def price(
        body: Any,
        session: Annotated[Session, Depends(session)],
        plan: Annotated[str, Header()] = "basic",
        page: Annotated[int, Query()] = 1,
        seen: Annotated[str | None, Cookie()] = None,
    ) -> str:
        assert isinstance(page, int)
        return session.rate if plan == "basic" else "$0.01"

    shop = Shop(priced(price))
    assert shop.asked(json={}) == ("$0.04", "function")
    assert shop.asked(json={}, headers={"plan": "gold"}) == ("$0.01", "function")
    assert opened == ["open", "close"] * 2
    assert shop.pay(url="/x?page=2", json={}).json() == "ok"
    shop.tollbooth.assert_charged("$0.04")
    assert shop.client.post("/x?page=two", json={}).status_code == 422


def test_a_dependent_function_wins_over_a_router_s_price() -> None:
    async def price(session: Annotated[Session, Depends(session)]) -> str:
        return session.rate

    app, fake = FastAPI(), FakeTollbooth()
    fake.install(app)
    router = APIRouter(dependencies=[Depends(priced("$5"))])

    @router.get("/x", dependencies=[Depends(priced(price))])
    async def x() -> str:
        return "ok"

    app.include_router(router)
    with PayingClient(app, fake) as client:
        assert client.get("/x").json() == "ok"
    fake.assert_charged("$0.04")


def test_a_toll_that_is_taken_elsewhere_says_so() -> None:
    async def price(session: Annotated[Session, Depends(session)]) -> str:
        return session.rate

    app, fake = FastAPI(), FakeTollbooth()
    fake.install(app)

    @app.get("/x")
    async def x(first: Annotated[Toll, Depends(priced("$5"))], second: Annotated[Toll, Depends(priced(price))]) -> str:
        assert str(second.amount) == "$0.04"
        return str(first.amount)

    with PayingClient(app, fake) as client, pytest.raises(ConfigurationError, match="more specific"):
        client.get("/x")
    fake.assert_not_charged()


def test_a_function_with_a_body_parameter_is_refused_where_it_is_declared() -> None:
    def price(prompt: Prompt) -> str:
        return "$1"

    def hidden(session: Annotated[str, Depends(price)]) -> str:
        return "$1"

    def greedy(*args: Any) -> str:
        return "$1"

    for function in (price, hidden, greedy):
        with pytest.raises(ConfigurationError):
            priced(function)


# ── tiers, models, defaults ───────────────────────────────────────────────────────────────────────────────────────────


def test_tiers_are_chosen_listed_and_told_to_the_handler() -> None:
    shop = Shop(priced(tiers={"default": "10 sat", "premium": "42 sat"}), method="GET")
    body = shop.client.get("/x").json()
    assert (body["price"], body["tiers"]) == ("10 sat", {"default": "10 sat", "premium": "42 sat"})
    assert shop.asked("GET", headers={"X-Toll-Tier": "premium"}) == ("42 sat", "tier")
    refused = shop.client.get("/x", headers={"X-Toll-Tier": "gold"})
    assert (refused.status_code, refused.json()["reason"]) == (400, "unknown_tier")
    assert "default, premium" in refused.json()["detail"]
    assert shop.asked("GET", headers=[("x-toll-tier", "premium"), ("x-toll-tier", "default")])[0] == "400"
    assert shop.pay("GET", headers={"X-Toll-Tier": "premium"}).status_code == 200
    assert (shop.tolls[0].tier, shop.tolls[0].rule) == ("premium", "tier")
    shop.tollbooth.assert_charged("42 sat")


def test_a_cheap_tier_s_quote_does_not_buy_the_dear_tier() -> None:
    shop = Shop(priced(tiers={"default": "10 sat", "premium": "42 sat"}), method="GET")
    payment = shop.client.get("/x").json()["fakePayment"]
    shop.tollbooth.rail.pay(payment)
    dear = shop.client.get("/x", headers={PAYMENT_HEADER: payment, "X-Toll-Tier": "premium"})
    assert (dear.status_code, dear.json()["reason"]) == (402, "wrong_resource")
    assert shop.runs == 0
    assert shop.client.get("/x", headers={PAYMENT_HEADER: payment}).status_code == 200
    shop.tollbooth.assert_charged("10 sat")


def test_models_decide() -> None:
    shop = Shop(priced(models={"gpt-4o": "$0.05", "gpt-4o-mini": "$0.005"}, fallback="$0.02"))
    assert shop.asked(json={"model": "gpt-4o-2024-08-06"}) == ("$0.05", "model gpt-4o")
    assert shop.asked(json={"model": "gpt-4o-mini"}) == ("$0.005", "model gpt-4o-mini")
    assert shop.asked(json={"model": "claude-opus-4-5"}) == ("$0.03", "model claude-opus-4-5")
    assert shop.asked(json={"model": "mystery"}) == ("$0.02", "fallback")
    assert shop.asked() == ("$0.02", "fallback")


def app_with(price: Any, **settings: Any) -> tuple[FastAPI, Tollbooth]:
    app = FastAPI()
    booth = Tollbooth(TollboothSettings(_env_file=None, database_url="sqlite://", **settings))

    @app.post("/ai/claude", dependencies=[Depends(price)])
    async def claude() -> str:
        return "ok"

    return app, booth


RULES = [{"where": {"body.model": "x"}, "price": "$1"}]


@pytest.mark.parametrize(
    "price", [priced(match=RULES), priced(models={"x": "$1"}), priced(tiers={"x": "$1"}), priced()]
)
def test_rules_with_nothing_behind_them_name_their_route(price: Any) -> None:
    app, booth = app_with(price)
    with pytest.raises(ConfigurationError, match="POST /ai/claude"):
        booth.install(app)
    late = FastAPI()
    Tollbooth(TollboothSettings(_env_file=None, database_url="sqlite://")).install(late)
    late.include_router(app.router)
    with pytest.raises(ConfigurationError, match="POST /ai/claude"), TestClient(late):
        raise AssertionError("it started")
    assert TestClient(late, raise_server_exceptions=False).post("/ai/claude", json={}).status_code == 500
    app, booth = app_with(price, default_price="$0.09")
    booth.install(app)
    assert TestClient(app).post("/ai/claude", json={}).json()["price"] == "$0.09"


def test_what_was_quoted_holds_for_the_same_request_and_no_other() -> None:
    def rules(one: str) -> Any:
        return [{"where": {"body.n": 1}, "price": one}, {"where": {"body.n": 2}, "price": "$0.01"}]

    price = priced(match=rules("$0.01"), fallback="$9")
    shop = Shop(price)
    payment = shop.client.post("/x", json={"n": 1}).json()["fakePayment"]
    shop.tollbooth.rail.pay(payment)
    price.price = declare(match=rules("$0.02"), fallback="$9")
    headers = {PAYMENT_HEADER: payment}
    assert shop.client.post("/x", json={"n": 2}, headers=headers).json()["reason"] == "wrong_resource"
    assert shop.client.post("/x", json={"n": 1}, headers=headers).status_code == 200
    shop.tollbooth.assert_charged("$0.01")


@pytest.mark.parametrize("source", ["headers", "body", "query"])
def test_a_cheap_quote_of_a_function_does_not_buy_the_dear_variant(source: str) -> None:
    functions = {
        "headers": lambda headers: "$0.01" if headers.get("x-model") == "cheap" else "$5",
        "body": lambda body: "$0.01" if body == {"model": "cheap"} else "$5",
        "query": lambda query: "$0.01" if query.get("model") == "cheap" else "$5",
    }
    requests: dict[str, Any] = {
        "headers": lambda model: {"url": "/x", "headers": {"x-model": model}},
        "body": lambda model: {"url": "/x", "json": {"model": model}, "headers": {}},
        "query": lambda model: {"url": f"/x?model={model}", "headers": {}},
    }
    shop, request = Shop(priced(functions[source])), requests[source]
    payment = shop.client.post(**request("cheap")).json()["fakePayment"]
    shop.tollbooth.rail.pay(payment)

    def use(model: str) -> int:
        sent = request(model)
        sent["headers"][PAYMENT_HEADER] = payment
        return int(shop.client.post(**sent).status_code)

    assert use("dear") == 402
    assert use("cheap") == 200
    shop.tollbooth.assert_charged("$0.01")


def test_a_route_s_function_does_not_get_its_router_s_dependencies() -> None:
    def outer(session: Annotated[Session, Depends(session)]) -> str:
        return "$5"

    app, fake = FastAPI(), FakeTollbooth()
    fake.install(app)
    router = APIRouter(dependencies=[Depends(priced(outer))])

    @router.get("/x", dependencies=[Depends(priced(lambda query: "$2"))])
    async def x() -> str:
        return "ok"

    app.include_router(router)
    with PayingClient(app, fake) as client:
        assert client.get("/x").json() == "ok"
    fake.assert_charged("$2")


def test_a_cheap_quote_does_not_buy_the_dear_variant() -> None:
    shop = Shop(CLAUDE)
    payment = shop.client.post("/x", json={"model": "claude-haiku-4"}).json()["fakePayment"]
    shop.tollbooth.rail.pay(payment)
    dear = shop.client.post("/x", json={"model": "claude-opus-4"}, headers={PAYMENT_HEADER: payment})
    assert dear.status_code == 402
    assert shop.runs == 0


def test_openapi_says_the_prices_in_words_and_no_single_amount() -> None:
    operation = Shop(CLAUDE).client.get("/openapi.json").json()["paths"]["/x"]["post"]
    assert r"$0.005 when body.model is claude-haiku-\*" in operation["description"]
    assert "otherwise $0.015" in operation["description"]
    assert operation["x-payment-info"]["offers"][0]["amount"] is None
    assert "parameters" not in operation
    assert "requestBody" not in operation
