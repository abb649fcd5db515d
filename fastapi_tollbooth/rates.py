"""What a bitcoin costs in dollars, for prices in dollars that are paid over Lightning.

A `RateSource` answers at once or not at all; whatever it has to ask, it asks off the request path. Without a usable
rate no dollar price is offered over Lightning: nobody is ever charged by a guess.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median_low
from typing import NamedTuple, Protocol

from fastapi_tollbooth.errors import ConfigurationError
from fastapi_tollbooth.money import Rate

logger = logging.getLogger("fastapi_tollbooth.rates")

Ticker = Callable[[], Awaitable[Rate]]
"""Asks one exchange. May raise anything; what it raises is logged by its type alone."""

MIN_AGREEING = 2
TIMEOUT_SECONDS = 5.0


class RateSource(Protocol):
    """Where the exchange rate comes from."""

    def current(self) -> Rate | None:
        """The rate to use now; None when there is none that can be relied on. No I/O."""
        ...

    async def keep_fresh(self) -> None:
        """Keep `current` up to date until cancelled. Run once per process, beside the application."""
        ...


class FixedRate:
    """A rate that somebody wrote down, or None for none at all. Implements `RateSource`."""

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate

    def current(self) -> Rate | None:
        """The rate."""
        return self._rate

    async def keep_fresh(self) -> None:
        """There is nothing to do."""


class _Good(NamedTuple):
    rate: Rate
    at: float


class MedianRate:
    """The median of several tickers that agree. Implements `RateSource`.

    All are asked every ``every`` seconds. At least two of the answers must lie within ``max_spread`` of the median of
    all, or there is no new rate; the last good one is used until it is ``max_age`` seconds old.

    Raises:
        ConfigurationError: fewer than two tickers.
    """

    def __init__(
        self,
        tickers: Mapping[str, Ticker],
        *,
        every: float = 60.0,
        max_age: float = 900.0,
        max_spread: float = 0.03,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if len(tickers) < MIN_AGREEING:
            raise ConfigurationError(
                "too_few_tickers", "one ticker alone can be wrong: name at least two in TOLLBOOTH_RATE_TICKERS"
            )
        self._tickers = dict(tickers)
        self._every = every
        self._max_age = max_age
        self._max_spread = max_spread
        self._clock = clock
        self._good: _Good | None = None

    def current(self) -> Rate | None:
        """The last rate that tickers agreed on, while it is fresh."""
        good = self._good
        return good.rate if good is not None and self._clock() - good.at < self._max_age else None

    async def keep_fresh(self) -> None:
        """Ask the tickers again and again."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._every)

    async def refresh(self) -> None:
        """Ask every ticker once."""
        answers = await asyncio.gather(*(self._ask(name, ticker) for name, ticker in self._tickers.items()))
        rates = [rate for rate in answers if rate is not None]
        agreed = agreement(rates, self._max_spread)
        if agreed is not None:
            self._good = _Good(agreed, self._clock())
        else:
            logger.warning("%d of %d tickers answered, and no two agree", len(rates), len(self._tickers))

    async def _ask(self, name: str, ticker: Ticker) -> Rate | None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await ticker()
        except Exception as error:  # noqa: BLE001 - whatever an exchange does, the others go on
            logger.warning("the ticker of %s gave no rate: %s", name, type(error).__name__)
            return None


def agreement(rates: list[Rate], max_spread: float) -> Rate | None:
    """The median of the rates that lie within ``max_spread`` of the median of all; None when fewer than two do."""
    if len(rates) < MIN_AGREEING:
        return None
    amounts = [rate.micro_usd_per_btc for rate in rates]
    middle = median_low(amounts)
    near = [amount for amount in amounts if abs(amount - middle) <= middle * max_spread]
    return Rate(median_low(near)) if len(near) >= MIN_AGREEING else None
