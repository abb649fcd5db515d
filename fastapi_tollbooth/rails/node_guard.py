"""A Lightning node behind a guard: requests cannot pile up on it, however slow it is."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi_tollbooth.lightning import Invoice, InvoiceStatus, LightningBackend, LightningUnavailable
from fastapi_tollbooth.lightning.checking import request_invoice
from fastapi_tollbooth.single_flight import SingleFlight

T = TypeVar("T")

logger = logging.getLogger("fastapi_tollbooth.lightning")

NEW_INVOICES = 32
LOOK_UPS = 64


class GuardedNode:
    """Bounds how many questions a node is asked at a time and how long each may take. None, no node, never answers.

    What does not get a place is told at once, not queued: a caller who waits for a node that does not answer waits in
    vain. New invoices, which anybody can ask for, have places of their own, so that they never take those of payers.
    """

    def __init__(self, node: LightningBackend | None, network: str | None = None, seconds: float = 10.0) -> None:
        self._node = node
        self._network = network
        self._creating = _Places(NEW_INVOICES, seconds)
        self._rechecking = _Places(NEW_INVOICES, seconds)
        self._asking = _Places(LOOK_UPS, seconds)
        self._looking: SingleFlight[bytes, InvoiceStatus] = SingleFlight()

    @property
    def recheck_seconds(self) -> float:
        """How old the last look at an unpaid invoice may be when it is offered again."""
        return 0.0 if self._node is None else self._node.capabilities.recheck_seconds

    async def create_invoice(self, amount_msat: int, description: str, expiry_seconds: int) -> Invoice:
        """Make an invoice, and make sure of it.

        Raises:
            LightningUnavailable: the node did not answer in time, or is busy.
        """
        return await self._creating.ask(
            request_invoice(self._there(), amount_msat, description, expiry_seconds, network=self._network)
        )

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """Say what has become of an invoice, for somebody who has proof of payment.

        Raises:
            LightningUnavailable: the node did not answer in time, or is busy.
        """
        node = self._there()
        return await self._looking.run(payment_hash, lambda: self._asking.ask(node.lookup(payment_hash)))

    async def recheck(self, payment_hash: bytes) -> InvoiceStatus:
        """Say what has become of an invoice, for somebody who has not paid.

        Raises:
            LightningUnavailable: the node did not answer in time, or is busy.
        """
        if not self.recheck_seconds:
            # One that wants to be asked each time has the answer in memory.
            return await self._there().lookup(payment_hash)
        node = self._there()
        return await self._looking.run(payment_hash, lambda: self._rechecking.ask(node.lookup(payment_hash)))

    def _there(self) -> LightningBackend:
        if self._node is None:
            raise LightningUnavailable("there is no Lightning node")
        return self._node


class _Places:
    def __init__(self, free: int, seconds: float) -> None:
        self._free = free
        self._seconds = seconds

    async def ask(self, question: Coroutine[Any, Any, T]) -> T:
        if self._free <= 0:
            question.close()
            raise LightningUnavailable("the node has enough to do")
        self._free -= 1
        try:
            async with asyncio.timeout(self._seconds):
                return await question
        except LightningUnavailable:
            raise
        except TimeoutError:
            raise LightningUnavailable("the node did not answer in time") from None
        except Exception as error:  # noqa: BLE001 - see below
            # Whatever a node's client raises, the payer's credential must work later; its text may hold the node's key.
            logger.error("the Lightning node's client failed: %s", type(error).__name__)
            raise LightningUnavailable("the node's client failed") from None
        finally:
            self._free += 1
