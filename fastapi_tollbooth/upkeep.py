"""What runs beside the application: the exchange rate is kept fresh, and what was left open is found its end."""

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from starlette.types import Lifespan

from fastapi_tollbooth.errors import Unavailable
from fastapi_tollbooth.ledger.answers import prune
from fastapi_tollbooth.ledger.sweeper import sweep
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.rails import Rail
from fastapi_tollbooth.rates import RateSource
from fastapi_tollbooth.settings import TollboothSettings

logger = logging.getLogger("fastapi_tollbooth.ledger")

SWEEP_SECONDS = 60.0
YOUNG_OBJECTS = 50_000
"""How many new objects the garbage collector lets come before it looks at them: more than a few hundred requests make
that wait for one commit, each about a hundred. Python's own number is 700."""


class Recovered(NamedTuple):
    """What was found open and is so no longer: tolls given back, and external payments whose end is known now."""

    tolls: int
    payments: int


async def recover(ledger: Ledger, rails: Sequence[Rail[Any]], deadline: float) -> Recovered:
    """Resolve what processes that ended, and answers that were lost, have left open for more than ``deadline`` seconds.

    What was kept to be given again, and has expired, is deleted.

    Raises:
        Unavailable: the database did not answer.
    """
    await prune(ledger)
    tolls = await sweep(ledger, timedelta(seconds=deadline))
    return Recovered(tolls, sum([await rail.reconcile() for rail in rails]))


@asynccontextmanager
async def upkeep(
    ledger: Ledger, rails: Sequence[Rail[Any]], rates: RateSource, settings: TollboothSettings
) -> AsyncIterator[None]:
    """Recover now and then, and keep the rates fresh, as long as the context is open."""
    if settings.tune_gc:
        tune_gc()
    tasks = [
        asyncio.create_task(_recover_for_ever(ledger, rails, settings.toll_deadline)),
        asyncio.create_task(rates.keep_fresh()),
    ]
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


_tuned = threading.Event()


def tune_gc() -> None:
    """Have the garbage collector look less often and at less, the first time that this is called in a process.

    Requests that wait for a commit outlive its young generations, so it looks at old objects far more often than it
    does in a service whose requests never wait; and those of an application that has started are there to stay.
    """
    if not _tuned.is_set():
        _tuned.set()
        gc.collect()
        gc.freeze()
        young, *older = gc.get_threshold()
        if 0 < young < YOUNG_OBJECTS:  # 0 is a collector that the owner has switched off
            gc.set_threshold(YOUNG_OBJECTS, *older)


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
