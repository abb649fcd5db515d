"""What a request costs. Pure: request facts in, money out; no I/O, no framework.

A `RoutePrice` is what ``priced(...)`` declares on a route. It is resolved in a fixed order, and never to nothing:

    match, tiers or models  ─▶  price (an amount or a function)  ─▶  fallback  ─▶  TOLLBOOTH_DEFAULT_PRICE

Where several are declared for one request (on the app, the router and the route), the most specific one decides.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, NamedTuple

from fastapi_tollbooth.errors import AmbiguousRequest, ConfigurationError, PricingFailed
from fastapi_tollbooth.facts import MISSING, Facts, Source
from fastapi_tollbooth.models import built_in, find_model
from fastapi_tollbooth.money import Money, money_of
from fastapi_tollbooth.rules import Rule, parse_rule
from fastapi_tollbooth.terms import FreeTier, RateLimit, Settle, Terms, parse_top_up

Kind = Literal["static", "match", "function", "tiers", "models", "default"]
FACT_NAMES = ("body", "headers", "query", "params", "request")
DEFAULT_TIER = "default"


class Decision(NamedTuple):
    """A price, which part of the declaration decided it, and the tier that was chosen, if the route has tiers."""

    price: Money
    rule: str
    tier: str | None = None


@dataclass(frozen=True, eq=False)
class RoutePrice:
    """The declared price of a route; `declare` makes and checks it."""

    static: Money | None = None
    rules: tuple[Rule, ...] = ()
    function: Callable[..., Any] | None = None
    tiers: Mapping[str, Money] | None = None
    tier_header: str = "x-toll-tier"
    models: Mapping[str, Money] | None = None
    fallback: Money | None = None
    max_price: Money | None = None
    description: str | None = None
    terms: Terms = Terms()  # noqa: RUF009 - immutable

    @property
    def kind(self) -> Kind:
        """The part of the declaration that is asked first."""
        if self.rules:
            return "match"
        if self.tiers is not None:
            return "tiers"
        if self.models is not None:
            return "models"
        if self.function is not None:
            return "function"
        return "default" if self.known is None else "static"

    @cached_property
    def known(self) -> Money | None:
        """The price, where it is the same for every request."""
        dynamic = self.rules or self.tiers is not None or self.models is not None or self.function is not None
        return None if dynamic else (self.static if self.static is not None else self.fallback)

    @cached_property
    def reads_body(self) -> bool:
        """Whether the price depends on the request's body, so that it must be read before the caller is answered."""
        return "body" in self.sources or not {"body", "request"}.isdisjoint(self.function_facts)

    @cached_property
    def sources(self) -> frozenset[Source]:
        """What match rules, tiers or models read."""
        found = {source for rule in self.rules for source in rule.sources}
        if self.tiers is not None:
            found.add("headers")
        if self.models is not None:
            found.add("body")
        return frozenset(found)

    @cached_property
    def function_facts(self) -> tuple[str, ...]:
        """The facts that the pricing function asks for by name."""
        if self.function is None:
            return ()
        return tuple(name for name in inspect.signature(self.function).parameters if name in FACT_NAMES)

    @property
    def is_total(self) -> bool:
        """Whether every request has a price even when there is no default."""
        return (
            self.static is not None
            or self.fallback is not None
            or (self.tiers is not None and DEFAULT_TIER in self.tiers)
        )

    def amounts(self) -> Iterator[Money]:
        """Every amount that the declaration names."""
        yield from (rule.price for rule in self.rules)
        yield from (self.tiers or {}).values()
        yield from (self.models or {}).values()
        yield from (amount for amount in (self.static, self.fallback) if amount is not None)

    def decide(self, facts: Facts) -> Decision | None:
        """What match rules, tiers or models say of a request; None when it is for the rest of the order to decide.

        Raises:
            AmbiguousRequest: a value that decides is given twice, or the tier is unknown.
        """
        if self.rules:
            return self._match(facts)
        if self.tiers is not None:
            return self._tier(self.tiers, facts)
        if self.models is not None:
            return _model(self.models, facts)
        return None

    def settle(self, computed: Money | None, default: Money | None) -> Decision:
        """What the rest of the order says: the function's result or the amount, the fallback, the default.

        Raises:
            PricingFailed: there is nothing behind the rules.
        """
        if computed is not None:
            return Decision(computed, "function")
        if self.static is not None:
            return Decision(self.static, "price")
        if self.fallback is not None:
            return Decision(self.fallback, "fallback")
        if default is not None:
            return Decision(default, "default")
        raise PricingFailed("no_price", "The service has no price for this request. Nothing was charged.")

    def computed(self, result: Any) -> Money | None:
        """What a pricing function's result means: money, its text, a number of dollars, or None for the fallback.

        Raises:
            ConfigurationError: the result is none of these, or is above ``max_price``.
        """
        if result is None:
            return None
        if isinstance(result, Money):
            price = result
        elif isinstance(result, str):
            price = Money.parse(result)
        elif isinstance(result, int | float | Decimal):
            price = Money.dollars(result)
            if price.is_zero:
                raise ConfigurationError(
                    "computed_no_price", 'the function computed a price of zero; return "$0" where it is to be free'
                )
        else:
            raise ConfigurationError(
                "computed_no_price",
                f"the function returned {type(result).__name__}, which is not a price: return Money, text or a "
                "number of dollars",
            )
        _require_at_most(price, self.max_price, "the function's price")
        return price

    def _match(self, facts: Facts) -> Decision | None:
        for rule in self.rules:
            rule.look_at(facts)
        for number, rule in enumerate(self.rules):
            if rule.matches(facts):
                return Decision(rule.price, f"match[{number}]")
        return None

    def _tier(self, tiers: Mapping[str, Money], facts: Facts) -> Decision | None:
        tier = facts.look_up("headers", (self.tier_header,))
        if tier is MISSING:
            return Decision(tiers[DEFAULT_TIER], "tier", DEFAULT_TIER) if DEFAULT_TIER in tiers else None
        if tier not in tiers:
            known = ", ".join(tiers)
            raise AmbiguousRequest("unknown_tier", f"There is no such tier. {self.tier_header} may be one of: {known}.")
        return Decision(tiers[tier], "tier", tier)

    def __str__(self) -> str:
        if self.known is not None:
            return f"up to {self.known}" if self.terms.metered else str(self.known)
        parts = [str(rule) for rule in self.rules]
        parts += [f"{amount} for tier {tier}" for tier, amount in (self.tiers or {}).items()]
        parts += [f"{amount} for model {model}" for model, amount in (self.models or {}).items()]
        if self.function is not None:
            parts.append("a price that depends on the request")
        rest = self.static if self.static is not None else self.fallback
        if rest is not None:
            parts.append(f"otherwise {rest}")
        most = f" (at most {self.max_price})" if self.max_price is not None else ""
        return ("up to " if self.terms.metered else "") + ("; ".join(parts) or "the service's default price") + most


