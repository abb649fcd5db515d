"""Settling with somebody outside, whatever becomes of the request meanwhile."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

from fastapi_tollbooth.errors import Unavailable

T = TypeVar("T")

SETTLEMENT_SECONDS = 60.0


async def guarded(settlement: Coroutine[Any, Any, T]) -> T:
    """Settle although the request may be cancelled, by whatever means, and within a bounded time.

    Raises:
        Unavailable: the time is up, and how the settlement ended is unknown.
    """
    loop = asyncio.get_running_loop()
    task, deadline = loop.create_task(settlement), loop.time() + SETTLEMENT_SECONDS
    with anyio.CancelScope(shield=True):
        while not task.done() and loop.time() < deadline:
            # Whoever cancels now waits until the money is in one state or the other.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task}, timeout=deadline - loop.time())
    if not task.done():
        task.cancel()
        raise Unavailable(
            "settlement_unknown", "The payment could not be settled in time. Do not pay again: send the same request."
        )
    return task.result()
