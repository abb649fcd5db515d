"""Attacks on prices, each named by its id in the project's list of attacks (A17 to A29)."""

import math
import time
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from fastapi_tollbooth import Asset, ConfigurationError, Money, priced
from fastapi_tollbooth.ledger.book import apply
from fastapi_tollbooth.ledger.operations import Authorize, Fund, Reason, Refused
from fastapi_tollbooth.ledger.records import Book, Payment
from fastapi_tollbooth.money import MAX_AMOUNT, Rate
from fastapi_tollbooth.testing import FakeTollbooth
from tests.shop import Shop

CHEAP, DEAR = "claude-haiku-4", "claude-opus-4"
BY_MODEL = priced(
    match=[
        {"where": {"body.model": "claude-haiku-*"}, "price": "$0.005"},
        {"where": {"body.model": "claude-opus-*"}, "price": "$0.075"},
    ],
    fallback="$0.1",
)
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("body", ['{"model":"%s","model":"%s"}', '{"model":"%s","\\u006dodel":"%s"}'])
@pytest.mark.parametrize("models", [(CHEAP, DEAR), (DEAR, CHEAP)])
def test_a17_duplicate_json_keys(body: str, models: tuple[str, str]) -> None:
    shop = Shop(BY_MODEL)
    assert shop.asked(content=body % models, headers=JSON) == ("400", "ambiguous_request")
    assert shop.pay(content=body % models, headers=JSON).status_code == 400
    assert shop.runs == 0


@pytest.mark.parametrize("padding", [60_000, 70_000, 1_000_000])
def test_a18_a_price_field_behind_a_wall_of_padding(padding: int) -> None:
    content = '{"pad":"%s","model":"%s"}' % ("x" * padding, DEAR)  # noqa: UP031 - braces
    expected = ("$0.075", "match[1]") if padding < 65_000 else ("413", "body_too_large")
    assert Shop(BY_MODEL).asked(content=content, headers=JSON) == expected


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/json5"]
)
def test_a19_content_type_confusion_never_finds_a_cheaper_price(content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert Shop(BY_MODEL).asked(content=f'{{"model":"{CHEAP}"}}', headers=headers) == ("$0.10", "fallback")
    assert Shop(BY_MODEL).asked(content=f"model={CHEAP}", headers=headers) == ("$0.10", "fallback")


def test_a20_duplicate_query_parameters_and_headers() -> None:
    price = priced(
        match=[{"where": {"query.n": 1}, "price": "$1"}, {"where": {"headers.x-n": 1}, "price": "$2"}], fallback="$9"
    )
    assert Shop(price).asked(url="/x?n=1&n=99") == ("400", "ambiguous_request")
    assert Shop(price).asked(url="/x?n=99&n=1") == ("400", "ambiguous_request")
    assert Shop(price).asked(url="/x?n=1&%6e=99") == ("400", "ambiguous_request")
    assert Shop(price).asked(headers=[("x-n", "1"), ("X-N", "99")]) == ("400", "ambiguous_request")


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": "unknown"}, {"model": {}}, [], None, 0, "x"])
def test_a21_what_no_rule_knows_is_never_free(body: Any) -> None:
    assert Shop(BY_MODEL).asked(json=body) == ("$0.10", "fallback")
    unfinished = Shop(priced(match=[{"where": {"body.model": "x"}, "price": "$1"}]))
    with pytest.raises(ConfigurationError, match="fallback"), TestClient(unfinished.app):
        raise AssertionError("it started")
    assert unfinished.client.post("/x", json=body).status_code == 500
    assert unfinished.runs == 0


@pytest.mark.parametrize(
    "path",
    [
        "/paid/x",
        "/paid/x/",
        "//paid/x",
        "/paid//x",
        "/paid/./x",
        "/paid/%78",
        "/pai%64/x",
        "/paid%2Fx",
        "/paid/x;a=b",
        "/PAID/x",
        "/paid/x%00",
        "/paid/..%2fx",
        "/%2e/paid/x",
        "/paid/x?a=b#c",
    ],
)
def test_a22_no_spelling_of_a_path_reaches_the_handler_unpaid(path: str) -> None:
    runs: list[str] = []
    app = FastAPI()
    FakeTollbooth().install(app)

    @app.get("/paid/{name:path}", dependencies=[Depends(priced("$0.01"))])
    async def paid(name: str) -> str:
        runs.append(name)
        return "secret"

    response = TestClient(app, follow_redirects=True).get(path)
    assert response.status_code in (402, 404)
    assert runs == []


def test_a23_head_is_priced_and_options_is_free_and_effect_free() -> None:
    app, fake, runs = FastAPI(), FakeTollbooth(), list[str]()
    fake.install(app)

    @app.api_route("/x", methods=["GET", "HEAD", "OPTIONS"], dependencies=[Depends(priced("$0.01"))])
    async def x() -> str:
        runs.append("x")
        return "ok"

    client = TestClient(app)
    assert [client.request(method, "/x").status_code for method in ("GET", "HEAD", "OPTIONS")] == [402, 402, 200]
    assert runs == []
    fake.assert_not_charged()


@pytest.mark.parametrize("pattern", ["a*a*a*a*b", "*a*a*a*a*a*a*a*b", "**********b"])
def test_a25_no_value_makes_a_glob_slow(pattern: str) -> None:
    shop = Shop(priced(match=[{"where": {"body.x": pattern}, "price": "$1"}], fallback="$2"))
    started = time.perf_counter()
    assert shop.asked(json={"x": "a" * 64_000})[0] == "$2.00"
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "model",
    [
        "ｃlaude-haiku-4",
        "claude\u2010haiku-4",
        "CLAUDE-HAIKU-4",
        "claude-haiku\u200b-4",
        "сlaude-haiku-4",
        "claude-haıku-4",
    ],
)
def test_a26_look_alikes_are_other_models(model: str) -> None:
    assert Shop(BY_MODEL).asked(json={"model": model}) == ("$0.10", "fallback")


