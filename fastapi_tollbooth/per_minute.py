"""A limit on how often something may happen in a minute, per key, in this process."""

import time
from collections.abc import Callable
from math import ceil

from fastapi_tollbooth.bounded import Bounded

KEYS = 10_000
SECONDS = 60.0


class PerMinute:
    """Token buckets: a key may do ``limit`` things at once, and ``limit`` a minute from then on."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = float(limit)
        self._clock = clock
        self._buckets: Bounded[str, tuple[float, float]] = Bounded(KEYS)

    def take(self, key: str = "") -> int:
        """Count one for this key. 0 when it may happen; else the whole seconds until it may, and nothing is counted."""
        now = self._clock()
        left, at = self._buckets.get(key) or (self._limit, now)
        left = min(self._limit, left + (now - at) * self._limit / SECONDS)
        if left < 1:
            return max(1, ceil((1 - left) * SECONDS / self._limit))
        self._buckets.put(key, (left - 1, now))
        return 0

    def give_back(self, key: str = "") -> None:
        """Take back one that was counted: it did not happen."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            self._buckets.put(key, (min(self._limit, bucket[0] + 1), bucket[1]))
