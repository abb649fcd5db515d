"""The list of an application's prices as its owner reads it: ranges in words, and what to look at twice. Pure."""

from collections.abc import Collection
from typing import NamedTuple

from fastapi_tollbooth.money import Money
from fastapi_tollbooth.pricing import Kind, RoutePrice


def warnings_of(price: RoutePrice, default: Money | None, limited: bool = False) -> list[str]:
    """What an owner should look at twice. ``limited``: whether free requests have a rate limit by default."""
    found = []
    backed = price.static if price.static is not None else price.fallback
    if price.rules and backed is None:
        found.append("match without a fallback on the route itself")
    prices = [rule.price for rule in price.rules] + list((price.models or {}).values())
    comparable = [amount for amount in prices if backed is not None and amount.asset is backed.asset]
    if backed is not None and comparable and all(backed < amount for amount in comparable):
        found.append(f"the fallback {backed} is cheaper than the cheapest rule: whatever no rule knows gets it")
    if price.static is not None and price.fallback is not None:
        found.append("the fallback is never reached behind a price")
    if price.function is not None and price.max_price is None:
        found.append("a pricing function without max_price")
    is_free = any(amount.is_zero for amount in price.amounts()) or (
        not price.is_total and default is not None and default.is_zero
    )
    if is_free and price.terms.rate_limit is None and not limited:
        found.append("free, and without a rate limit")
    return found


class PricedRoute(NamedTuple):
    """A route and its price, as `Tollbooth.prices` lists them: ``amounts`` are all it names; bounds may be None."""

    methods: str
    path: str
    kind: Kind
    price: str
    lowest: Money | None
    highest: Money | None
    fallback: Money | None
    warnings: tuple[str, ...]
    is_total: bool
    amounts: tuple[Money, ...] = ()


def describe(
    path: str, methods: Collection[str] | None, price: RoutePrice, default: Money | None, limited: bool = False
) -> PricedRoute:
    """A route's entry in the list of prices."""
    amounts = [*price.amounts(), *([default] if default is not None and not price.is_total else [])]
    bounded = amounts if price.function is None and len({amount.asset for amount in amounts}) == 1 else []
    return PricedRoute(
        methods=",".join(sorted(methods or ("WEBSOCKET",))),
        path=path,
        kind=price.kind,
        price=str(price),
        lowest=min(bounded, key=lambda amount: amount.amount, default=None),
        highest=price.max_price or max(bounded, key=lambda amount: amount.amount, default=None),
        fallback=price.fallback,
        warnings=tuple(warnings_of(price, default, limited)),
        is_total=price.is_total or price.function is not None or default is not None,
        amounts=tuple(amounts),
    )
