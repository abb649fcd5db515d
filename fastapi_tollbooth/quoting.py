"""What one request costs."""

from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import HTTPConnection

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.price_list import PricedRoute
from fastapi_tollbooth.pricing import RoutePrice
from fastapi_tollbooth.request_facts import facts_of
from fastapi_tollbooth.routes import template_of
from fastapi_tollbooth.toll import Quote

Compute = Callable[[], Awaitable[Money | None]]
"""Runs a route's pricing function; None where it leaves the price to the fallback."""


def standing(price: RoutePrice, connection: HTTPConnection, client: str) -> Quote | None:
    """What a request costs whose price is the same for all; None where it depends on the request."""
    if price.known is None:
        return None
    route = template_of(connection.scope)
    return Quote(price.known, route, client, "price", "price", None, None, price.terms, connection)


async def quoted(
    price: RoutePrice, connection: HTTPConnection, client: str, default: Money | None, compute: Compute | None
) -> Quote:
    """What this request costs: rules, tiers or models first, then the price, the fallback, the default.

    Raises:
        AmbiguousRequest: the request gives a value that decides more than once, or names an unknown tier.
        PricingFailed: the owner's pricing function failed, or nothing stands behind the rules.
    """
    route = template_of(connection.scope)
    decision = price.decide(await facts_of(connection, price)) if price.sources else None
    computed = await compute() if decision is None and compute is not None else None
    if decision is None:
        decision = price.settle(computed, default)
    # Alike are the requests of one tier or one named part of the declaration; a function's, when their price is.
    variant = f"{decision.rule} {decision.tier if computed is None else computed}"
    return Quote(
        decision.price, route, client, decision.rule, variant, decision.tier, price.tiers, price.terms, connection
    )


def require_total(prices: Iterable[PricedRoute]) -> None:
    """Make sure that every request to every priced route has a price.

    Raises:
        ConfigurationError: names the routes that have rules with nothing behind them.
    """
    bare = [f"{route.methods} {route.path}" for route in prices if not route.is_total]
    if bare:
        raise ConfigurationError(
            "no_fallback",
            f"no price is left for what no rule matches on {', '.join(bare)}: give priced(...) a fallback, "
            "or set TOLLBOOTH_DEFAULT_PRICE",
        )
