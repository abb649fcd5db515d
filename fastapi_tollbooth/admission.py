"""Who is served without payment, and how often anybody is: the free tier, free routes, and rate limits.

price is zero      counted per client, at most the route's rate limit or TOLLBOOTH_FREE_RATE_LIMIT
no credential      the same within the free tier, if there is one; then a 402
any 402            at most TOLLBOOTH_UNPAID_RATE_LIMIT per client, before a rail makes a challenge
paid               at most the route's rate limit per payer
"""

import contextlib
import ipaddress
import logging
from collections.abc import Callable
from functools import partial

from fastapi_tollbooth.background import Background
from fastapi_tollbooth.errors import Refusal, TooManyRequests
from fastapi_tollbooth.free_tier import Clients, FreeUses, UseCounts, today_utc
from fastapi_tollbooth.keys import KeyRing
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.observe import Observed
from fastapi_tollbooth.rate_limits import RateLimits
from fastapi_tollbooth.settings import TollboothSettings
from fastapi_tollbooth.terms import FreeTier, RateLimit, Window
from fastapi_tollbooth.toll import Quote, Toll, free_toll

logger = logging.getLogger("fastapi_tollbooth")

FAILURES = RateLimit((Window(3, 600),), "3 failed settlements per 10 minutes")
"""A payment that verifies and does not settle costs the service a run of its handler for nothing."""


class Admission:
    """The free tier and the rate limits of one service."""

    def __init__(
        self,
        settings: TollboothSettings,
        ledger: Ledger,
        keys: Callable[[], KeyRing],
        background: Background,
        free_tier: FreeTier | None,
    ) -> None:
        clients = Clients(keys, today_utc)
        self._settings = settings
        self._warned = False
        self.rates = RateLimits(settings.rate_limit_storage.get_secret_value())
        self.free_uses = FreeUses(ledger, clients, background, free_tier or _configured(settings))
        self.counts = UseCounts(ledger, clients, background)
        self.observed = Observed(self.counts)
        self._has_failures = False

    async def free(self, quote: Quote) -> Toll:
        """The toll of a request whose price is zero.

        Raises:
            TooManyRequests: its client has had enough for now.
        """
        await self._limit_free(quote)
        self.counts.count(f"free {quote.route}", quote.client)
        return free_toll(quote)

    async def within_free_tier(self, quote: Quote) -> Toll | None:
        """The toll of a request without a credential that the free tier covers; None for one that must be paid.

        Raises:
            TooManyRequests: its client has had enough for now.
            Unavailable: the database did not answer.
        """
        if not self.free_uses.covers(quote):
            return None
        await self._limit_free(quote)
        return await self.free_uses.take(quote)

    async def limit_unpaid(self, quote: Quote) -> None:
        """Count an answer with 402 before it costs a node or a facilitator anything.

        Raises:
            TooManyRequests: the client has had enough of them for now.
        """
        await self._hit(quote, self._settings.unpaid_rate_limit, "unpaid", quote.client)

    def of_payers(self, quote: Quote) -> Quote:
        """The quote with what its rail asks about the payer, where there is anything to ask."""
        if quote.terms.rate_limit is None and not self._has_failures:
            return quote
        return quote._replace(admit=partial(self.limit_paid, quote))

    async def limit_paid(self, quote: Quote, payer: str) -> None:
        """Count a paid request by who pays, which the rail knows only after it found the credential good.

        Raises:
            TooManyRequests: the payer has had enough for now, or too many of its payments could not be settled.
        """
        self.rates.require_room(FAILURES, "failed", payer)
        if quote.terms.rate_limit is not None:
            await self.rates.hit(quote.terms.rate_limit, "paid", quote.route, payer)

    def settlement_failed(self, payer: str) -> None:
        """Remember a payer whose payment could not be settled after the handler had done its work."""
        self._has_failures = True
        self.rates.note(FAILURES, "failed", payer)

    async def close(self) -> None:
        """Write what was counted, and give connections back."""
        with contextlib.suppress(Refusal):  # statistics are not worth a failing shutdown
            await self.counts.flush()
        await self.rates.close()

    async def _limit_free(self, quote: Quote) -> None:
        if quote.terms.rate_limit is not None:
            await self._hit(quote, quote.terms.rate_limit, "free", quote.client, quote.route)
        else:
            await self._hit(quote, self._settings.free_rate_limit, "free", quote.client)

    async def _hit(self, quote: Quote, limit: RateLimit | None, *key: str) -> None:
        try:
            await self.rates.hit(limit, *key)
        except TooManyRequests:
            if not self._warned and _is_behind_a_stranger(quote):
                self._warned = True
                logger.warning(
                    "%s has reached a rate limit and looks like a proxy that is not trusted: all callers behind it "
                    "count as one. Set TOLLBOOTH_TRUSTED_PROXIES, or have the server trust its headers",
                    quote.client,
                )
            raise


def _is_behind_a_stranger(quote: Quote) -> bool:
    if quote.connection is None or "x-forwarded-for" not in quote.connection.headers:
        return False
    try:
        return ipaddress.ip_network(quote.client).is_private
    except ValueError:
        return False


def _configured(settings: TollboothSettings) -> FreeTier | None:
    tier = settings.free_tier
    if tier is None:
        return None
    return FreeTier(requests=tier) if isinstance(tier, int) else FreeTier(credits=tier)
