"""Shadow mode: everything is served, nothing is charged, and what would have been charged is recorded."""

import logging
from collections.abc import Awaitable

from starlette.requests import HTTPConnection

from fastapi_tollbooth.errors import Refusal, Rejected
from fastapi_tollbooth.free_tier import UseCounts
from fastapi_tollbooth.money import Asset, Money
from fastapi_tollbooth.rails import Receipt
from fastapi_tollbooth.routes import template_of
from fastapi_tollbooth.toll import Quote, Toll

logger = logging.getLogger("fastapi_tollbooth.observe")

WARNING = (
    "TOLLBOOTH_MODE=observe: every priced route is served without payment; what it would have cost is only recorded. "
    "Set TOLLBOOTH_MODE=enforce to be paid"
)


class Observed:
    """Settles the tolls of shadow mode, as a rail settles those of paid requests."""

    name = "observe"
    settles_elsewhere = False

    def __init__(self, counts: UseCounts) -> None:
        self._counts = counts

    async def toll(self, quoting: Awaitable[Quote], connection: HTTPConnection) -> Toll:
        """The toll of a request that is served without payment, though it may be one that cannot be priced.

        Raises:
            Rejected: a hook of the owner's refused.
        """
        try:
            quote = await quoting
        except Rejected:
            raise
        except Refusal as refusal:
            route = template_of(connection.scope)
            logger.error("would have refused a request to %s: %s", route, refusal.reason)
            quote = Quote(Money(0, Asset.USD), route, "", refusal.reason)
        return Toll(
            id="observed",
            price=quote.price,
            amount=Money(0, quote.price.asset),
            balance=None,
            payer="",
            rail=self.name,
            route=quote.route,
            rule=quote.rule,
            tier=quote.tier,
            metered=quote.terms.metered,
            authorization=quote.client,
        )

    async def hold(self, toll: Toll) -> Receipt:
        """There is nothing to make sure of."""
        return Receipt()

    async def capture(self, toll: Toll) -> Receipt:
        """Record what a request that succeeded would have cost."""
        cost = toll.cost or (Money(0, toll.price.asset) if toll.metered else toll.price)
        logger.info("would have charged %s for %s (%s)", cost, toll.route, toll.rule)
        bucket = f"observed {toll.price.asset.value.lower()} {toll.route}"
        self._counts.count(bucket, toll.authorization, cost.amount)
        return Receipt()

    async def void(self, toll: Toll) -> None:
        """A request that failed would have cost nothing."""
