"""Settling one toll with whoever took its money: a rail, or the free tier."""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi_tollbooth.errors import CredentialRefused, PaymentRequired, Refusal
from fastapi_tollbooth.guard import guarded
from fastapi_tollbooth.rails import Receipt, Settles
from fastapi_tollbooth.toll import Event, Toll

logger = logging.getLogger("fastapi_tollbooth")

T = TypeVar("T")

Unpaid = Callable[[str], None]
"""Is told the name of a payer whose money did not come after the handler had done its work."""


async def hold(taker: Settles, toll: Toll, note_unpaid: Unpaid) -> Receipt:
    """Make sure of the money of an open metered toll before its response starts.

    Raises:
        PaymentRequired: the money did not come; the toll is void.
        Unavailable: whether it came is unknown; the toll stays open.
    """
    try:
        return await _settled(taker, taker.hold(toll))
    except CredentialRefused as refused:
        raise await _unpaid(taker, toll, refused, note_unpaid) from refused


async def capture(taker: Settles, toll: Toll, note_unpaid: Unpaid) -> Receipt:
    """Earn what an open toll costs.

    Raises:
        PaymentRequired: the money did not come; the toll is void.
        Unavailable: whether it came is unknown; the toll stays open.
    """
    try:
        receipt = await _settled(taker, taker.capture(toll))
    except CredentialRefused as refused:
        raise await _unpaid(taker, toll, refused, note_unpaid) from refused
    toll.advance(Event.CAPTURE)
    return receipt


async def void(taker: Settles, toll: Toll) -> None:
    """Give the money of an open toll back."""
    try:
        await _settled(taker, taker.void(toll))
    except Refusal as refusal:
        # The caller's answer is not about this; the toll stays open, and the sweeper voids it.
        logger.error("toll %s could not be voided: %s", toll.id, refusal.reason)
    else:
        toll.advance(Event.VOID)


def _settled(taker: Settles, settlement: Coroutine[Any, Any, T]) -> Awaitable[T]:
    return guarded(settlement) if taker.settles_elsewhere else settlement


async def _unpaid(taker: Settles, toll: Toll, refused: CredentialRefused, note_unpaid: Unpaid) -> PaymentRequired:
    await void(taker, toll)
    note_unpaid(toll.payer)
    members = {"price": str(toll.price), **refused.members}
    return PaymentRequired(refused.reason, refused.detail, headers=refused.headers, members=members)
