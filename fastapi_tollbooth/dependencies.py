"""What users touch: ``Depends(priced("$0.01"))``.

A name in a dependency's signature must not hide behind ``TYPE_CHECKING``: FastAPI resolves it at run time.
"""

from starlette.requests import HTTPConnection

from fastapi_tollbooth.errors import ConfigurationError, Refusal
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.pricing import RoutePrice
from fastapi_tollbooth.responses import ensure_answered
from fastapi_tollbooth.routes import Gate, gate_of
from fastapi_tollbooth.settlement import visit_of
from fastapi_tollbooth.toll import Toll
from fastapi_tollbooth.tollbooth import Tollbooth


async def get_tollbooth(connection: HTTPConnection) -> Tollbooth:
    """The engine that serves this request, for routes that need more of it than their toll.

    In tests, ``app.dependency_overrides[get_tollbooth] = lambda: another`` gives priced routes another engine.

    Raises:
        ConfigurationError: no tollbooth is installed on the application.
    """
    return _engine(connection)


class Priced(Gate):
    """A price on a route, as `priced` makes it. One request has one toll, however many prices it passes."""

    def __init__(self, price: RoutePrice) -> None:
        self.price = price

    async def __call__(self, connection: HTTPConnection) -> Toll:
        """Take the toll of this request, at the most specific of its prices.

        Raises:
            Refusal: the request cannot be served; nothing was charged.
        """
        visit = visit_of(connection)
        if visit.toll is None:
            visit.engine = tollbooth = _engine(connection)
            gate = gate_of(connection.scope) or self
            if _is_preflight(connection):
                visit.toll = tollbooth.free(gate.price, connection)
            else:
                try:
                    visit.toll = await tollbooth.authorize(gate.price, connection)
                except Refusal:
                    ensure_answered(connection.scope)
                    raise
        return visit.toll

    async def refuse_early(self, connection: HTTPConnection) -> None:
        """Refuse before the body is read, if the request's head brings no credential."""
        if not _is_preflight(connection):
            ensure_answered(connection.scope)
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


def _engine(connection: HTTPConnection) -> Tollbooth:
    # Looked up by hand, not as a sub-dependency: the early gate needs it before dependencies run, and a sub-dependency
    # costs every paid request about a tenth of what FastAPI itself does.
    overrides = connection.scope["app"].dependency_overrides
    engine: object = overrides[get_tollbooth]() if get_tollbooth in overrides else visit_of(connection).engine
    if not isinstance(engine, Tollbooth):
        raise ConfigurationError("an override of get_tollbooth is a plain function that returns a Tollbooth")
    return engine


def _is_preflight(connection: HTTPConnection) -> bool:
    return connection.scope.get("method") == "OPTIONS"
