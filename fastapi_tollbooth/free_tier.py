"""What callers get without paying: the free tier, and routes that are free; both are counted, and limited.

The counters are rows of the ledger's database, so workers and restarts count together. They know a client by a hash
only, keyed with a secret that is another one each day: what a client did on two days cannot be put together.
"""

import asyncio
import hashlib
import hmac
import time
import weakref
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import lru_cache, partial

from sqlalchemy import Connection

from fastapi_tollbooth.background import Background
from fastapi_tollbooth.bounded import Bounded
from fastapi_tollbooth.errors import CredentialRefused
from fastapi_tollbooth.keys import KeyRing, hkdf
from fastapi_tollbooth.ledger import free_use
from fastapi_tollbooth.ledger.free_use import Use
from fastapi_tollbooth.ledger.writer import Ledger
from fastapi_tollbooth.money import Money
from fastapi_tollbooth.rails import Receipt
from fastapi_tollbooth.terms import FreeTier
from fastapi_tollbooth.toll import Quote, Toll

EXHAUSTED_CLIENTS = 20_000
EXHAUSTED_SECONDS = 5.0
COUNT_EVERY = 1.0
COUNTED_AT_ONCE = 10_000

EXHAUSTED = CredentialRefused(
    "free_tier_exhausted",
    "What is left of today's free tier does not cover it. Pay one of the offers, or come again after midnight UTC.",
)


_Asked = tuple[Use, int, asyncio.Future[int | None]]
"""A use, how much of it there is in a day, and who waits for it."""


class Clients:
    """Names clients for a day, without keeping who they are."""

    def __init__(self, keys: Callable[[], KeyRing], today: Callable[[], date]) -> None:
        self._keys = keys
        self.today = today

    def use(self, bucket: str, client: str, amount: int) -> Use:
        """A use of today by a client, known by its hash."""
        day = self.today().isoformat()
        key = _day_key(self._keys().secrets[0], day)
        return Use(day, bucket, hmac.digest(key, client.encode("utf-8", "replace"), hashlib.sha256)[:16].hex(), amount)


