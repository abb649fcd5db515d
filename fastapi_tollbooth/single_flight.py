"""One piece of work at a time for all who ask for the same."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Whoever asks while the work is being done for somebody else waits for that result, or for that error.

    The work goes on when those who asked for it are gone.
    """

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Future[V]] = {}

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result of the work that is running for this key, or else of this work."""
        running = self._running.get(key)
        if running is None or running.get_loop() is not asyncio.get_running_loop():
            running = self._running[key] = asyncio.ensure_future(work())
            running.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(running)

    def _end(self, key: K, done: "asyncio.Future[V]") -> None:
        if self._running.get(key) is done:
            del self._running[key]
        if not done.cancelled():
            done.exception()  # taken note of, also when nobody waits any more
