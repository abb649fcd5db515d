from typing import Any

import pytest

from fastapi_tollbooth import ConfigurationError, Money
from fastapi_tollbooth.terms import FreeTier, RateLimit, Window


def usd(text: str) -> Money:
    return Money.parse(text)


def test_a_free_tier_of_requests_covers_any_price() -> None:
    tier = FreeTier(requests=3)
    assert [tier.cost(usd(price)) for price in ("$0.01", "$100", "21 sat")] == [1, 1, 1]
    assert [tier.remaining(used) for used in (0, 2, 3, 4)] == ["3", "1", "0", "0"]
    assert str(tier) == "3 requests"


def test_a_free_tier_of_credits_covers_prices_in_its_asset_up_to_its_worth() -> None:
    tier = FreeTier(credits="$0.05")
    assert tier.cost(usd("$0.02")) == 20_000
    assert tier.cost(usd("$0.05")) == tier.limit == 50_000
    assert tier.cost(usd("$0.06")) is None
    assert tier.cost(usd("1 sat")) is None
    assert tier.remaining(20_000) == "$0.03"
    assert tier == FreeTier(credits=usd("$0.05"))


@pytest.mark.parametrize(
    "arguments", [{}, {"requests": 1, "credits": "$1"}, {"requests": 0}, {"requests": -1}, {"credits": "$0"}]
)
def test_a_free_tier_gives_one_thing(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        FreeTier(**arguments)


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("10/second", [Window(10, 1)]),
        ("10 per minute", [Window(10, 60)]),
        ("100/5 minutes", [Window(100, 300)]),
        ("1 per 2 hours", [Window(1, 7_200)]),
        ("10/second; 300/minute", [Window(10, 1), Window(300, 60)]),
        (" 1/day ", [Window(1, 86_400)]),
    ],
)
def test_rate_limits_are_read(text: str, windows: list[Window]) -> None:
    limit = RateLimit.parse(text)
    assert limit is not None
    assert list(limit.windows) == windows


def test_off_is_no_limit() -> None:
    assert RateLimit.parse("off") is None


@pytest.mark.parametrize(
    "text", ["", "10", "0/second", "-1/second", "10/fortnight", "10/second;", "1e3/second", "10/0 seconds", "¹/second"]
)
def test_nonsense_is_not_a_rate_limit(text: str) -> None:
    with pytest.raises(ConfigurationError, match="rate limit"):
        RateLimit.parse(text)
