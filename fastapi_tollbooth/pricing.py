"""What a request costs. Pure: request facts in, money out; no I/O, no framework.

A `RoutePrice` is what ``priced(...)`` declares on a route. Where several are declared for one request (on the app, the
router and the route), the most specific one decides.
"""

from dataclasses import dataclass

from fastapi_tollbooth.money import Money


@dataclass(frozen=True, slots=True, eq=False)
class RoutePrice:
    """The declared price of a route.

    Raises:
        ConfigurationError: the price is not an amount of money.
    """

    static: Money
    description: str | None = None

    @property
    def reads_body(self) -> bool:
        """Whether the price depends on the request's body, so that it must be read before the caller is answered."""
        return False

    @property
    def known(self) -> Money | None:
        """The price, where it is the same for every request."""
        return self.static

    def __str__(self) -> str:
        return str(self.static)
