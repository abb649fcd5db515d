"""Rate limits: how often one caller is served in any span of time.

Workers count each for itself in memory, or together in Redis. While Redis does not answer, each worker counts for
itself again and says so in the log: limits hold per worker then, and no route loses its protection.
"""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

from fastapi_tollbooth.errors import ConfigurationError, TooManyRequests
from fastapi_tollbooth.moving_window import Full, Key, MovingWindow
from fastapi_tollbooth.terms import RateLimit

logger = logging.getLogger("fastapi_tollbooth.rate_limits")

REDIS_SECONDS = 0.5
RETRY_SECONDS = 5.0


class RateLimits:
    """Counts calls by caller, and refuses those beyond a limit.

    Args:
        storage: ``memory``, or the URL of a Redis such as ``redis://127.0.0.1:6379/0``.
        clock: Seconds that never go back; for tests.

    Raises:
        ConfigurationError: the storage is neither, or the extra that it needs is not installed.
    """

    def __init__(self, storage: str = "memory", clock: Callable[[], float] = time.monotonic) -> None:
        self._memory = MovingWindow(clock)
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

    async def _hit_redis(self, redis: "_Redis", limit: RateLimit, key: Key) -> Full | None:
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


def _too_many(limit: RateLimit, full: Full) -> TooManyRequests:
    seconds, window = full.wait, full.window
    return TooManyRequests(
        "rate_limited",
        f"There is a limit of {limit} here. Come again in {seconds} s; nothing was charged.",
        retry_after=seconds,
        headers=[
            ("RateLimit-Policy", f'"tollbooth";q={window.requests};w={window.seconds}'),
            ("RateLimit", f'"tollbooth";r=0;t={seconds}'),
        ],
    )


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

    async def hit(self, limit: RateLimit, key: Key) -> Full | None:
        """Count one call, or say what is full."""
        limiter = self._limiter()
        for window in limit.windows:
            item = self._limits.RateLimitItemPerSecond(window.requests, window.seconds, namespace="tollbooth")
            if not await limiter.hit(item, *key):
                reset, _ = await limiter.get_window_stats(item, *key)
                return Full(window, max(0.0, reset - time.time()))
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