def declare(
    price: str | Money | Callable[..., Any] | None = None,
    *,
    match: Any = None,
    tiers: Mapping[str, str | Money] | None = None,
    tier_header: str = "X-Toll-Tier",
    models: Mapping[str, str | Money] | None = None,
    fallback: str | Money | None = None,
    max_price: str | Money | None = None,
    description: str | None = None,
    free_tier: FreeTier | Literal[False] | None = None,
    rate_limit: str | None = None,
    settle: Settle | None = None,
    metered: bool = False,
    top_up: int | str | Money | None = None,
) -> RoutePrice:
    """A checked `RoutePrice`.

    Raises:
        ConfigurationError: the declaration cannot mean anything, or names an amount above ``max_price``.
    """
    if sum(part is not None for part in (match, tiers, models)) > 1:
        raise ConfigurationError(
            "two_kinds_of_price", "a price has one of match, tiers and models: leave the others out"
        )
    if settle not in (None, "after", "before"):
        raise ConfigurationError("unknown_settle", f'settle is "after" or "before", not {settle!r}')
    for name, table in (("match", match), ("tiers", tiers), ("models", models)):
        if table is not None and not table:
            raise ConfigurationError("empty_price", f"{name} is empty: leave it out")
    function = price if callable(price) and not isinstance(price, str | Money) else None
    declared = RoutePrice(
        static=None if function is not None else _amount(price),
        rules=tuple(parse_rule(entry) for entry in match or ()),
        function=function,
        tiers=_table(tiers),
        tier_header=tier_header.lower(),
        models=_table(models),
        fallback=_amount(fallback),
        max_price=_amount(max_price),
        description=description,
        terms=Terms(
            free_tier,
            None if rate_limit is None else RateLimit.parse(rate_limit),
            settle,
            description,
            metered,
            parse_top_up(top_up),
        ),
    )
    if free_tier and declared.known is not None and free_tier.cost(declared.known) is None:
        raise ConfigurationError(
            "free_tier_below_price",
            f"a free tier of {free_tier} never covers {declared.known}: give at least that much, or leave it out",
        )
    for amount in declared.amounts():
        _require_at_most(amount, declared.max_price, "a declared price")
    return declared


def _model(models: Mapping[str, Money], facts: Facts) -> Decision | None:
    model = facts.look_up("body", ("model",))
    if not isinstance(model, str):
        return None
    for table in (models, built_in().prices):
        known = find_model(table, model)
        if known is not None:
            return Decision(table[known], f"model {known}")
    return None


def _table(table: Mapping[str, str | Money] | None) -> dict[str, Money] | None:
    if table is None:
        return None
    amounts = {name: _amount(price) for name, price in table.items()}
    return {name: amount for name, amount in amounts.items() if amount is not None}


def _amount(price: Any) -> Money | None:
    return None if price is None else money_of(price)


def _require_at_most(price: Money, most: Money | None, what: str) -> None:
    if most is None:
        return
    if price.asset is not most.asset:
        raise ConfigurationError(
            "above_max_price", f"{what}, {price}, cannot be compared with max_price {most}: use one asset"
        )
    if most < price:
        raise ConfigurationError(
            "above_max_price", f"{what}, {price}, is above max_price {most}: raise that, or lower the price"
        )
