from typing import Any

import pytest

from fastapi_tollbooth import Money
from fastapi_tollbooth.price_list import describe, warnings_of
from fastapi_tollbooth.pricing import declare

HAIKU = {"where": {"body.model": "haiku-*"}, "price": "$0.005"}
OPUS = {"where": {"body.model": "opus-*"}, "price": "$0.075"}


@pytest.mark.parametrize(
    ("declaration", "warning"),
    [
        ({"match": [HAIKU]}, "match without a fallback"),
        ({"match": [HAIKU, OPUS], "fallback": "$0.001"}, "cheaper than the cheapest rule"),
        ({"price": "$0"}, "free, and without a rate limit"),
        ({"price": lambda: None}, "without max_price"),
        ({"price": "$1", "match": [HAIKU], "fallback": "$1"}, "never reached"),
    ],
)
def test_warnings(declaration: dict[str, Any], warning: str) -> None:
    assert any(warning in found for found in warnings_of(declare(**declaration), None))
    assert warnings_of(declare(match=[HAIKU, OPUS], fallback="$0.075"), None) == []


def test_a_route_is_described_with_its_range() -> None:
    listed = describe("/ai", {"POST"}, declare(match=[HAIKU, OPUS], fallback="$0.015"), None)
    assert (listed.lowest, listed.highest, listed.fallback) == (
        Money.parse("$0.005"),
        Money.parse("$0.075"),
        Money.parse("$0.015"),
    )
    assert listed.is_total
    assert not describe("/ai", None, declare(match=[HAIKU]), None).is_total
    assert describe("/ai", None, declare(match=[HAIKU]), Money.parse("$1")).is_total
    unknown = describe("/ai", None, declare(lambda: None, max_price="$2"), None)
    assert (unknown.methods, unknown.lowest, unknown.highest) == ("WEBSOCKET", None, Money.parse("$2"))
    assert describe("/x", {"GET"}, declare(tiers={"default": "1 sat", "b": "$1"}), None).lowest is None
