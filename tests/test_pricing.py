"""The pricing language without HTTP: declarations, resolution order, introspection."""

from decimal import Decimal
from typing import Any

import pytest

from fastapi_tollbooth import ConfigurationError, Money, Rule
from fastapi_tollbooth.errors import AmbiguousRequest, PricingFailed
from fastapi_tollbooth.facts import Facts
from fastapi_tollbooth.pricing import Decision, declare

NOTHING = Facts()
HAIKU = {"where": {"body.model": "haiku-*"}, "price": "$0.005"}
OPUS = {"where": {"body.model": "opus-*"}, "price": "$0.075"}


def dollars(text: str) -> Money:
    return Money.parse(text)


def resolve(price: Any, facts: Facts = NOTHING, computed: Any = None, default: str | None = None) -> Decision:
    behind = Money.parse(default) if default else None
    return price.decide(facts) or price.settle(price.computed(computed), behind)  # type: ignore[no-any-return]


def body(**members: Any) -> Facts:
    return Facts(body=members)


def test_a_static_price_is_known_and_needs_no_body() -> None:
    price = declare("$0.01")
    assert price.known == dollars("$0.01")
    assert price.sources == frozenset()
    assert not price.reads_body
    assert str(price) == "$0.01"
    assert declare(fallback="$0.02").known == dollars("$0.02")


def test_the_first_rule_that_matches_wins() -> None:
    price = declare(match=[{"where": {"body.model": "*"}, "price": "$1"}, HAIKU], fallback="$0.015")
    assert resolve(price, body(model="haiku-4")) == Decision(dollars("$1"), "match[0]")
    assert resolve(declare(match=[HAIKU, Rule(where={}, price="$2")]), body()) == Decision(dollars("$2"), "match[1]")


@pytest.mark.parametrize(
    ("declaration", "default", "decided"),
    [
        ({"price": "$1", "fallback": "$2"}, "$3", ("$1", "price")),
        ({"fallback": "$2"}, "$3", ("$2", "fallback")),
        ({}, "$3", ("$3", "default")),
    ],
)
def test_what_no_rule_matches_goes_down_the_order(
    declaration: dict[str, Any], default: str, decided: tuple[str, str]
) -> None:
    price = declare(**declaration, match=[HAIKU])
    assert resolve(price, body(model="haiku-1")).rule == "match[0]"
    found = resolve(price, body(model="other"), default=default)
    assert (found.price, found.rule) == (dollars(decided[0]), decided[1])


def test_nothing_behind_the_rules_is_never_free() -> None:
    with pytest.raises(PricingFailed):
        resolve(declare(match=[HAIKU]), body(model="other"))


def test_a_function_that_returns_none_leaves_it_to_the_fallback() -> None:
    price = declare(lambda: None, fallback="$0.02")
    assert resolve(price) == Decision(dollars("$0.02"), "fallback")
    assert resolve(price, computed="$0.5") == Decision(dollars("$0.5"), "function")


@pytest.mark.parametrize(
    ("result", "price"),
    [
        ("$0.01", "$0.01"),
        (1, "$1"),
        (0.015, "$0.015"),
        (Decimal("0.0000001"), "$0.000001"),
        (Money.parse("21 sat"), "21 sat"),
        ("$0", "$0"),
        (Money.parse("0 sat"), "0 sat"),
    ],
)
def test_what_a_function_may_return(result: Any, price: str) -> None:
    assert declare(lambda: None).computed(result) == dollars(price)


@pytest.mark.parametrize(
    "result", [-1, float("nan"), float("inf"), 1e30, "free", "", [], {}, True, False, 0, 0.0, b"$1", object()]
)
def test_what_a_function_may_not_return(result: Any) -> None:
    with pytest.raises(ConfigurationError):
        declare(lambda: None).computed(result)


def test_a_function_is_capped() -> None:
    price = declare(lambda: None, max_price="$1")
    assert price.computed("$1") == dollars("$1")
    for result in ("$1.000001", 2, "1 sat"):
        with pytest.raises(ConfigurationError, match="max_price"):
            price.computed(result)


def tier(*values: str) -> Facts:
    return Facts(headers={"x-toll-tier": list(values)})


def test_tiers() -> None:
    price = declare(tiers={"default": "10 sat", "premium": "42 sat"})
    assert resolve(price) == Decision(dollars("10 sat"), "tier", "default")
    assert resolve(price, tier("premium")) == Decision(dollars("42 sat"), "tier", "premium")
    for wrong in ("gold", "", "Premium", "constructor", "__proto__", "premium "):
        with pytest.raises(AmbiguousRequest, match="default, premium") as refused:
            resolve(price, tier(wrong))
        assert refused.value.reason == "unknown_tier"
    with pytest.raises(AmbiguousRequest):
        resolve(price, tier("premium", "default"))
    named = declare(tiers={"a": "$1"}, tier_header="X-Plan", fallback="$2")
    assert resolve(named, Facts(headers={"x-plan": ["a"]})).tier == "a"
    assert resolve(named) == Decision(dollars("$2"), "fallback")


@pytest.mark.parametrize(
    ("model", "decided"),
    [
        ("gpt-4o", ("$0.05", "model gpt-4o")),
        ("gpt-4o-2024-08-06", ("$0.05", "model gpt-4o")),
        ("mine", ("$0.02", "model mine")),
        ("claude-opus-4-5-20251101", ("$0.03", "model claude-opus-4-5")),
        ("nobody-s", ("$0.003", "fallback")),
        ("", ("$0.003", "fallback")),
        (7, ("$0.003", "fallback")),
        (None, ("$0.003", "fallback")),
    ],
)
def test_models(model: Any, decided: tuple[str, str]) -> None:
    price = declare(models={"gpt-4o": "$0.05", "mine": "$0.02"}, fallback="$0.003")
    found = resolve(price, body(model=model))
    assert (found.price, found.rule) == (dollars(decided[0]), decided[1])
    assert resolve(price, Facts(body=None)).rule == resolve(price, Facts(body="gpt-4o")).rule == "fallback"


@pytest.mark.parametrize(
    "declaration",
    [
        {"price": 0.01},
        {"price": "0.01"},
        {"price": b"$1"},
        {"match": []},
        {"match": [{}]},
        {"match": [{"where": {}}]},
        {"match": [{"where": {}, "price": "$1", "payTo": "x"}]},
        {"match": ["$1"]},
        {"match": [HAIKU], "models": {"a": "$1"}},
        {"tiers": {}},
        {"tiers": {"default": "cheap"}},
        {"models": {}},
        {"price": "$2", "max_price": "$1"},
        {"match": [OPUS], "fallback": "$0.001", "max_price": "$0.05"},
        {"price": "1 sat", "max_price": "$1"},
    ],
)
def test_what_cannot_mean_anything_is_refused_at_declaration(declaration: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        declare(**declaration)


def test_prices_in_words() -> None:
    assert str(declare(match=[HAIKU, OPUS], fallback="$0.015")) == (
        "$0.005 when body.model is haiku-*; $0.075 when body.model is opus-*; otherwise $0.015"
    )
    assert str(declare(tiers={"default": "10 sat"})) == "10 sat for tier default"
    assert str(declare(models={"gpt-4o": "$0.05"})) == "$0.05 for model gpt-4o"
    assert str(declare(lambda: None, max_price="$1")) == "a price that depends on the request (at most $1.00)"
    assert str(declare()) == "the service's default price"
