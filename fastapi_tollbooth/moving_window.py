"""How often something happened lately, per key, in this process.

A window moves: what counts is the last minute, not the minute of the clock, so nobody gets twice the limit around its
turn.
"""

import time
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.terms import RateLimit, Window

KEYS = 20_000

Key = tuple[str, ...]


class Full(NamedTuple):
    """The window that is used up, and in how many seconds a place in it is free."""

    window: Window
    seconds: float

    @property
    def wait(self) -> int:
        """Whole seconds after which there is room."""
        return max(1, int(self.seconds) + 1)


class MovingWindow:
    """When each key did what is limited. The package `limits` has such a storage too, but keys grow that without end.

    Args:
        clock: Seconds that never go back; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: Bounded[Key, array[float]] = Bounded(KEYS)

    def hit(self, limit: RateLimit, key: Key) -> Full | None:
        """Count one for this key, or say what is full; then nothing is counted."""
        full = self.look(limit, key)
        if full is None:
            times = self._times.get(key)
            if times is None:
                times = array("d")
                self._times.put(key, times)
            times.append(self._clock())
        return full

    def look(self, limit: RateLimit, key: Key) -> Full | None:
        """Say what is full, if anything."""
        times, now = self._times.get(key), self._clock()
        if not times:
            return None
        del times[: bisect_right(times, now - max(window.seconds for window in limit.windows))]
        for window in limit.windows:
            if len(times) >= window.requests:
                oldest = times[-window.requests]
                if oldest > now - window.seconds:
                    return Full(window, oldest + window.seconds - now)
        return None

    def give_back(self, key: Key) -> None:
        """Take back the last that was counted: it did not happen."""
        times = self._times.get(key)
        if times:
            times.pop()