@pytest.mark.parametrize(
    "text", ["-$1", "$-1", "$NaN", "$Infinity", "$1e400", "$1_000", "$١", "$ 1", "$0.0000001", "free", ""]
)
def test_a27_prices_that_are_no_prices(text: str) -> None:
    with pytest.raises(ConfigurationError):
        priced(text)
    response = Shop(priced(lambda: text)).client.post("/x")
    assert (response.status_code, response.json()["reason"]) == (500, "pricing_failed")


@pytest.mark.parametrize("number", [-0.01, math.nan, math.inf, 0, -0.0, 1e400])
def test_a27_numbers_that_are_no_prices(number: float) -> None:
    shop = Shop(priced(lambda: number))
    assert shop.client.post("/x").status_code == 500
    assert shop.runs == 0


@given(st.integers(1, 10**7), st.integers(1, 200), st.integers(10**9, 10**12))
def test_a28_rounding_never_pays_the_caller(amount: int, times: int, micro_usd: int) -> None:
    rate, price = Rate(micro_usd), Money(amount, Asset.USD)
    one_by_one = sum(rate.convert_up(price, Asset.BTC).amount for _ in range(times))
    assert one_by_one >= rate.convert_up(price * times, Asset.BTC).amount
    assert rate.convert_down(rate.convert_up(price, Asset.BTC), Asset.USD).amount >= amount


def test_a29_amounts_do_not_overflow() -> None:
    from datetime import UTC, datetime

    for text in ("$9223372036854.775808", "9223372036854775808 msat", "$99999999999999999999"):
        with pytest.raises(ConfigurationError):
            priced(text)
    assert Shop(priced(lambda: 1e15)).client.post("/x").status_code == 500
    book = Book(datetime.now(UTC), 1)
    most = Money(MAX_AMOUNT, Asset.USD)
    apply(book, Fund("a", most, Payment("l402", "1", 1, Asset.BTC, "a")))
    assert apply(book, Fund("a", Money(1, Asset.USD), Payment("l402", "2", 1, Asset.BTC, "a"))) == Refused(
        Reason.TOO_LARGE, most
    )
    assert apply(book, Authorize("a", most, "/")) != Refused(Reason.INSUFFICIENT, most)
