"""Which declared prices the rails can be paid: a token may not be able to express a price, and nothing is rounded.

A rail that cannot be paid every price says so in an optional method, ``takes(price) -> bool``.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.price_list import PricedRoute
from fastapi_tollbooth.rails import Rail

MEND = "declare a price that its token can express, or configure another token or rail"


def takes(rail: Rail[Any], price: Money) -> bool:
    """Whether a rail can be paid this price."""
    asked = getattr(rail, "takes", None)
    return asked is None or bool(asked(price))


def left_out(route: PricedRoute, rails: Sequence[Rail[Any]]) -> list[str]:
    """For each declared amount that some rail can take and another cannot: which one is left out of its 402."""
    return [
        f"{rail.name} cannot be paid {amount} and is left out of its 402"
        for amount in _asked(route)
        if any(takes(rail, amount) for rail in rails)
        for rail in rails
        if not takes(rail, amount)
    ]


def with_rails(route: PricedRoute, rails: Sequence[Rail[Any]]) -> PricedRoute:
    """A route with a warning for each rail that is left out of a 402."""
    return route._replace(warnings=(*route.warnings, *left_out(route, rails)))


def require_payable(prices: Iterable[PricedRoute], rails: Sequence[Rail[Any]]) -> None:
    """Make sure that every declared price can be paid in some way.

    Raises:
        ConfigurationError: names the routes, and the amounts that no rail can take.
    """
    found = [
        f"{amount} on {route.methods} {route.path}"
        for route in prices
        for amount in _asked(route)
        if not any(takes(rail, amount) for rail in rails)
    ]
    if found:
        raise ConfigurationError("inexpressible_price", f"no configured token can express {', '.join(found)}: {MEND}")


def _asked(route: PricedRoute) -> list[Money]:
    return [amount for amount in dict.fromkeys(route.amounts) if not amount.is_zero]
