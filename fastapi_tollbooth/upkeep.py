"""What runs beside the application: the exchange rate is kept fresh, and what was left open is found its end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from starlette.types import Lifespan

from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.ledger.sweeper import sweep
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.rails import Rail
from fastapi_tollbooth.rates import RateSource

logger = logging.getLogger("fastapi_tollbooth.ledger")

SWEEP_SECONDS = 60.0


class Recovered(NamedTuple):
    """What was found open and is so no longer: tolls given back, and external payments whose end is known now."""

    tolls: int
    payments: int


async def recover(ledger: Ledger, rails: Sequence[Rail[Any]], deadline: float) -> Recovered:
    """Resolve what processes that ended, and answers that were lost, have left open for more than ``deadline`` seconds.

    Raises:
        Unavailable: the database did not answer.
    """
    tolls = await sweep(ledger, timedelta(seconds=deadline))
    return Recovered(tolls, sum([await rail.reconcile() for rail in rails]))


@asynccontextmanager
async def upkeep(ledger: Ledger, rails: Sequence[Rail[Any]], rates: RateSource, deadline: float) -> AsyncIterator[None]:
    """Recover now and then, and keep the rates fresh, as long as the context is open."""
    tasks = [asyncio.create_task(_recover_for_ever(ledger, rails, deadline)), asyncio.create_task(rates.keep_fresh())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def alive(
    original: Lifespan[Any],
    start: Callable[[], Awaitable[None]],
    beside: Callable[[], AbstractAsyncContextManager[None]],
    end: Callable[[], Awaitable[None]],
) -> Lifespan[Any]:
    """An application's own lifespan with an engine's inside it.

    Args:
        original: The application's own.
        start: Runs before the first request; what it raises keeps the application from starting.
        beside: What runs beside the requests.
        end: Runs after the last request.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with original(app) as state:
            await start()
            try:
                async with beside():
                    yield state
            finally:
                await end()

    return lifespan


async def _recover_for_ever(ledger: Ledger, rails: Sequence[Rail[Any]], deadline: float) -> None:
    while True:
        try:
            if ledger.exists:
                await recover(ledger, rails, deadline)
        except Unavailable:
            logger.warning("what was left open could not be resolved; it is tried again")
        except Exception:
            logger.exception("what was left open could not be resolved; it is tried again")
        await asyncio.sleep(SWEEP_SECONDS)
