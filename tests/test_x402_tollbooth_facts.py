"""What x402-tollbooth's own tests say of prices, as far as we keep it, each under its id.

What we do otherwise is in ``docs/migrate-x402-tollbooth.md``.
"""

import re
from typing import Any

import pytest

from fastapi_tollbooth import Money, priced
from fastapi_tollbooth.models import built_in
from tests.shop import Shop

CLAUDE = [
    {"where": {"body.model": "claude-haiku-*"}, "price": "$0.005"},
    {"where": {"body.model": "claude-sonnet-*"}, "price": "$0.015"},
]
MODELS = {"gpt-4o": "$0.05", "my-custom-model": "$0.02"}


@pytest.mark.parametrize(
    ("match", "request_", "rule"),
    [
        pytest.param(CLAUDE, {"json": {"model": "claude-haiku-4-5-20251001"}}, "match[0]", id="matcher.01"),
        pytest.param(CLAUDE, {"json": {"model": "claude-sonnet-4-5"}}, "match[1]", id="matcher.02"),
        pytest.param(CLAUDE, {"json": {"model": "gpt-4o"}}, "fallback", id="matcher.03"),
        pytest.param(
            [{"where": {"query.format": "csv"}, "price": "$1"}], {"url": "/x?format=csv"}, "match[0]", id="matcher.04"
        ),
        pytest.param(
            [{"where": {"body.options.stream": True}, "price": "$1"}],
            {"json": {"options": {"stream": True}}},
            "match[0]",
            id="matcher.05",
        ),
        pytest.param(
            [
                {"where": {"body.model": "claude-*"}, "price": "$1"},
                {"where": {"body.model": "claude-opus-*"}, "price": "$2"},
            ],
            {"json": {"model": "claude-opus-4"}},
            "match[0]",
            id="matcher.06",
        ),
    ],
)
def test_matcher(match: Any, request_: dict[str, Any], rule: str) -> None:
    assert Shop(priced(match=match, fallback="$9")).asked(**request_)[1] == rule


@pytest.mark.parametrize(
    ("text", "micro"),
    [
        pytest.param("$0.01", 10_000, id="pricing.01"),
        pytest.param("$1.00", 1_000_000, id="pricing.03"),
        pytest.param("$0.001", 1_000, id="pricing.04"),
        pytest.param("$0.00", 0, id="pricing.07"),
    ],
)
def test_pricing(text: str, micro: int) -> None:
    assert Money.parse(text).amount == micro


@pytest.mark.parametrize(
    ("body", "price"),
    [
        pytest.param({"model": "gpt-4o", "messages": []}, "$0.05", id="openai-route.01,11"),
        pytest.param({"model": "gpt-4o", "prompt": ""}, "$0.05", id="openai-route.02"),
        pytest.param({"messages": []}, "$0.003", id="openai-route.03"),
        pytest.param({"model": ""}, "$0.003", id="openai-route.04"),
        pytest.param({"model": 4}, "$0.003", id="openai-route.05"),
        pytest.param(None, "$0.003", id="openai-route.06,07"),
        pytest.param("gpt-4o", "$0.003", id="openai-route.08"),
        pytest.param({"model": "my-custom-model"}, "$0.02", id="openai-route.12"),
        pytest.param({"model": "unknown"}, "$0.003", id="openai-route.15"),
        pytest.param({"model": "gpt-4o-mini"}, "$0.05", id="openai-route.10-longest-prefix-of-the-route-s-own-table"),
    ],
)
def test_models(body: Any, price: str) -> None:
    assert Shop(priced(models=MODELS, fallback="$0.003")).asked(json=body)[0] == price


def test_models_behind_the_route_s_table() -> None:
    """openai-route.09, .10, .13, .14, .19, .20"""
    table = built_in().prices
    shop = Shop(priced("$0.005", models={"mine": "$1"}))
    assert shop.asked(json={"model": "gpt-4o"}) == (str(table["gpt-4o"]), "model gpt-4o")
    assert shop.asked(json={"model": "gpt-4o-mini"}) == (str(table["gpt-4o-mini"]), "model gpt-4o-mini")
    assert shop.asked(json={"model": "unknown"}) == ("$0.005", "price")
    assert {"gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo"} <= set(table)
    assert all(re.fullmatch(r"\$\d+\.\d+", str(price)) for price in table.values())


@pytest.mark.parametrize(
    ("price", "reads"),
    [
        pytest.param(priced(models=MODELS), True, id="openai-route.21"),
        pytest.param(priced("$1"), False, id="openai-route.23"),
        pytest.param(priced(match=CLAUDE), True, id="openai-route.24"),
    ],
)
def test_who_reads_the_body(price: Any, reads: bool) -> None:
    assert price.price.reads_body is reads


@pytest.mark.parametrize("price", [pytest.param("$0", id="free-route.01"), pytest.param("$0.00", id="free-route.02")])
def test_free_routes(price: str) -> None:
    shop = Shop(priced(price))
    assert shop.client.post("/x", content=b"exact \x00 bytes").status_code == 200
    assert shop.runs == 1


def test_a_priced_route_is_402() -> None:
    """free-route.03"""
    assert Shop(priced("$1")).asked() == ("$1.00", "price")
