"""Rate limits: how often one caller is served in any span of time.

A window moves: what counts is the last minute, not the minute of the clock, so nobody gets twice the limit around its
turn. Workers count each for itself in memory, or together in Redis. While Redis does not answer, each worker counts for
itself again and says so in the log: limits hold per worker then, and no route loses its protection.
"""

import asyncio
import logging
import time
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.errors import ConfigurationError, TooManyRequests
from fastapi_tollbooth.terms import RateLimit, Window

logger = logging.getLogger("fastapi_tollbooth.rate_limits")

CALLERS = 20_000
REDIS_SECONDS = 0.5
RETRY_SECONDS = 5.0

Key = tuple[str, ...]


class _Full(NamedTuple):
    """The window that is used up, and in how many seconds a place in it is free."""

    window: Window
    seconds: float


class RateLimits:
    """Counts calls by caller, and refuses those beyond a limit.

    Args:
        storage: ``memory``, or the URL of a Redis such as ``redis://127.0.0.1:6379/0``.
        clock: Seconds that never go back; for tests.

    Raises:
        ConfigurationError: the storage is neither, or the extra that it needs is not installed.
    """

    def __init__(self, storage: str = "memory", clock: Callable[[], float] = time.monotonic) -> None:
        self._memory = _Memory(clock)
        self._redis = None if storage == "memory" else _Redis(storage)
        self._clock = clock
        self._redis_again_at = 0.0

    async def hit(self, limit: RateLimit | None, *key: str) -> None:
        """Count one call.

        Raises:
            TooManyRequests: it is beyond the limit; it was not counted.
        """
        if limit is None:
            return
        full = self._memory.hit(limit, key) if self._redis is None else await self._hit_redis(self._redis, limit, key)
        if full is not None:
            raise _too_many(limit, full)

    def note(self, limit: RateLimit, *key: str) -> None:
        """Count something that has happened already, in this worker."""
        self._memory.hit(limit, key)

    def require_room(self, limit: RateLimit, *key: str) -> None:
        """Make sure that what `note` has counted is within a limit.

        Raises:
            TooManyRequests: it is not.
        """
        full = self._memory.look(limit, key)
        if full is not None:
            raise _too_many(limit, full)

    async def is_shared(self) -> bool:
        """Whether the storage that workers share answers; False where each counts for itself."""
        return self._redis is not None and await self._redis.answers()

    async def close(self) -> None:
        """Give the connections back that this event loop has made."""
        if self._redis is not None:
            await self._redis.close()

    async def _hit_redis(self, redis: "_Redis", limit: RateLimit, key: Key) -> _Full | None:
        if self._clock() >= self._redis_again_at:
            try:
                return await redis.hit(limit, key)
            except redis.errors as error:
                self._redis_again_at = self._clock() + RETRY_SECONDS
                logger.error(
                    "Redis does not answer (%s): for the next %g s each worker counts for itself",
                    type(error).__name__,
                    RETRY_SECONDS,
                )
        return self._memory.hit(limit, key)


def _too_many(limit: RateLimit, full: _Full) -> TooManyRequests:
    seconds = max(1, int(full.seconds) + 1)
    window = full.window
    return TooManyRequests(
        "rate_limited",
        f"There is a limit of {limit} here. Come again in {seconds} s; nothing was charged.",
        retry_after=seconds,
        headers=[
            ("RateLimit-Policy", f'"tollbooth";q={window.requests};w={window.seconds}'),
            ("RateLimit", f'"tollbooth";r=0;t={seconds}'),
        ],
    )


# ── in memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Memory:
    """The times of each caller's calls. `limits` has such a storage too, but callers can grow it without end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: Bounded[Key, array[float]] = Bounded(CALLERS)

    def hit(self, limit: RateLimit, key: Key) -> _Full | None:
        """Count one call, or say what is full."""
        full = self.look(limit, key)
        if full is None:
            calls = self._calls.get(key)
            if calls is None:
                calls = array("d")
                self._calls.put(key, calls)
            calls.append(self._clock())
        return full

    def look(self, limit: RateLimit, key: Key) -> _Full | None:
        """Say what is full, if anything."""
        calls, now = self._calls.get(key), self._clock()
        if not calls:
            return None
        del calls[: bisect_right(calls, now - max(window.seconds for window in limit.windows))]
        for window in limit.windows:
            if len(calls) >= window.requests:
                oldest = calls[-window.requests]
                if oldest > now - window.seconds:
                    return _Full(window, oldest + window.seconds - now)
        return None


# ── in Redis ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Redis:
    """The moving window of `limits`, which runs as a script inside Redis: one round trip, atomic among workers."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("redis://", "rediss://", "redis+unix://")):
            raise ConfigurationError(
                "rate_limit_storage",
                'TOLLBOOTH_RATE_LIMIT_STORAGE is "memory" or a URL such as "redis://127.0.0.1:6379/0"',
            )
        try:
            import limits.aio
            import redis.asyncio
        except ImportError as error:
            raise ConfigurationError(
                "missing_extra", "rate limits in Redis need an extra: pip install 'fastapi-tollbooth[redis]'"
            ) from error
        self.errors = (redis.asyncio.RedisError, OSError, TimeoutError)
        self._url = url
        # A client belongs to its event loop; test clients make one per request.
        self._open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, Any]] = weakref.WeakKeyDictionary()
        self._limits = limits
        self._pool = redis.asyncio.ConnectionPool

    async def hit(self, limit: RateLimit, key: Key) -> _Full | None:
        """Count one call, or say what is full."""
        limiter = self._limiter()
        for window in limit.windows:
            item = self._limits.RateLimitItemPerSecond(window.requests, window.seconds, namespace="tollbooth")
            if not await limiter.hit(item, *key):
                reset, _ = await limiter.get_window_stats(item, *key)
                return _Full(window, max(0.0, reset - time.time()))
        return None

    async def answers(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await self._limiter().storage.check())
        except self.errors:
            return False

    async def close(self) -> None:
        """Give this event loop's connections back."""
        _, pool = self._open.pop(asyncio.get_running_loop(), (None, None))
        if pool is not None:
            await pool.aclose()

    def _limiter(self) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            url = self._url.replace("redis+unix://", "unix://")
            pool: Any = self._pool.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
            storage = self._limits.aio.storage.RedisStorage(
                f"async+{self._url}", implementation="redispy", connection_pool=pool
            )
            self._open[loop] = self._limits.aio.strategies.MovingWindowRateLimiter(storage), pool
        return self._open[loop][0]
