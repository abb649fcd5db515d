"""What users touch: ``Depends(priced("$0.01"))``.

No postponed import may hide a name that stands in a dependency's signature: FastAPI resolves them at run time.
"""

import inspect
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.pricing import RoutePrice
from fastapi_tollbooth.routes import Gate, gate_of, template_of
from fastapi_tollbooth.settlement import SCOPE_KEY, Visit
from fastapi_tollbooth.toll import Quote, Toll, free_toll
from fastapi_tollbooth.tollbooth import Tollbooth


async def get_tollbooth(connection: HTTPConnection) -> Tollbooth:
    """The engine that serves this request. Override it in tests with ``app.dependency_overrides[get_tollbooth]``.

    Raises:
        ConfigurationError: no tollbooth is installed on the application.
    """
    engine = _visit(connection).engine
    assert isinstance(engine, Tollbooth)
    return engine


class Priced(Gate):
    """A price on a route, as `priced` makes it. One request has one toll, however many prices it passes."""

    def __init__(self, price: RoutePrice) -> None:
        self.price = price

    async def __call__(
        self, connection: HTTPConnection, tollbooth: Annotated[Tollbooth, Depends(get_tollbooth)]
    ) -> Toll:
        """Take the toll of this request, at the most specific of its prices.

        Raises:
            Refusal: the request cannot be served; nothing was charged.
        """
        visit = _visit(connection)
        if visit.toll is None:
            visit.engine = tollbooth
            gate = gate_of(connection.scope) or self
            if _is_preflight(connection):
                visit.toll = _free(gate, connection)
            else:
                visit.toll = await tollbooth.authorize(gate.price, connection)
        return visit.toll

    async def refuse_early(self, connection: HTTPConnection) -> None:
        """Refuse before the body is read, if the request's head brings no credential."""
        if not _is_preflight(connection):
            await _engine(connection).refuse_unpaid(self.price, connection)

    def __repr__(self) -> str:
        return f"priced({str(self.price)!r})"


def priced(price: str | Money, *, description: str | None = None) -> Priced:
    """The dependency that makes a route cost money: ``Depends(priced("$0.01"))``.

    Args:
        price: What each request costs: ``"$0.01"``, ``"0.01 USD"``, ``"21 sat"``, ``"500 msat"`` or a `Money`.
        description: What the price is for; shown in the documentation.

    Raises:
        ConfigurationError: the price is not an amount of money.
    """
    return Priced(RoutePrice(price if isinstance(price, Money) else Money.parse(price), description))


def _visit(connection: HTTPConnection) -> Visit:
    visit = connection.scope.get(SCOPE_KEY)
    if not isinstance(visit, Visit):
        raise ConfigurationError(
            "a priced route was called, and no tollbooth is installed on its application: "
            "call tollbooth.install(app) where the application is made"
        )
    return visit


def _engine(connection: HTTPConnection) -> Tollbooth:
    # Before dependencies are resolved, an override is looked up by hand; one that itself has dependencies has to wait.
    override = getattr(connection.scope.get("app"), "dependency_overrides", {}).get(get_tollbooth)
    if override is not None and not inspect.signature(override).parameters:
        made = override()
        if isinstance(made, Tollbooth):
            return made
    engine = _visit(connection).engine
    assert isinstance(engine, Tollbooth)
    return engine


def _is_preflight(connection: HTTPConnection) -> bool:
    return connection.scope.get("method") == "OPTIONS"


def _free(gate: Gate, connection: HTTPConnection) -> Toll:
    return free_toll(Quote(Money(0, gate.price.static.asset), template_of(connection.scope), "", None))