class FreeUses:
    """Takes free uses and settles the tolls of their requests, as a rail settles those of paid ones."""

    name = "free"
    settles_elsewhere = True

    def __init__(self, ledger: Ledger, clients: Clients, background: Background, default: FreeTier | None) -> None:
        self._ledger = ledger
        self._clients = clients
        self._background = background
        self.default = default
        self._exhausted: Bounded[Use, float] = Bounded(EXHAUSTED_CLIENTS)
        self._pruned: date | None = None
        self._waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Asked]] = weakref.WeakKeyDictionary()

    def covers(self, quote: Quote) -> bool:
        """Whether a request may be free, as far as is known without asking the database."""
        tier = self._tier_of(quote)
        return tier is not None and not self._is_exhausted(self._use(quote, tier))

    def has_tier(self, quote: Quote) -> bool:
        """Whether there is a free tier that a request at this price can be part of."""
        return self._tier_of(quote) is not None

    async def take(self, quote: Quote) -> Toll | None:
        """The toll of a request within the free tier; None where its client has used that up.

        Raises:
            Unavailable: the database did not answer; nothing was taken.
        """
        tier = self._tier_of(quote)
        if tier is None:
            return None
        use = self._use(quote, tier)
        taking = self._take_with_others(use, tier.limit)
        try:
            used = await asyncio.shield(taking)
        except asyncio.CancelledError:
            # Taken for a request that nobody serves any more.
            self._background.start(self._take_back(taking, use), "giving back a free use")
            raise
        if used is None:
            self._exhausted.put(use, time.monotonic() + EXHAUSTED_SECONDS)
            return None
        nothing = Money(0, quote.price.asset)
        return Toll(
            id="free",
            price=quote.price,
            amount=nothing,
            balance=None,
            payer="",
            rail=self.name,
            route=quote.route,
            rule=quote.rule,
            tier=quote.tier,
            metered=quote.terms.metered,
            authorization=(use, tier.remaining(used)),
        )

    async def hold(self, toll: Toll) -> Receipt:
        """The use is taken already."""
        return await self.capture(toll)

    async def capture(self, toll: Toll) -> Receipt:
        """Nothing is to be earned; the answer says what is left."""
        return Receipt((("X-Free-Remaining", toll.authorization[1]),))

    async def void(self, toll: Toll) -> None:
        """Give the free use back."""
        use, _ = toll.authorization
        await self._ledger.execute(partial(free_use.give_back, use=use), ends=True)
        self._exhausted.forget(use)

    def _tier_of(self, quote: Quote) -> FreeTier | None:
        own = quote.terms.free_tier
        tier = self.default if own is None else (own or None)
        return tier if tier is not None and tier.cost(quote.price) is not None else None

    def _use(self, quote: Quote, tier: FreeTier) -> Use:
        bucket = "free_tier" if quote.terms.free_tier is None else f"free_tier {quote.route}"
        return self._clients.use(bucket, quote.client, tier.cost(quote.price) or 0)

    def _is_exhausted(self, use: Use) -> bool:
        # Refusing again and again costs no write. A use that another worker gives back is seen a little later.
        return (self._exhausted.get(use) or 0.0) > time.monotonic()

    def _take_with_others(self, use: Use, most: int) -> asyncio.Future[int | None]:
        # What comes while a transaction runs shares the next one: a crowd costs a few commits, not one for each.
        loop = asyncio.get_running_loop()
        taking: asyncio.Future[int | None] = loop.create_future()
        waiting = self._waiting.get(loop)
        if waiting is None:
            self._waiting[loop] = [(use, most, taking)]
            self._background.start(self._take_all(loop), "taking free uses")
        else:
            waiting.append((use, most, taking))
        return taking

    async def _take_all(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while waiting := self._waiting[loop]:
                self._waiting[loop] = []
                await self._take_batch(waiting)
        finally:
            for _, _, taking in self._waiting.pop(loop, []):
                taking.cancel()

    async def _take_batch(self, waiting: list[_Asked]) -> None:
        asked = [(use, most) for use, most, _ in waiting]
        try:
            taken = await self._ledger.execute(partial(self._take, asked=asked))
        except Exception as error:  # noqa: BLE001 - it belongs to those who asked
            for _, _, taking in waiting:
                taking.set_exception(error)
        else:
            for (_, _, taking), used in zip(waiting, taken, strict=True):
                taking.set_result(used)

    def _take(self, connection: Connection, asked: list[tuple[Use, int]]) -> list[int | None]:
        today = self._clients.today()
        if self._pruned != today:
            free_use.prune(connection, today)
            self._pruned = today
        return [free_use.take(connection, use, most) for use, most in asked]

    async def _take_back(self, taking: asyncio.Future[int | None], use: Use) -> None:
        if await taking is not None:
            await self._ledger.execute(partial(free_use.give_back, use=use), ends=True)


class UseCounts:
    """Counts what has no limit but is worth knowing. Nobody waits for it: it is written about once a second."""

    def __init__(self, ledger: Ledger, clients: Clients, background: Background) -> None:
        self._ledger = ledger
        self._clients = clients
        self._background = background
        self._counted: Counter[tuple[str, str, str]] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def count(self, bucket: str, client: str, amount: int = 1) -> None:
        """Count a use by a client; by nobody in particular while very many come at once."""
        use = self._clients.use(bucket, client, amount)
        key = (use.day, bucket, use.client)
        if key not in self._counted and len(self._counted) >= COUNTED_AT_ONCE:
            key = (use.day, bucket, "")
        self._counted[key] += amount
        loop = asyncio.get_running_loop()
        if self._timer is None or self._loop is not loop:
            self._timer, self._loop = loop.call_later(COUNT_EVERY, self._write), loop

    async def flush(self) -> None:
        """Write what is counted.

        Raises:
            Unavailable: the database did not answer; it is written with the next.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counted, self._counted = self._counted, Counter()
        uses = [Use(*key, amount) for key, amount in counted.items()]
        if not uses:
            return
        try:
            await self._ledger.execute(partial(free_use.add, uses=uses))
        except BaseException:
            self._counted.update(counted)
            raise

    def _write(self) -> None:
        self._timer = None
        self._background.start(self.flush(), "counting free uses")


def today_utc() -> date:
    """The day that free tiers count by."""
    return datetime.now(UTC).date()


@lru_cache(maxsize=4)
def _day_key(secret: bytes, day: str) -> bytes:
    return hkdf(secret, b"free tier " + day.encode())
