"""What the service needs of a Lightning node, and what it is told."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from fastapi_tollbooth.errors import TollboothError


class LightningUnavailable(TollboothError):
    """The node did not answer, or answered nonsense."""


class InvoiceState(StrEnum):
    """What a node says of an invoice. ``UNKNOWN`` is not ``FAILED``: it may still turn out to be settled."""

    PENDING = "pending"
    SETTLED = "settled"
    EXPIRED = "expired"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Invoice:
    """A BOLT11 invoice that can be paid now."""

    payment_hash: bytes
    bolt11: str
    amount_msat: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class InvoiceStatus:
    """A node's answer about one invoice."""

    state: InvoiceState
    amount_received_msat: int | None = None
    settled_at: datetime | None = None


class LightningBackend(Protocol):
    """A Lightning node that receives the service's money.

    ``recheck_seconds`` is how old the last look at an unpaid invoice may be when the invoice is offered again.
    """

    recheck_seconds: float

    async def create_invoice(self, amount_msat: int, description: str, expiry_seconds: int) -> Invoice:
        """Make an invoice for exactly this amount.

        Raises:
            LightningUnavailable: the node did not answer.
        """
        ...

    async def lookup(self, payment_hash: bytes) -> InvoiceStatus:
        """Say what has become of an invoice.

        Raises:
            LightningUnavailable: the node did not answer.
        """
        ...
