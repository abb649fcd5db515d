"""Settling tolls with whoever took their money: a rail, the free tier, or shadow mode."""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from fastapi_tollbooth.errors import CredentialRefused, PaymentRequired, Refusal
from fastapi_tollbooth.guard import guarded
from fastapi_tollbooth.rails import Receipt, Settles
from fastapi_tollbooth.toll import Event, Toll

logger = logging.getLogger("fastapi_tollbooth")

T = TypeVar("T")


class Takers:
    """Everybody who takes money, by the name that their tolls have of them. A toll that is not open stays as it is.

    Args:
        takers: Who they are.
        paid: Is told of each toll that was earned.
        unpaid: Is told of each payer whose money did not come after the handler had done its work.
    """

    def __init__(self, takers: Iterable[Settles], paid: Callable[[Toll], None], unpaid: Callable[[str], None]) -> None:
        self._by_name = {taker.name: taker for taker in takers}
        self._paid = paid
        self._unpaid = unpaid

    async def hold(self, toll: Toll) -> Receipt:
        """Make sure of the money of a metered toll before its response starts.

        Raises:
            PaymentRequired: the money did not come; the toll is void.
            Unavailable: whether it came is unknown; the toll stays open.
        """
        if not toll.is_open:
            return Receipt()
        taker = self._by_name[toll.rail]
        try:
            return await _settled(taker, taker.hold(toll))
        except CredentialRefused as refused:
            raise await self._void_unpaid(toll, refused) from refused

    async def capture(self, toll: Toll) -> Receipt:
        """Earn what a toll costs.

        Raises:
            PaymentRequired: the money did not come; the toll is void.
            Unavailable: whether it came is unknown; the toll stays open.
        """
        if not toll.is_open:
            return Receipt()
        taker = self._by_name[toll.rail]
        toll.is_sealed = True
        try:
            receipt = await _settled(taker, taker.capture(toll))
        except CredentialRefused as refused:
            raise await self._void_unpaid(toll, refused) from refused
        if toll.is_open:  # or who captured it at the same time, as its response ended, was told first
            toll.advance(Event.CAPTURE)
            if toll.payer:
                self._paid(toll)
        return receipt

    async def void(self, toll: Toll) -> None:
        """Give the money of a toll back."""
        if not toll.is_open:
            return
        taker = self._by_name[toll.rail]
        try:
            await _settled(taker, taker.void(toll))
        except Refusal as refusal:
            # The caller's answer is not about this; the toll stays open, and the sweeper voids it.
            logger.error("toll %s could not be voided: %s", toll.id, refusal.reason)
        else:
            toll.advance(Event.VOID)

    async def _void_unpaid(self, toll: Toll, refused: CredentialRefused) -> PaymentRequired:
        await self.void(toll)
        self._unpaid(toll.payer)
        members = {"price": str(toll.price), **refused.members}
        return PaymentRequired(refused.reason, refused.detail, headers=refused.headers, members=members)


def _settled(taker: Settles, settlement: Coroutine[Any, Any, T]) -> Awaitable[T]:
    return guarded(settlement) if taker.settles_elsewhere else settlement
