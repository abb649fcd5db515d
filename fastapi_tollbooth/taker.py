"""Settling one toll with whoever took its money: a rail, or the free tier."""

import logging
from collections.abc import Coroutine
from typing import Any

from fastapi_tollbooth.errors import CredentialRefused, PaymentRequired, Refusal
from fastapi_tollbooth.guard import guarded
from fastapi_tollbooth.rails import Receipt, Settles
from fastapi_tollbooth.toll import Event, Toll

logger = logging.getLogger("fastapi_tollbooth")


async def hold(taker: Settles | None, toll: Toll) -> Receipt:
    """Make sure of the money of a metered toll before its response starts.

    Raises:
        PaymentRequired: the money did not come; the toll is void.
        Unavailable: whether it came is unknown; the toll stays open.
    """
    return Receipt() if taker is None or not toll.is_open else await _settled(taker, toll, taker.hold(toll))


async def capture(taker: Settles | None, toll: Toll) -> Receipt:
    """Earn what a toll costs. Doing it again changes nothing.

    Raises:
        PaymentRequired: the money did not come; the toll is void.
        Unavailable: whether it came is unknown; the toll stays open.
    """
    if taker is None or not toll.is_open:
        return Receipt()
    receipt = await _settled(taker, toll, taker.capture(toll))
    toll.advance(Event.CAPTURE)
    return receipt


async def void(taker: Settles | None, toll: Toll) -> None:
    """Give the money of a toll back. Doing it again changes nothing."""
    if taker is None or not toll.is_open:
        return
    settlement = taker.void(toll)
    try:
        await (guarded(settlement) if taker.settles_elsewhere else settlement)
    except Refusal as refusal:
        # The caller's answer is not about this; the toll stays open, and the sweeper voids it.
        logger.error("toll %s could not be voided: %s", toll.id, refusal.reason)
    else:
        toll.advance(Event.VOID)


async def _settled(taker: Settles, toll: Toll, settlement: Coroutine[Any, Any, Receipt]) -> Receipt:
    try:
        return await (guarded(settlement) if taker.settles_elsewhere else settlement)
    except CredentialRefused as refused:
        await void(taker, toll)
        members = {"price": str(toll.price), **refused.members}
        raise PaymentRequired(refused.reason, refused.detail, headers=refused.headers, members=members) from refused
